"""A trial of the service in a booted Debian: what a test that reads the units cannot see.

usage: sudo python3 -m tests.trials.systemd_boot PACKAGE.deb BUNDLE.tar [bookworm|trixie]

Boots the package's box by systemd-nspawn and prints what it saw: a start without broker, notify, reload, hardening, a
hung engine, crash loops, stop and upgrade under load, two instances, a power cut. Takes some ten minutes.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.trials.box import Box, NotAsExpected, box, expect, made_up_earlier, say, until

HERE = Path(__file__).parent
ASK = "mosquitto_rr -V 5 -q 1 -W 30 -e edged/app/replies -D publish correlation-data trial"
EXPOSURE = 1.5


def state(on: Box, node: str = "box") -> str:
    """What the daemon's retained status says."""
    said = on.output(f"mosquitto_sub -W 2 -C 1 -t edged/{node}/status", check=False)
    found = re.search(r'"state":"(\w+)"', said)
    return found[1] if found else ""


def ask(on: Box, node: str = "box") -> str:
    """One message through MQTT; gives the label."""
    said = on.output(f"{ASK} -t edged/{node}/in/message -m 'I love this phone'", timeout_s=60)
    label: str = json.loads(said)["sentiment"]["label"]
    return label


def is_ready(on: Box, node: str = "box") -> float:
    """Wait for `ready`."""
    return until(lambda: state(on, node) == "ready", f"{node} is ready")


def drop_in(on: Box, name: str, text: str) -> None:
    """Change the unit as an operator would."""
    folder = on.root / "etc/systemd/system/edged.service.d"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conf").write_text(text)
    on.run("systemctl daemon-reload")


def ask_many(on: Box, count: int, per_second: int, timeout_s: int = 120) -> None:
    """Begin to send requests in the background; `told` waits for the outcome."""
    (on.root / "trial/told.json").unlink(missing_ok=True)
    command = f"/usr/lib/edged/bin/python /trial/ask_many.py box {count} {per_second} {timeout_s}"
    on.run(f"({command} >/trial/told.part 2>&1; mv /trial/told.part /trial/told.json) >/dev/null 2>&1 &")


def told(on: Box) -> dict[str, int]:
    """The outcome of `ask_many`."""
    file = on.root / "trial/told.json"
    until(file.exists, "all requests are answered", 240)
    try:
        outcome: dict[str, int] = json.loads(file.read_text())
    except ValueError as error:
        raise NotAsExpected(file.read_text()) from error
    return outcome


def install(on: Box, package: str) -> None:
    """Install on a running system, bring a model; a fresh box has none, so nothing is started."""
    on.run("systemctl disable --now mosquitto")
    on.run(f"dpkg -i /trial/{package}")
    facts = [on.unit("UnitFileState"), on.unit("ActiveState"), on.unit("NRestarts")]
    expect(facts == ["enabled", "inactive", "0"], "installed without a model: enabled, not started", " ".join(facts))
    on.run("edged models import /trial/bundle.tar --name smollm2 --use")
    expect('\nid = "smollm2"' in on.output("cat /etc/edged/edged.toml"), "the settings name the model")
    on.run("systemctl stop edged")
    on.run("printf edged >/etc/edged/credentials/username; printf secret >/etc/edged/credentials/password")
    on.run("touch /etc/mosquitto/passwords; mosquitto_passwd -b /etc/mosquitto/passwords edged secret")
    on.run("chown mosquitto /etc/mosquitto/passwords")
    on.run(
        "printf 'listener 1883 127.0.0.1\\nallow_anonymous true\\npassword_file /etc/mosquitto/passwords\\n'"
        " >/etc/mosquitto/conf.d/trial.conf"
    )


