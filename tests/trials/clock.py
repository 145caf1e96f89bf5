"""A trial of a clock that jumps: a box without a battery for its clock boots in the past, and learns the time later.

usage: sudo python3 -m tests.trials.clock PACKAGE.deb BUNDLE.tar LIBFAKETIME.so [bookworm|trixie]

A container has the clock of its host, so the daemon's own is moved by a library (libfaketimeMT.so.1 of Debian's package
libfaketime): the time of day jumps, the monotonic clock goes on, as in a real box. Prints what it saw.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

from tests.trials.box import Box, box, expect, say
from tests.trials.systemd_boot import HERE, ask, ask_many, drop_in, install, is_ready, state, told

_CLOCK = "/var/cache/edged/clock"
_UNIT = f"""\
[Service]
Environment=LD_PRELOAD=/usr/lib/libfaketime.so FAKETIME_TIMESTAMP_FILE={_CLOCK} FAKETIME_NO_CACHE=1
Environment=FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1 NO_FAKE_STAT=1
Environment=EDGED_HEALTH__INTERVAL=2
"""


def set_clock(on: Box, offset: str) -> None:
    """Move the daemon's clock, in one step."""
    on.run(f"printf '%s\\n' '{offset}' >{_CLOCK}.new; chown edged {_CLOCK}.new; mv {_CLOCK}.new {_CLOCK}")


def year_told(on: Box) -> str:
    """The year of the daemon's newest answer."""
    said = on.output("mosquitto_rr -V 5 -q 1 -W 30 -e edged/app/replies -t edged/box/in/sentiment -m 'I love it'")
    return str(json.loads(said)["time"])[:4]


def stays(on: Box, pid: str, what: str) -> None:
    """The same process is ready and answers, for longer than its watchdog waits."""
    until_then = time.monotonic() + 100
    states = set()
    while time.monotonic() < until_then:
        states.add(state(on))
        time.sleep(2)
    expect(ask(on) == "positive", f"{what}: a message is answered", year_told(on))
    facts = [on.unit("MainPID") == pid, on.unit("NRestarts"), sorted(states)]
    expect(facts == [True, "0", ["ready"]], f"{what}: ready all the time, by the same process", str(facts[2]))


def jump(on: Box, offset: str, what: str) -> None:
    """A jump while requests are answered, half of them with a deadline by the sender."""
    pid = on.unit("MainPID")
    ask_many(on, 100, 20)
    time.sleep(2)
    set_clock(on, offset)
    outcome = told(on)
    expect(
        outcome["answered"] == outcome["asked"] and not outcome["errors"],
        f"{what}: all requests are answered once",
        json.dumps(outcome),
    )
    stays(on, pid, what)


def main() -> None:
    package, bundle, library = map(Path, sys.argv[1:4])
    release = sys.argv[4] if len(sys.argv) > 4 else "bookworm"
    with box(release, f"{release}-clock") as on:
        trial = on.root / "trial"
        trial.mkdir()
        for source, name in ((package, "package.deb"), (bundle, "bundle.tar"), (HERE / "ask_many.py", "ask_many.py")):
            shutil.copy(source, trial / name)
        shutil.copy(library, on.root / "usr/lib/libfaketime.so")
        say("booted", f"{on.boot():.0f} s")
        install(on, "package.deb")
        drop_in(on, "clock", _UNIT)
        set_clock(on, "-1200d")
        on.run("systemctl start mosquitto edged")
        is_ready(on)
        expect(year_told(on) < time.strftime("%Y"), "it starts in the past", year_told(on))
        said = on.output("mosquitto_rr -V 5 -q 1 -W 30 -e edged/app/replies -t edged/box/in/message/s -m 'I am Ann'")
        expect('"ok"' in said, "a turn of a conversation before the jump")
        jump(on, "+0", "the clock is set, 1,200 days on")
        jump(on, "-1h", "the clock goes back by an hour")
        jump(on, "+0", "and on again")
        asked = on.output(
            "mosquitto_sub -W 20 -C 1 -t edged/box/response/session & sleep 1; mosquitto_pub -t "
            'edged/box/request/session -m \'{"session":"s"}\'; wait'
        )
        say("the conversation that began in the past", re.sub(r"\s+", " ", asked)[:200])
        log = on.output("journalctl -u edged -o cat -p warning --no-pager | tail -n 5", check=False)
        say("the log's warnings", log[-600:])


if __name__ == "__main__":
    main()
