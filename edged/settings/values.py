"""Forms that several settings have in common: paths, hosts, levels of topics. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo

from edged.tasks.languages.own import CODE

NAME = r"^[^/+#$\x00-\x1f\x7f][^/+#\x00-\x1f\x7f]*$"  # one topic level
FROM_ROOT = r"^/"
HTTP = r"^https?://[^@]+$"
# The rules of the patterns in words; the settings of tasks use them too.
RULES: Mapping[str, str] = {
    NAME: "it is one level of a topic: at least one character, no '/', '+', '#' or control character, "
    "and no '$' at the beginning",
    CODE: "it is the code of a language, two or three small letters (ISO 639-1), as in en",
    FROM_ROOT: "it begins with '/'",
    HTTP: "it begins with http:// or https://, and has no user and password ('@') in it",
}


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def header_key(key: SecretStr | None) -> SecretStr | None:
    """A key as it goes into a header of HTTP, without the line end of its file; None if it is empty.

    Raises:
        ValueError: HTTP would refuse it, with an error that shows the key.
    """
    bare = None if key is None else key.get_secret_value().strip()
    if bare and not (bare.isascii() and bare.isprintable() and " " not in bare):
        raise ValueError("a key has neither spaces nor control characters, and is ASCII")
    return SecretStr(bare) if bare else None


def at_home(path: Path, info: ValidationInfo) -> Path:
    """Replace a leading `~` by the function of the context: only `load.py` may read the environment."""
    expand = (info.context or {}).get("expand")
    if expand is None or not str(path).startswith("~"):
        return path
    try:
        return Path(expand(str(path)))
    except RuntimeError:
        raise ValueError("there is no such user, or the user has no home; write the whole path") from None


def checked_host(host: str) -> str:
    """A host name or address as the system takes it: an IPv6 address loses its brackets.

    Raises:
        ValueError: no host can have this name.
    """
    if re.fullmatch(r"\[[^]]*\](:\d+)?|[^:/]+:\d+", host) and not host.endswith("]"):
        raise ValueError("the host only; its port is a setting of its own")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("only an IPv6 address stands in brackets") from None
    if re.search(r"[\s'\"\[\]]", host):
        raise ValueError("a host name has no spaces, quotes or brackets")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("it is no host name: between its dots are 1 to 63 characters") from None
    return host


def _possible(path: object) -> object:
    if path == "":  # else it would mean the current folder
        raise ValueError("an empty path; leave the setting out to have its default")
    if "\0" in str(path):
        raise ValueError("a path has no NUL character")
    return path


UserPath = Annotated[Path, BeforeValidator(_possible), AfterValidator(at_home)]