def start_without_broker(on: Box) -> None:
    """The broker comes later than the daemon."""
    began = time.monotonic()
    on.run("systemctl start edged")
    took = f"{time.monotonic() - began:.1f} s"
    expect(
        on.unit("ActiveState") == "active", "started without a broker, Type=notify", f"{took}; {on.unit('StatusText')}"
    )
    time.sleep(5)
    on.run("systemctl start mosquitto")
    waited = is_ready(on)
    expect(on.unit("NRestarts") == "0", "the broker came later: ready without a restart", f"after {waited:.1f} s")
    expect(ask(on) == "positive", "a message is answered", on.unit("StatusText"))
    memory = on.output(f"grep -E '^(VmRSS|RssAnon|RssFile)' /proc/{on.unit('MainPID')}/status")
    say("memory", " ".join(memory.split()))
    users = on.output("journalctl -u mosquitto -o cat; cat /var/log/mosquitto/mosquitto.log", check=False)
    expect("u'edged'" in users, "the credentials reached the broker")


def confinement(on: Box) -> None:
    """What the unit may not do, as the running kernel has it."""
    said = on.output("systemd-analyze security --no-pager edged.service", check=False)
    found = re.search(r"Overall exposure level .*: ([\d.]+)", said)
    expect(found is not None and float(found[1]) <= EXPOSURE, "exposure", found[0] if found else said)
    pid = on.unit("MainPID")
    status = on.output(f"grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/{pid}/status").replace("\t", " ")
    lines = status.splitlines()
    expect({"NoNewPrivs: 1", "Seccomp: 2", "CapEff: 0000000000000000"} <= set(lines), "kernel", "; ".join(lines))
    inside = f"nsenter -t {pid} -m -- setpriv --reuid=edged --regid=edged --clear-groups"
    for path in ("/etc/edged", "/usr/lib", "/var/lib", "/dev"):
        wrote = on.run(f"{inside} touch {path}/probe", check=False)
        expect(wrote.returncode != 0, f"{path} cannot be written", wrote.stdout.strip())
    seen = on.output(f"{inside} ls -A /root /home 2>&1", check=False)
    expect(
        "denied" in seen or not re.search(r"\w+$", seen.replace("/home:", "")),
        "no home is seen",
        " ".join(seen.split()),
    )
    on.run(f"{inside} touch /var/lib/edged/probe /var/cache/edged/probe")


def reload(on: Box) -> None:
    """`systemctl reload`: the same process with other settings, or the old ones where the new are wrong."""
    pid = on.unit("MainPID")
    on.run("sed -i '/^\\[log\\]/,/^\\[/s|^#\\{0,1\\}level = .*|level = \"debug\"|' /etc/edged/edged.toml")
    on.run("systemctl reload edged")
    until(lambda: "reload" in on.output("journalctl -u edged -o cat -n 20"), "the log tells of it", 20)
    lines = [each for each in on.output("journalctl -u edged -o cat -n 20").splitlines() if "reload" in each]
    expect(on.unit("MainPID") == pid, "reload keeps the process", lines[-1][:160])
    on.run("cp /etc/edged/edged.toml /trial/good.toml; echo 'nonsense = 1' >/etc/edged/edged.toml")
    on.run("systemctl reload edged", check=False)
    time.sleep(2)
    expect(ask(on) == "positive" and on.unit("MainPID") == pid, "wrong settings at a reload: goes on with the old ones")
    on.run("cp /trial/good.toml /etc/edged/edged.toml; systemctl reload edged")


def hung_engine(on: Box) -> None:
    """One thread stands still; the watchdog ends the process, and a new one answers."""
    drop_in(on, "quick", "[Service]\nTimeoutAbortSec=5\nEnvironment=EDGED_HEALTH__PROBE_INTERVAL=2\n")
    on.run("systemctl restart edged")
    is_ready(on)
    ask(on)
    pid = on.unit("MainPID")
    children = on.output(f"grep -h NSpid /proc/{pid}/status")
    host = host_pid(on, int(pid))
    stopper = subprocess.Popen([sys.executable, str(HERE / "stop_thread.py"), str(host)], stdout=subprocess.PIPE)
    try:
        took = until(lambda: on.unit("NRestarts") != "0", "the watchdog acts", 240)
    finally:
        stopper.kill()
        stopper.wait()
    log = on.output("journalctl -u edged -o cat -n 60")
    lines = [each for each in log.splitlines() if "atchdog" in each]
    expect(
        any("Watchdog timeout" in each for each in lines),
        "a hung engine is ended by the watchdog",
        f"{took:.0f} s; {lines[0]}",
    )
    is_ready(on)
    expect(ask(on) == "positive", "and the next process answers", children)


