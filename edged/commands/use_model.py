"""Makes a model the one of the settings file, and has systemd start the service with it.

Knows nothing of models: it takes a name.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from edged.errors import ModelUnavailable, SettingsError
from edged.settings.load import OF_THE_SYSTEM, settings_file
from edged.settings.text import toml_of

_SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)
_UNIT = "edged.service"


def use(name: str, named_file: Path | None) -> str:
    """Write the model's name into the settings file; as root on a box with systemd, also start the service with it.

    Args:
        name: the model.
        named_file: the settings file of the command line, if one was named.

    Returns:
        What was done, in words.

    Raises:
        SettingsError: there is no settings file, or it cannot be changed.
        ModelUnavailable: the service does not start with this model.
    """
    path = settings_file(named_file)
    if path is None:
        raise SettingsError(f"there is no settings file to write {name} into; serve it with EDGED_MODEL__ID={name}")
    try:
        text = path.read_text()
        path.write_text(with_model(text, name))
    except OSError as error:
        raise SettingsError(f"the settings file {path}: {error.strerror}") from error
    systemctl = shutil.which("systemctl")
    if path != OF_THE_SYSTEM or systemctl is None or os.geteuid() != 0 or not _SYSTEMD_RUNS.is_dir():
        return f"{path} names it from now on"
    if subprocess.run([systemctl, "restart", _UNIT], check=False).returncode:
        raise ModelUnavailable(f"{_UNIT} does not start with {name}; to see why: journalctl -u {_UNIT} -n 20")
    return f"{path} names it from now on, and {_UNIT} serves it"


def with_model(text: str, name: str) -> str:
    """The text of a settings file with another model; all else stays as it was. Pure.

    Raises:
        SettingsError: the file is written in a form that this does not change.
    """
    line = toml_of({"id": name})
    heading = re.search(r"^[ \t]*\[[ \t]*model[ \t]*\][^\n]*\n?", text, re.MULTILINE)
    if heading is None:
        changed = f"{text.rstrip()}\n\n[model]\n{line}".lstrip()
    else:
        head, section = text[: heading.end()], text[heading.end() :]
        following = re.search(r"^[ \t]*\[", section, re.MULTILINE)
        end = len(section) if following is None else following.start()
        section, rest = section[:end], section[end:]
        found = re.search(r"^[ \t]*id[ \t]*=.*\n?", section, re.MULTILINE) or re.search(
            r"^#[ \t]*id[ \t]*=.*\n?", section, re.MULTILINE
        )
        at = (0, 0) if found is None else found.span()
        changed = f"{head.rstrip()}\n{section[: at[0]]}{line}{section[at[1] :]}{rest}"
    if _model_of(changed) != name:
        raise SettingsError(f"this settings file cannot be changed by a program; write into it, below [model]: {line}")
    return changed


def _model_of(text: str) -> Any:
    try:
        return tomllib.loads(text)["model"]["id"]
    except (tomllib.TOMLDecodeError, TypeError, KeyError):
        return None
