"""The house of the design page: who may import whom. Every module is in one list."""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import edged

ROOT = Path(edged.__file__).parent


def modules(text: str) -> set[str]:
    return {f"edged.{name}" for name in text.split()}


PURE = {"edged"} | modules(
    "errors text sentences reply_text conversation work tasks prompts calibration topics group wire answer job sessions"
    " settings settings_text ports presets metrics bench_report evaluation task_settings remote_answers"
    " mqtt mqtt.settlement mqtt.inbox mqtt.outbox mqtt.reconnect"
    " engine engine.scheduler engine.prefix_cache engine.detokenize"
)
RESOURCES = modules(
    "config subscribed pace logs models journal redis_journal remote remote_connection systemd system bandwidth"
)
ROOMS = ("edged.mqtt.", "edged.engine.", "edged.remote")  # floor 1 too, of several files each
BEHAVIOUR = modules(
    "worker recorder responder control health info discovery membership prometheus asyncapi testing workloads"
)
TOP = modules("daemon lookout client demo bench coldstart evaluate check top cli __main__")

OUTSIDE = {"asyncio", "logging", "os", "select", "signal", "socket", "ssl", "subprocess", "time"}
KEPT_IN = {  # a library, and the only places that may know it
    "paho": ("edged.mqtt.connection",),
    "torch": ("edged.engine.",),
    "transformers": ("edged.engine.",),
    "safetensors": ("edged.engine.",),
    "gguf": ("edged.engine.",),
    "accelerate": ("edged.engine.",),
    "sqlite3": ("edged.journal",),
    "httpx2": ("edged.remote_connection",),
    "redis": ("edged.redis_journal",),
    "pydantic_settings": ("edged.config",),
    "prometheus_client": ("edged.prometheus",),
    "rich": ("edged.top",),
    "llguidance": ("edged.engine.constrain",),
    "huggingface_hub": ("edged.models",),
}


def name_of(path: Path) -> str:
    return ".".join(("edged", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Every module that `module` imports, wherever in it, by its full name."""
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            whole = f"{node.module}."
            yield from (whole + a.name if whole + a.name in TREES else str(node.module) for a in node.names)


def outsiders(module: str, *, allowed: set[str], room: str = "-") -> set[str]:
    """What `module` imports of edged without leave."""
    ours = {each for each in imports(module) if each.split(".")[0] == "edged"}
    return {each for each in ours - allowed if not each.startswith(room)}


def test_every_module_has_its_floor() -> None:
    lists = (PURE, RESOURCES, BEHAVIOUR, TOP)
    assert sum(map(len, lists)) == len(set().union(*lists))
    assert {each for each in TREES if not each.startswith(ROOMS)} <= set().union(*lists)


def test_floor_0_is_pure() -> None:
    for module in PURE & TREES.keys():
        assert not outsiders(module, allowed=PURE), module
        foreign = {each.split(".")[0] for each in imports(module)} - {"edged", "pydantic"}
        assert foreign <= sys.stdlib_module_names - OUTSIDE, module


def test_floor_1_knows_floor_0_and_its_own_room() -> None:
    for module in TREES.keys() - PURE - BEHAVIOUR - TOP:
        room = next((each for each in ROOMS if module.startswith(each)), "-")
        assert not outsiders(module, allowed=PURE, room=room), module


def test_floor_2_knows_no_resource() -> None:
    for module in BEHAVIOUR & TREES.keys():
        assert not outsiders(module, allowed=PURE | BEHAVIOUR), module


def test_no_floor_knows_the_top() -> None:
    for module in TREES.keys() - TOP:
        assert not set(imports(module)) & TOP, module


def test_libraries_stay_where_they_belong() -> None:
    for module in TREES:
        for library, places in KEPT_IN.items():
            if library in {each.split(".")[0] for each in imports(module)}:
                assert module.startswith(places), f"{module} imports {library}"


def test_only_config_reads_the_environment() -> None:
    readers = {"environ", "environb", "getenv", "getenvb"}
    for module in TREES.keys() - {"edged.config"}:
        names = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        names |= {a.name for node in ast.walk(TREES[module]) if isinstance(node, ast.ImportFrom) for a in node.names}
        assert not names & readers, module
