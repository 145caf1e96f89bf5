"""The house: its rooms in order, and the only places that may know a library, the environment or a resource."""

import ast
import functools
from pathlib import Path

import edged

ROOT = Path(edged.__file__).parent

# The folders and files of edged/. A room imports only rooms above it.
ROOMS = """
    errors logs extras progress
    tasks
    ports
    contract
    settings
    state_files
    models
    journal mqtt engine
    monitoring
    serving
    fleet http
    build
    client daemon testing
    bench evaluation
    commands
    __main__
"""
MOST_FLOORS = 9  # one upon the other, below `__main__`, which only calls the commands

PURE = {"tasks", "ports", "contract"}  # they may import these, and no resource
PURE_FILES = {"settings.schema", "mqtt.delivery", "mqtt.events", "mqtt.limits", "mqtt.reconnect", "mqtt.subscriptions"}
PURE_FILES |= {"fleet.policy", "engine.scheduler", "engine.prefix_cache", "serving.job"}
RESOURCES = {"asyncio", "logging", "os", "select", "signal", "socket", "ssl", "subprocess", "threading", "time"}
RESOURCES |= {"structlog", "torch", "transformers", "numpy", "psutil", "sqlite3"}
KEPT_IN = {
    "paho": "mqtt.connection",
    "torch": "engine",
    "transformers": "engine",
    "safetensors": "engine",
    "gguf": "engine.weights",
    "accelerate": "engine",
    "tokenizers": "engine",
    "jinja2": "engine.chat_template",
    "sqlite3": "journal",
    "httpx2": "engine.remote",
    "redis": "journal.redis",
    "pydantic_settings": "settings.environment",
    "prometheus_client": "monitoring.prometheus",
    "starlette": "http",
    "uvicorn": "http.server",
    "rich": "commands.top_view",
    "llguidance": "engine.constrain",
    "huggingface_hub": "models",
    "fasttext": "serving.identify",
}

RANK = {room: rank for rank, line in enumerate(ROOMS.split("\n")) for room in line.split()}
TREES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in ROOT.rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The modules that `module` imports, wherever in it, by their full names."""
    found: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_beside(module: str) -> set[str]:
    """The other rooms that `module` imports from."""
    rooms = {each.split(".")[1] for each in imports(module) if each.startswith("edged.")}
    return rooms & RANK.keys() - {module.split(".", maxsplit=1)[0]}


@functools.cache
def floor(room: str) -> int:
    below = {each for module in TREES if module.split(".")[0] == room for each in rooms_beside(module)}
    return 1 + max(map(floor, below), default=0)


def test_every_room_has_its_place() -> None:
    assert {module.split(".")[0] for module in TREES} - {"__init__"} == set(RANK)


def test_a_room_imports_only_rooms_above_it() -> None:
    for module in TREES.keys() - {"__init__"}:
        for other in rooms_beside(module):
            assert RANK[other] < RANK[module.split(".")[0]], f"{module} imports {other}"


def test_few_floors_stand_upon_each_other() -> None:
    assert max(map(floor, RANK.keys() - {"__main__"})) <= MOST_FLOORS


def test_pure_modules_know_no_resource() -> None:
    for module in TREES:
        if module in PURE_FILES or module.split(".")[0] in PURE:
            assert not {each.split(".")[0] for each in imports(module)} & RESOURCES, module


def test_libraries_stay_where_they_belong() -> None:
    for module in TREES:
        for library in {each.split(".")[0] for each in imports(module)} & KEPT_IN.keys():
            assert f"{module}.".startswith(f"{KEPT_IN[library]}."), f"{module} imports {library}"


def test_only_settings_read_the_environment() -> None:
    readers = {"environ", "environb", "getenv", "getenvb"}
    for module in TREES.keys() - {"settings.load"}:
        names = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        names |= {each.rpartition(".")[2] for each in imports(module)}
        assert not names & readers, module
