"""A trial of the arm64 package: unpacked in an emulated Debian, a daemon that gets ready and answers.

usage: sudo ENVIRONMENT/bin/python -m tests.trials.arm64 PACKAGE_arm64.deb QEMU MOSQUITTO [bookworm|trixie]

QEMU is a static qemu-aarch64 (of Debian's qemu-user-static), MOSQUITTO the broker's program of this machine with its
clients beside it. The model is a tiny one with random weights, prepared by ENVIRONMENT: an emulator is too slow for a
real one. Packages are unpacked and not configured, because their scripts would take most of an hour there; those of
edged are the same for all machines, and run in tests/trials/debian_package.py. The kernel learns of arm64's programs in
a namespace of the trial alone, which needs Linux 6.7. Needs root, and `apt install debootstrap`. Prints what it saw.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import odd_models, tiny
from tests.support.broker import free_port
from tests.trials.box import CACHE, expect, say, until
from tests.trials.images import ROOT, Broker, output

CPU = "cortex-a72"  # of a Raspberry Pi 4
_PACKAGES = "python3,libstdc++6"
# How the kernel knows a program of arm64: the first bytes of its file.
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_RUN = "env EDGED_MODEL__ID=tiny EDGED_NODE=arm EDGED_LOG__FORMAT=json"


class Emulated:
    """A root of another machine, whose programs run here."""

    def __init__(self, root: Path, qemu: Path) -> None:
        self.root = root
        self._qemu = qemu.resolve()

    def command(self, line: str) -> list[str]:
        """A line of shell in the root, as a command of this machine. It ends with the process that runs it."""
        formats = self.root.with_name("binfmt")
        formats.mkdir(exist_ok=True)
        known = f":arm64:M::{_MAGIC}:{_MASK}:{self._qemu}:FPC"
        prepare = (
            f"mount -t binfmt_misc none {formats} && printf %s {shlex.quote(known)} >{formats}/register"
            f" && mount -t proc proc {self.root}/proc"
        )
        variables = "PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive"
        inside = f"exec env -i {variables} QEMU_CPU={CPU} chroot {self.root} /bin/sh -c {shlex.quote(line)}"
        spaces = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child")
        return ["unshare", *spaces, "--", "sh", "-c", f"{prepare} && {inside}"]

    def run(self, line: str, timeout_s: float = 3600.0) -> str:
        """Run a line of shell; gives what it printed."""
        return output(*self.command(line), timeout_s=timeout_s)


def step(on: Emulated, line: str) -> str:
    """Run a line and say how long it took."""
    began = time.monotonic()
    told = on.run(line)
    say(line[:100], f"{time.monotonic() - began:.0f} s; {(told.splitlines() or [''])[-1][:160]}")
    return told


def fresh_root(release: str, qemu: Path) -> Emulated:
    """A new root: debootstrap fetches the packages once, each trial gets a copy."""
    base, root = CACHE / f"{release}-arm64-base", CACHE / f"{release}-arm64"
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        options = ("--arch=arm64", "--foreign", "--variant=minbase", f"--include={_PACKAGES}")
        output("debootstrap", *options, release, str(base / "root"), timeout_s=1800)
        for package in sorted((base / "root/var/cache/apt/archives").glob("*.deb")):
            output("dpkg", "-x", str(package), str(base / "root"))
            package.unlink()
        (base / "complete").touch()
    shutil.rmtree(root, ignore_errors=True)
    output("cp", "-a", "--reflink=auto", str(base / "root"), str(root))
    return Emulated(root, qemu)


def unpack(on: Emulated, package: Path) -> None:
    """The package's files, and the bytecode that its script would make."""
    output("dpkg", "-x", str(package), str(on.root))
    (on.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    site = on.root / "usr/lib/edged/site-packages"
    output("/usr/bin/python3", "-m", "compileall", "-q", str(site), "-s", str(on.root), "-p", "/", check=False)


def make_bundle(folder: Path) -> Path:
    """A bundle of a tiny random model, by the environment that runs this."""
    model = tiny.make(odd_models.sized(tiny.CONFIGS["qwen3"]))
    checkpoint = odd_models.saved(model, folder / "tiny", odd_models.tokenizer())
    environment = {**os.environ, "CACHE_DIRECTORY": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    for arguments in (("prepare", str(checkpoint)), ("export", str(checkpoint), str(folder / "tiny.tar"))):
        subprocess.run([sys.executable, "-m", "edged", "models", *arguments], check=True, env=environment)
    return folder / "tiny.tar"


def serve(on: Emulated, broker: Broker, log: Path) -> None:
    """A daemon gets ready, answers, and ends in order."""
    began = time.monotonic()
    with log.open("wb") as written:
        line = f"exec {_RUN} EDGED_MQTT__PORT={broker.port} /usr/bin/edged run"
        process = subprocess.Popen(on.command(line), stdout=written, stderr=written)
        try:
            until(
                lambda: process.poll() is not None or '"ready"' in broker.read("edged/arm/status"), "it is ready", 1500
            )
            expect(process.poll() is None, "ready", f"after {time.monotonic() - began:.0f} s")
            asked = time.monotonic()
            answer = broker.ask("edged/arm/in/message", "I love this phone")
            took = f"{time.monotonic() - asked:.1f} s; {str(answer)[:160]}"
            expect(answer["status"] == "ok", "a message is answered", took)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGTERM)
            expect(process.wait(300) == 0, "SIGTERM ends it in order", f"exit {process.returncode}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            print(log.read_text()[-1500:])


def main() -> None:
    package, qemu, mosquitto = map(Path, sys.argv[1:4])
    release = sys.argv[4] if len(sys.argv) > 4 else "bookworm"
    with tempfile.TemporaryDirectory(prefix="edged-arm64-") as name:
        work = Path(name)
        bundle = make_bundle(work)
        on = fresh_root(release, qemu)
        unpack(on, package)
        shutil.copy(bundle, on.root / "tiny.tar")
        say("box", on.run(". /etc/os-release; echo $PRETTY_NAME $(uname -m)"))
        step(on, "edged --version")
        step(on, "edged models import /tiny.tar --name tiny")
        broker = Broker(mosquitto, work, free_port())
        try:
            serve(on, broker, work / "log")
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
