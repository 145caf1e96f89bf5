"""`edged backup` and `edged restore`: options, journal and settings of a box in one file, without secrets."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.commands.options import add_command, flags_of, to_standard_error
from edged.errors import BackupFault, ExitCode, SettingsError

if TYPE_CHECKING:
    from edged.settings.load import Loaded


def add(commands: Any) -> None:
    """Add both commands to the parser."""
    backup = add_command(
        commands,
        "backup",
        _backup,
        "write settings (without secrets), options and journal to one file, also while the daemon runs",
        "edged backup box.zip --config /etc/edged/edged.toml",
    )
    backup.add_argument("file", type=Path, help="the file to write; it must not be there")
    backup.add_argument("--without-journal", action="store_true", help="leave out results and conversations")
    restore = add_command(
        commands,
        "restore",
        _restore,
        "put a backup back while the daemon is stopped; all of it is checked before anything is replaced",
        "edged restore box.zip --settings --config /etc/edged/edged.toml",
    )
    restore.add_argument("file", type=Path, help="as `edged backup` or R/request/backup wrote it")
    restore.add_argument(
        "--settings",
        action="store_true",
        dest="with_settings",
        help="replace the settings file too; secrets in the present one stay",
    )


def _loaded(options: argparse.Namespace) -> "Loaded":
    from edged.settings import load

    return load.load_with_sources(flags=flags_of(options), config_file=options.config, warn=to_standard_error)


def _backup(options: argparse.Namespace) -> ExitCode:
    from edged.serving.backup import Sources, make_backup

    loaded = _loaded(options)
    settings = loaded.settings
    file = None if loaded.given.path is None else loaded.given.file
    sources = Sources(node=settings.node, settings=file, state_dir=settings.state_dir)
    made = make_backup(sources, with_journal=not options.without_journal, wall_time=time.time())
    try:
        with options.file.open("xb") as opened:
            options.file.chmod(0o600)  # conversations are in it
            opened.write(made)
    except OSError as error:
        raise BackupFault(f"{options.file}: {error.strerror}") from error
    print(f"{options.file}, {len(made)} bytes")
    return ExitCode.DONE


def _restore(options: argparse.Namespace) -> ExitCode:
    from edged import build
    from edged.fleet.instance_lock import InstanceLock
    from edged.serving.backup import read_backup, restore
    from edged.settings import load

    backup = read_backup(options.file)
    loaded = _loaded(options)
    settings, path = loaded.settings, loaded.given.path
    if options.with_settings and path is None:
        raise SettingsError("--settings: there is no settings file; name it with --config")
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    root = build.topics_of(settings).root
    lock = InstanceLock(settings.state_dir, root=root, identity=build.identity_of(settings))
    lock.acquire()
    try:
        written = restore(
            backup,
            state_dir=settings.state_dir,
            settings_file=path if options.with_settings else None,
            check=lambda file, kept: load.check(flags=flags_of(options), file=file, path=path, options=kept),
        )
    finally:
        lock.release(in_order=False)
    print(f"the backup of {backup.node}, made {backup.time}:")
    for each in written:
        print(f"  {each}")
    return ExitCode.DONE
