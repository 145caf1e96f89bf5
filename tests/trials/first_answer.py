"""A trial of the ways from a fresh Debian to the first answer, in a booted box: by package and by sources.

usage: sudo python3 -m tests.trials.first_answer package PACKAGE.deb BUNDLE.tar [bookworm|trixie]
       sudo python3 -m tests.trials.first_answer sources WHEELS MODEL.gguf [bookworm|trixie]
       sudo python3 -m tests.trials.first_answer serve WHEELS BUNDLE.tar [bookworm|trixie]

The box is booted by systemd-nspawn and has no network, so what `apt` and `pip` would fetch is brought along: WHEELS is
a folder with wheels of all that install.sh takes; `serve` is the installation without torch. Prints what it saw.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.trials.box import Box, box, expect, say, until

ROOT = Path(__file__).parents[2]
LEFT_OVER = r"find / -xdev -iname '*edged*' -not -path '/proc/*' -not -path '/trial/*' | LC_ALL=C sort"


def step(on: Box, command: str) -> str:
    """One of the commands that a person would type; gives what it printed."""
    began = time.monotonic()
    told = on.output(command, timeout_s=1800)
    say(command, f"{time.monotonic() - began:.0f} s; {(told.splitlines() or [''])[-1][:160]}")
    return told


def answered(on: Box) -> None:
    """The third command, and what it says of the service."""
    told = json.loads(step(on, "edged ask --json 'I love this phone'"))
    expect(told["sentiment"]["label"] == "positive", "the answer", json.dumps(told)[:200])
    facts = [on.unit("ActiveState"), on.unit("SubState"), on.unit("UnitFileState"), on.unit("NRestarts")]
    expect(facts == ["active", "running", "enabled", "0"], "the service", " ".join(facts))


def by_package(on: Box, package: str, bundle: str) -> None:
    """Install, bring a model, ask."""
    step(on, f"dpkg -i {package}")
    step(on, f"edged models import {bundle} --name smollm2 --use")
    answered(on)
    named = on.output("grep -n '^id = ' /etc/edged/edged.toml")
    expect(named.endswith('id = "smollm2"'), "the settings name the model", named)


def by_sources(on: Box, wheels: str, model: str) -> None:
    """Install as a service with a model."""
    install = f"{offline(wheels)} --model {model}"
    step(on, install)
    as_service(on, install)


def by_sources_to_serve(on: Box, wheels: str, bundle: str) -> None:
    """Install without torch: the model comes as a bundle, and the service once it is there."""
    install = f"{offline(wheels)} --serve --model smollm2"
    told = on.run(install, check=False, timeout_s=1800)
    expect(told.returncode == 1, "without a model there is no service yet", told.stdout.splitlines()[-1])
    step(on, f"edged models import {bundle} --name smollm2")
    step(on, install)
    as_service(on, install)


def offline(wheels: str) -> str:
    """The installer's command in a box without network."""
    return f"PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels} sh /trial/src/deploy/install.sh --system --wheelhouse {wheels}"


def as_service(on: Box, install: str) -> None:
    """Check, ask, install once more; then remove all of it."""
    checked = step(on, "edged check --config /etc/edged/edged.toml")
    expect("FAIL" not in checked, "edged check finds nothing", checked.splitlines()[-1])
    answered(on)
    pid = on.unit("MainPID")
    step(on, install)
    until(lambda: on.unit("ActiveState") == "active", "the service runs")
    expect(on.unit("MainPID") != pid, "installed once more: the service was restarted")
    answered(on)
    step(on, "sh /trial/src/deploy/system.sh uninstall --purge")
    expect(on.output(LEFT_OVER) == "", "removed: nothing left", on.output(LEFT_OVER))


def main() -> None:
    ways = {"package": by_package, "sources": by_sources, "serve": by_sources_to_serve}
    way, first, second = ways[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    release = sys.argv[4] if len(sys.argv) > 4 else "bookworm"
    with box(release, f"{release}-{sys.argv[1]}") as on:
        trial = on.root / "trial"
        trial.mkdir()
        (shutil.copytree if first.is_dir() else shutil.copy)(first, trial / first.name)
        shutil.copy(second, trial)
        sources = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, stdout=subprocess.PIPE).stdout
        (trial / "src").mkdir()
        subprocess.run(["tar", "-C", str(trial / "src"), "-x"], input=sources, check=True)
        say("booted", f"{on.boot():.0f} s; {on.output('. /etc/os-release; echo $PRETTY_NAME')}")
        until(lambda: on.unit("ActiveState", "mosquitto") == "active", "the broker runs")
        way(on, f"/trial/{first.name}", f"/trial/{second.name}")


if __name__ == "__main__":
    main()
