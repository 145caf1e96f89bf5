"""deploy/Containerfile agrees with the sources. (No container is built here.)"""

import re
from pathlib import Path

from edged.contract.status import State
from edged.settings.text import names, variable

ROOT = Path(__file__).parents[2]
# Without comments, and with continued lines as one.
TEXT = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", (ROOT / "deploy/Containerfile").read_text()))
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in TEXT.splitlines() if line.strip()]


def of(kind: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == kind]


def test_what_it_copies_is_there() -> None:
    sources = [each for rest in of("COPY") if "--from" not in rest for each in rest.split()[:-1]]
    assert sources
    assert [each for each in sources if not (ROOT / each).exists()] == []


def test_what_it_sets_are_settings() -> None:
    given = re.findall(r"\bEDGED_\w+", (ROOT / "deploy/Containerfile").read_text())
    assert {*given} <= {variable(name) for name in names()}


def test_it_runs_as_nobody_special_and_its_health_knows_the_states() -> None:
    assert of("USER") == ["edged"]
    (health,) = of("HEALTHCHECK")
    assert {*re.findall(r"'(\w+)'", health.partition("for each in")[2])} < {str(each) for each in State}
    code = re.search(r'"-c", "(.*)"\]', health)
    assert code is not None
    compile(code[1].replace('\\"', '"'), "HEALTHCHECK", "exec")