def host_pid(on: Box, pid: int) -> int:
    """What the machine calls a process of the box."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            found = re.search(r"^NSpid:\s+(\d+)\s+(\d+)$", status.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found and int(found[2]) == pid and on.root.name:
            command = (status.parent / "cmdline").read_bytes()
            if b"edged" in command:
                return int(found[1])
    raise NotAsExpected(f"no process {pid} in the box")


def restart_limits(on: Box) -> None:
    """A crash loop ends; what only a person can mend is not tried again."""
    drop_in(on, "quick", "[Service]\nRestartSec=1\n")
    on.run("systemctl reset-failed edged; systemctl restart edged")
    kills = 0
    while on.unit("ActiveState") != "failed":
        if on.unit("MainPID") != "0" and kills < 20:
            on.run("systemctl kill -s KILL edged", check=False)
            kills += 1
        time.sleep(0.5)
    expect(kills < 20, "a crash loop ends", f"{on.unit('NRestarts')} restarts, {on.unit('Result')}")
    on.run("systemctl reset-failed edged")
    drop_in(on, "quick", "[Service]\nEnvironment=EDGED_MODEL__ID=nothing-of-that-name\n")
    failed = on.run("systemctl start edged", check=False)
    time.sleep(8)
    facts = [on.unit("ActiveState"), on.unit("ExecMainStatus"), on.unit("NRestarts")]
    expect(
        failed.returncode != 0 and facts == ["failed", "3", "0"],
        "no such model: exit 3, not tried again",
        " ".join(facts),
    )
    say("the log's last word", on.output("journalctl -t edged -o cat -n 1")[:200])
    (on.root / "etc/systemd/system/edged.service.d/quick.conf").unlink()
    on.run("systemctl daemon-reload; systemctl reset-failed edged; systemctl start edged")
    is_ready(on)


def stop_under_load(on: Box) -> None:
    """A stop finishes or hands back; what was handed back is answered after the next start."""
    ask_many(on, 300, 100)
    time.sleep(1.5)
    began = time.monotonic()
    on.run("systemctl stop edged")
    took = time.monotonic() - began
    facts = [on.unit("ActiveState"), on.unit("Result"), on.unit("ExecMainStatus")]
    expect(facts[:2] == ["inactive", "success"] and took < 60, "stopped under load", f"{took:.1f} s; {' '.join(facts)}")
    expect(state(on) == "stopped", "the retained status says stopped")
    on.run("systemctl start edged")
    outcome = told(on)
    expect(outcome["answered"] == outcome["asked"] and not outcome["errors"], "nothing was lost", json.dumps(outcome))


def upgrade_in_place(on: Box, package: str) -> None:
    """The package is upgraded while requests come."""
    before = on.unit("MainPID")
    ask_many(on, 300, 20)
    time.sleep(2)
    began = time.monotonic()
    on.run(f"dpkg -i /trial/{package}")
    took = time.monotonic() - began
    is_ready(on)
    outcome = told(on)
    expect(on.unit("MainPID") != before, "upgraded in place", f"{took:.1f} s; {on.output('dpkg-query -W edged')}")
    expect(outcome["answered"] == outcome["asked"] and not outcome["errors"], "nothing was lost", json.dumps(outcome))
    on.run("systemctl stop edged; dpkg -i /trial/package.deb")
    expect(on.unit("ActiveState") == "inactive", "a stopped service stays stopped over an upgrade")
    on.run("systemctl start edged")


def two_instances(on: Box) -> None:
    """Two more daemons beside the first, by the template."""
    for name in ("kitchen", "cellar"):
        on.run(f"cp /etc/edged/edged.toml /etc/edged/{name}.toml; systemctl start edged@{name}")
    for name in ("kitchen", "cellar"):
        is_ready(on, name)
        expect(ask(on, name) == "positive", f"edged@{name} answers")
    on.run("dpkg -i /trial/package.deb")
    for name in ("box", "kitchen", "cellar"):
        is_ready(on, name)
    say("all three run again after an upgrade")
    on.run("systemctl stop edged@kitchen edged@cellar")


def full_disk(on: Box) -> None:
    """The journal's disk is full: requests are answered all the same, and the journal comes back by itself."""
    on.run("systemctl reset-failed edged; systemctl stop edged")
    on.run("mount -t tmpfs -o size=3m,mode=700,uid=edged,gid=edged tmpfs /var/lib/edged")
    on.run("systemctl start edged")
    is_ready(on)
    on.run("dd if=/dev/zero of=/var/lib/edged/fill bs=16k 2>/dev/null || true")
    ask_many(on, 40, 20)
    until(lambda: state(on) == "degraded", "a full disk shows as degraded")
    reasons = on.output("mosquitto_sub -W 2 -C 1 -t edged/box/status")
    outcome = told(on)
    expect(outcome["answered"] == 40 and not outcome["errors"], "full disk: answered all the same", json.dumps(outcome))
    expect("journal" in reasons, "and it says so", reasons)
    on.run("rm /var/lib/edged/fill")
    waited = is_ready(on)
    say("room again: ready without a restart", f"after {waited:.0f} s")
    on.run("systemctl stop edged; umount /var/lib/edged; systemctl start edged")
    is_ready(on)


