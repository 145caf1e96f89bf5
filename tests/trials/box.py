"""A Debian box in a folder, for trials by hand: made by debootstrap, entered by chroot, or booted by systemd-nspawn.

Needs root, and `apt install debootstrap systemd-container`. The trials print what they saw, one line each, and end at
the first thing that is not as it should be.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CACHE = Path(os.environ.get("EDGED_TRIALS", Path(__file__).parents[2] / ".cache" / "trials"))
_PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,libstdc++6,iproute2,procps,mosquitto,mosquitto-clients,"
    "ca-certificates"
)


class NotAsExpected(Exception):
    """A trial saw something else than it should."""


def say(what: str, detail: str = "") -> None:
    """Print one line of a trial's record."""
    print(f"ok  {what}{': ' if detail else ''}{detail}", flush=True)


def expect(condition: bool, what: str, detail: str = "") -> None:
    """Record that something is as it should be, or end."""
    if not condition:
        raise NotAsExpected(f"{what}: {detail}")
    say(what, detail)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 600.0) -> float:
    """Wait until something is so; gives the seconds that it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise NotAsExpected(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - start


def fresh_root(release: str, name: str) -> Path:
    """A new root of a release: debootstrap makes it once (minutes), each trial gets a copy."""
    base, root = CACHE / f"{release}-base", CACHE / name
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(base / "root")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (base / "complete").touch()
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base / "root"), str(root)], check=True)
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/hostname").write_text("box\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost box\n")
    return root


class Box:
    """Commands inside the root: by chroot while it is off, in its own namespaces while it is booted. No network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def run(self, command: str, *, check: bool = True, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a line of shell, with nothing to read from."""
        if self._init:
            enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        else:
            enter = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--"]
            command = f"ip link set lo up; mount -t proc proc /proc; mount -t tmpfs tmpfs /run; {command}"
            enter += ["chroot", str(self.root)]
        path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            [*enter, "env", "-i", path, "LANG=C.UTF-8", "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise NotAsExpected(f"{command}: exit {done.returncode}\n{done.stdout}")
        return done

    def output(self, command: str, *, check: bool = True, timeout_s: float = 300.0) -> str:
        """What a line of shell prints, errors too."""
        return self.run(command, check=check, timeout_s=timeout_s).stdout.strip()

    def unit(self, name: str, unit: str = "edged") -> str:
        """A property of a unit."""
        return self.output(f"systemctl show --value -p {name} {unit}")

    def boot(self) -> float:
        """Boot systemd; gives the seconds until it runs."""
        command = [
            "systemd-nspawn",
            "-q",
            "-D",
            str(self.root),
            "--register=no",
            "--keep-unit",
            "--private-network",
            "-b",
        ]
        with (CACHE / "console.txt").open("ab") as console:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        took = until(lambda: bool(children.exists() and children.read_text().split()), "systemd-nspawn starts", 30)
        self._init = int(children.read_text().split()[0])
        up = ("running", "degraded")
        return took + until(lambda: self.output("systemctl is-system-running", check=False) in up, "the box is up")

    def cut_power(self) -> None:
        """End everything at once."""
        if self._nspawn is not None:
            self._nspawn.kill()
            self._nspawn.wait()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, 9)
            until(lambda: not Path(f"/proc/{self._init}").exists(), "all processes of the box are gone", 30)
        self._nspawn, self._init = None, 0


@contextlib.contextmanager
def box(release: str, name: str) -> Iterator[Box]:
    """A new box, whose processes end with the trial. Its root stays for whoever wants to look."""
    made = Box(fresh_root(release, name))
    try:
        yield made
    finally:
        made.cut_power()


def made_up_earlier(package: Path) -> Path:
    """The package as an earlier release: another version, and one file that the newer one does not have."""
    folder = CACHE / "earlier"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-R", str(package), str(folder)], check=True)
    control = folder / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"{'Version: 0.0.9-1' if each.startswith('Version:') else each}\n" for each in lines))
    (folder / "usr/lib/edged/site-packages/edged/gone.py").write_text("")
    earlier = CACHE / "edged_0.0.9-1.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(folder), str(earlier)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(folder)
    return earlier
