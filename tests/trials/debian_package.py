"""A trial of the Debian package: install, check, upgrade, remove, purge, in a Debian without network.

usage: sudo python3 -m tests.trials.debian_package PACKAGE.deb BUNDLE.tar [bookworm|trixie]

BUNDLE.tar is a model, by `edged models export smollm2-135m-instruct BUNDLE.tar`. Prints what it saw.
"""

import shutil
import sys
from pathlib import Path

from tests.trials.box import Box, box, expect, made_up_earlier, say

LEFT_OVER = r"find / -xdev -iname '*edged*' -not -path '/proc/*' -not -path '/trial/*' | LC_ALL=C sort"


def install(on: Box, package: str) -> None:
    """Install the made-up earlier release."""
    said = on.output(f"dpkg -i /trial/{package}")
    expect("README.Debian" in said, "installed, nothing asked, nothing downloaded", said.splitlines()[-1])
    expect(on.output("edged --version").startswith("edged "), "the command", on.output("edged --version"))
    expect("edged" in on.output("getent passwd edged"), "the user", on.output("getent passwd edged"))
    folders = "/etc/edged/credentials /var/lib/edged /var/cache/edged"
    modes = on.output(f"stat -c '%U %a %n' {folders}").splitlines()
    expect(
        [each.split()[:2] for each in modes] == [["root", "700"], ["edged", "700"], ["edged", "755"]],
        "folders",
        ", ".join(modes),
    )
    conffiles = on.output("dpkg-query -W -f '${Conffiles}' edged")
    expect("/etc/edged/edged.toml" in conffiles, "conffile", conffiles.split()[0])
    expect(on.output("systemctl is-enabled edged") == "enabled", "the unit is enabled")


def upgrade(on: Box, package: str) -> None:
    """Upgrade over settings that an operator has changed."""
    on.run("""sed -i 's/^# node =.*/node = "trial"/' /etc/edged/edged.toml""")
    on.run("python3 -c 'import pathlib; pathlib.Path(\"/etc/edged/credentials/username\").touch()'")
    on.run(f"dpkg -i /trial/{package}")
    expect('node = "trial"' in on.output("cat /etc/edged/edged.toml"), "upgraded; changed settings stay")
    gone = on.output("find /usr/lib/edged -name 'gone*'")
    expect(gone == "", "a file of the earlier release alone is gone", gone)
    stale = on.output("dpkg --verify edged", check=False)
    expect("usr/" not in stale, "all files are those of the package", stale)
    count = on.output("find /usr/lib/edged/site-packages -name '*.pyc' | wc -l")
    expect(int(count) > 0, "compiled for this Python", f"{count} files")


SERVE = """\
export EDGED_MODEL__ID=smollm2
mosquitto -d >/dev/null 2>&1; sleep 1
setpriv --reuid=edged --regid=edged --clear-groups \\
    env STATE_DIRECTORY=/var/lib/edged CACHE_DIRECTORY=/var/cache/edged edged run >/trial/run.txt 2>&1 &
for _ in $(seq 100); do
    mosquitto_sub -W 1 -C 1 -t edged/trial/status 2>/dev/null | grep -q ready && break
done
edged check; echo check: exit $?
kill -TERM $!; wait $!; echo run: exit $?
"""


def answer(on: Box) -> None:
    """Bring a model, and let `edged check` ask a daemon that serves it."""
    say("model", on.output("edged models import /trial/bundle.tar --name smollm2").splitlines()[-1])
    without = on.run("EDGED_MODEL__ID=smollm2 edged check", check=False)
    expect(without.returncode == 4, "edged check without a broker: exit 4", without.stdout.splitlines()[-1])
    checked = on.output(SERVE)
    print(checked)
    expect("check: exit 0" in checked, "edged check with a broker and a daemon")
    expect("run: exit 0" in checked, "SIGTERM ends the daemon in order")


def remove(on: Box, package: str) -> None:
    """Remove, install again, purge."""
    on.run("dpkg -r edged")
    rest = on.output(LEFT_OVER).splitlines()
    expect(
        on.output("ls /usr/lib/edged 2>&1", check=False).endswith("No such file or directory"), "removed: no code left"
    )
    expect('node = "trial"' in on.output("cat /etc/edged/edged.toml"), "removed: settings stay", " ".join(rest))
    expect(on.output("ls /var/cache/edged") != "", "removed: models stay")
    on.run(f"dpkg -i /trial/{package}")
    expect('node = "trial"' in on.output("cat /etc/edged/edged.toml"), "installed again with the same settings")
    on.run("dpkg -P edged")
    rest = on.output(LEFT_OVER).splitlines()
    expect(rest == [], "purged: nothing left", " ".join(rest))


def main() -> None:
    package, bundle = Path(sys.argv[1]), Path(sys.argv[2])
    release = sys.argv[3] if len(sys.argv) > 3 else "bookworm"
    earlier = made_up_earlier(package)
    with box(release, f"{release}-package") as on:
        trial = on.root / "trial"
        trial.mkdir()
        for source, name in ((earlier, "earlier.deb"), (package, "package.deb"), (bundle, "bundle.tar")):
            shutil.copy(source, trial / name)
        say("box", on.output(". /etc/os-release; echo $PRETTY_NAME, $(python3 --version)"))
        install(on, "earlier.deb")
        upgrade(on, "package.deb")
        answer(on)
        remove(on, "package.deb")


if __name__ == "__main__":
    main()