def power_cut(on: Box) -> None:
    """Everything ends at once under load; the next boot serves, and answers what the broker has."""
    on.run("systemctl enable mosquitto")
    ask_many(on, 200, 100)
    time.sleep(1)
    on.cut_power()
    took = on.boot()
    waited = is_ready(on)
    expect(
        ask(on) == "positive",
        "after a power cut the next boot serves",
        f"boot {took:.0f} s, ready {waited:.0f} s later",
    )
    expect(
        on.output("systemctl is-failed edged", check=False) == "active",
        "no unit failed",
        on.output("systemctl --failed --no-legend"),
    )


def purge(on: Box) -> None:
    """Remove and purge on a running system."""
    on.run("dpkg -P edged")
    facts = [on.unit("LoadState"), on.output("pgrep -c -u edged || true")]
    expect(facts == ["not-found", "0"], "purged while it ran: no unit, no process", " ".join(facts))


def main() -> None:
    package, bundle = Path(sys.argv[1]), Path(sys.argv[2])
    release = sys.argv[3] if len(sys.argv) > 3 else "bookworm"
    earlier = made_up_earlier(package)
    with box(release, f"{release}-systemd") as on:
        trial = on.root / "trial"
        trial.mkdir()
        files = {
            "earlier.deb": earlier,
            "package.deb": package,
            "bundle.tar": bundle,
            "ask_many.py": HERE / "ask_many.py",
        }
        for name, source in files.items():
            shutil.copy(source, trial / name)
        took = on.boot()
        name = on.output(". /etc/os-release; echo $PRETTY_NAME; systemctl --version | head -n 1")
        say("booted", f"{took:.0f} s; {', '.join(name.splitlines())}")
        install(on, "earlier.deb")
        start_without_broker(on)
        confinement(on)
        reload(on)
        hung_engine(on)
        restart_limits(on)
        stop_under_load(on)
        upgrade_in_place(on, "package.deb")
        two_instances(on)
        full_disk(on)
        power_cut(on)
        purge(on)


if __name__ == "__main__":
    main()
