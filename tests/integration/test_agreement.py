"""`edged check` and `edged run` on the same folders, files and settings: both go on, or both tell the same fault.

Both commands run whole in this process, from their arguments to their exit code, with a real broker; a few run as
processes too. Two things are put aside: `check` asks no daemon for an answer, for none runs beside it, and `run` ends
as soon as it is ready. What `run` waits for to get well, as a broker that cannot be reached, counts as its fault.
"""

import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry, Info, start_http_server
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    MiniMaxConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
)

from edged import build, daemon
from edged.commands import checks, cli
from edged.engine import loading
from edged.engine.decoders.interface import Span
from edged.engine.loaded import Loaded
from edged.errors import ExitCode
from edged.fleet import name_clash
from edged.testing import ScriptedEngine
from tests.conftest import log_to_pytest
from tests.support import gguf_writing, tiny
from tests.support import odd_models as odd
from tests.support.broker import Broker, free_port
from tests.support.certificates import make_certificates
from tests.support.daemon import run_edged
from tests.support.waiting import TIMEOUT

DONE, USAGE, MODEL, BROKER = ExitCode.DONE, ExitCode.USAGE, ExitCode.MODEL, ExitCode.BROKER


# --------------------------------------------------------------------------------------------- the two commands


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a command found.

    Attributes:
        code: its exit code; of `run` also that of a fault that it waits for to get well.
        words: why, a line for each fault; empty where all is well.
        output: all that it wrote.
    """

    code: int
    words: str
    output: str


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory(prefix="edged-") as folder:
        broker = Broker(folder=Path(folder))
        broker.start()
        yield broker
        broker.stop()


class Commands:
    """Runs the commands in this process, with an environment of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.link_faults: list[str | None] = []  # of each daemon that became ready

    def check(self, *arguments: str) -> Verdict:
        code, out, err = self._main("check", "--timeout", "2", *arguments)
        failed = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("FAIL")]
        return Verdict(code=code, words="\n".join(failed) or _told(code, err), output=out + err)

    def run(self, *arguments: str) -> Verdict:
        self.link_faults.clear()
        code, out, err = self._main("run", *arguments)
        if code != DONE:
            return Verdict(code=code, words=_told(code, err), output=out + err)
        events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        lasting = [(USAGE, each["reason"]) for each in events if each["event"] in {"state_dir", "journal_fault"}]
        lasting += [(BROKER, fault) for fault in self.link_faults if fault is not None]
        code, words = lasting[0] if lasting else (DONE, "")
        return Verdict(code=code, words=words, output=out + err)

    def _main(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


def _told(code: int, stderr: str) -> str:
    """The lines of the error that ended a command, if one did."""
    lines = [line for line in stderr.splitlines() if not line.startswith(("{", "edged: warning"))]
    return "\n".join(lines).rpartition("edged: ")[2] if code else ""


@pytest.fixture
def commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broker: Broker
) -> Iterator[Commands]:
    commands = Commands(capsys)

    def serve(self: daemon.Daemon) -> None:
        until = time.monotonic() + TIMEOUT
        while (state := self._link.state()).connected_since is None and state.fault is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        commands.link_faults.append(state.fault)

    monkeypatch.setattr(daemon.Daemon, "_serve", serve)
    monkeypatch.setattr(checks, "_answer", lambda *_: "not asked")
    # The waits that are for a slow network, and for a message of a daemon that is not there.
    monkeypatch.setattr(checks, "_STATUS_S", 0.0)
    monkeypatch.setattr(name_clash, "_CONNECT_S", 1.0)
    monkeypatch.setattr(name_clash, "_RETAINED_S", 0.02)
    monkeypatch.setattr(daemon, "_FINAL_S", 1.0)
    for name in [name for name in os.environ if re.match(r"EDGED_|.*_proxy$|CREDENTIALS_", name, re.IGNORECASE)]:
        monkeypatch.delenv(name)
    for name, value in _environment(tmp_path, broker).items():
        monkeypatch.setenv(name, value)
    handlers, signals = logging.getLogger().handlers[:], (signal.SIGTERM, signal.SIGINT)
    level, obeyed = logging.getLogger().level, [signal.getsignal(each) for each in signals]
    yield commands
    for number, handler in zip(signals, obeyed, strict=True):
        signal.signal(number, handler)
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    log_to_pytest()


def _environment(folder: Path, broker: Broker) -> dict[str, str]:
    (folder / "home").mkdir(exist_ok=True)
    return {
        "HOME": str(folder / "home"),
        "EDGED_NODE": "box",
        "EDGED_STATE_DIR": str(folder / "state"),
        "EDGED_MODEL_DIR": str(broker.folder / "models"),  # of all tests: what a warm-up measures is kept there
        "EDGED_MQTT__HOST": "127.0.0.1",
        "EDGED_MQTT__PORT": str(broker.port),
        "EDGED_MODEL__FORMAT": "fp32",
        "EDGED_MODEL__DEVICE": "cpu",
        "EDGED_ENGINE__MAX_NEW_TOKENS": "32",
        "EDGED_ENGINE__THREADS": "1",
    }


def agree(checked: Verdict, ran: Verdict, *, code: int, words: str) -> None:
    """Both end with this code, for the same reason, and without a traceback."""
    for each in (checked, ran):
        assert "Traceback" not in each.output
        assert '"exception"' not in each.output
        assert each.code == code, each.output
    assert re.search(words, ran.words), ran.output
    for line in ran.words.splitlines():
        assert _comparable(line) in _comparable(checked.output)
    assert bool(ran.words) == bool(checked.words) == (code != DONE)


def _comparable(text: str) -> str:
    """Without numbers of free memory."""
    return re.sub(r"\d+ MiB", "N MiB", text)


# ------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True, kw_only=True, slots=True)
class Bases:
    """Whole models, of which the odd ones are made."""

    tokenizer: PreTrainedTokenizerFast
    models: Mapping[str, PreTrainedModel]
    folders: Mapping[str, Path]

    def saved(self, model: PreTrainedModel, folder: Path) -> Path:
        return odd.saved(model, folder, self.tokenizer)


Make = Callable[[Bases, Path], Path | str]  # takes an empty folder; gives EDGED_MODEL__ID


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCase:
    """A model, and what both commands say of it; `like` is the base whose numbers it must give where it is ready."""

    name: str
    make: Make
    code: int = MODEL
    words: str = "^$"
    like: str = ""


_WIDE = {"num_key_value_heads": 4, "max_position_embeddings": 2048}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    words = odd.tokenizer()
    models = {
        "llama": tiny.make(odd.sized(tiny.CONFIGS["llama_biases"])),
        "gemma": tiny.make(  # one of those that transformers runs
            Gemma2Config(
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=16,
                vocab_size=512,
                max_position_embeddings=2048,
            )
        ),
        "wide": tiny.make(LlamaConfig(**{**tiny.CONFIGS["llama"].to_dict(), **_WIDE})),
        "mamba": odd.random_model(MambaConfig(vocab_size=512, hidden_size=16, num_hidden_layers=1, state_size=4)),
    }
    folders = {name: odd.saved(each, tmp_path_factory.mktemp(name), words) for name, each in models.items()}
    return Bases(tokenizer=words, models=models, folders=folders)


def changed(change: Callable[[Path], object], base: str = "llama") -> Make:
    """A base with something done to its folder."""

    def make(bases: Bases, folder: Path) -> Path:
        path = Path(shutil.copytree(bases.folders[base], folder / "model"))
        change(path)
        return path

    return make


def whole(model: Callable[[], PreTrainedModel]) -> Make:
    return lambda bases, folder: bases.saved(model(), folder)


def file(name: str, content: bytes) -> Make:
    def make(_: Bases, folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def gguf(
    change: Callable[[Path], object] = lambda _: None,
    *,
    architecture: str = "llama",
    folder_only: bool = False,
    **more: Any,
) -> Make:
    """The Llama as a GGUF file, or the folder that has it."""

    def make(bases: Bases, folder: Path) -> Path:
        tokens = odd.described(bases.tokenizer, **more.get("tokenizer", {}))
        metadata = {"tokenizer.chat_template": odd.CHATML, **more.get("metadata", {})}
        path = folder / "model.gguf"
        gguf_writing.write(path, bases.models["llama"], architecture, tokenizer=tokens, metadata=metadata)
        change(path)
        return folder if folder_only else path

    return make


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], object]:
    """Keep so many bytes of a file of the folder, or of the file itself."""

    def change(path: Path) -> None:
        path = path / name if name else path
        path.write_bytes(path.read_bytes()[:size])

    return change


def copied(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copy(path, path.with_name(name))


def _sharded(folder: Path, *, lose: bool = False) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, inside in parts.items():
        save_file({name: weights[name] for name in inside}, folder / part, metadata={"format": "pt"})
    where = {name: part for part, inside in parts.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "model.safetensors").unlink()
    if lose:
        (folder / "model-00002-of-00002.safetensors").unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _emptied(folder: Path) -> None:
    for each in folder.iterdir():
        each.unlink()


def _without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


_UP = "model.layers.1.mlp.up_proj.weight"
_NAMED = [{"name": "chatml", "template": odd.CHATML}, {"name": "tool_use", "template": odd.CHATML}]
_DEFAULT = [{"name": "default", "template": odd.CHATML}, {"name": "tool_use", "template": "{{ 1 }}"}]
_ZIP = b"PK\3\4" + bytes(1000)

_TENSORS: Sequence[tuple[str, odd.Change, str]] = (
    ("layer-missing", odd.tensors(lambda w: {k: v for k, v in w.items() if "layers.1." not in k}), "is missing"),
    ("names-of-compile", odd.tensors(lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}), "is missing"),
    ("norm-missing", odd.tensors(lambda w: {k: v for k, v in w.items() if k != "model.norm.weight"}), "is missing"),
    ("nan", odd.tensors(lambda w: w | {_UP: torch.full_like(w[_UP], float("nan"))}), "holds NaN or infinity"),
    ("infinity", odd.tensors(lambda w: w | {_UP: torch.full_like(w[_UP], float("inf"))}), "holds NaN or infinity"),
    ("misshapen", odd.tensors(lambda w: w | {"model.norm.weight": torch.ones(65)}), r"is \(65,\), where"),
    ("layer-too-many", odd.tensors(lambda w: w | {_UP.replace("1", "7"): w[_UP].clone()}), "is not known"),
    ("shallower-config", odd.edit("config.json", num_hidden_layers=1), ".*"),
    ("deeper-config", odd.edit("config.json", num_hidden_layers=5), ".*"),
    ("smaller-vocabulary", odd.edit("config.json", vocab_size=500), ".*"),
    ("bitsandbytes", odd.bitsandbytes, "quantised by bitsandbytes"),
    ("mlx", odd.mlx, r"quantised by MLX \(4 bits\)"),
)

BROKEN = (
    *(
        ModelCase(name=f"{base}-{name}", make=changed(change, base), words=words)
        for base in ("llama", "gemma")
        for name, change, words in _TENSORS
    ),
    # Other kinds of model.
    ModelCase(name="t5", make=whole(odd.t5), words="is an encoder-decoder"),
    ModelCase(name="bert", make=whole(odd.bert), words="is an encoder"),
    ModelCase(
        name="headless", make=whole(lambda: LlamaModel(LlamaConfig(**odd.SMALL))), words="no language model's head"
    ),
    ModelCase(name="labels", make=whole(odd.labels), words="no language model's head"),
    ModelCase(
        name="recurrent-gemma",
        make=whole(
            lambda: odd.random_model(RecurrentGemmaConfig(**{**odd.SMALL, "num_hidden_layers": 3}, lru_width=32))
        ),
        words="sequences would disturb",
    ),
    ModelCase(
        name="minimax",
        make=whole(lambda: odd.random_model(MiniMaxConfig(**odd.SMALL, num_local_experts=2, head_dim=16))),
        words="in a way that is not supported",
    ),
    # Templates, tokenizers, ends.
    ModelCase(
        name="template-syntax",
        make=changed(odd.template("{% for m in messages %}{{ m.content }")),
        words="chat template cannot",
    ),
    ModelCase(
        name="template-undefined", make=changed(odd.template("{{ nobody.knows.this }}")), words="chat template cannot"
    ),
    ModelCase(name="templates-named", make=changed(odd.template(_NAMED)), words="none of them is the default"),
    ModelCase(
        name="template-without-text",
        make=changed(odd.template("{% for m in messages %}{{ m.role }}{% endfor %}")),
        words="leaves out",
    ),
    ModelCase(
        name="eos-beyond", make=changed(odd.edit("generation_config.json", eos_token_id=[0, 600])), words="token 600"
    ),
    ModelCase(name="tokenizer-missing", make=changed(remove("tokenizer.json")), words="no tokenizer"),
    ModelCase(name="tokenizer-empty", make=changed(write("tokenizer.json", "{}")), words="tokenizer .* not understood"),
    ModelCase(name="tokenizer-cut", make=changed(cut("tokenizer.json", 500)), words="tokenizer .* not understood"),
    ModelCase(
        name="tokenizer-config-broken",
        make=changed(write("tokenizer_config.json", "{")),
        words="tokenizer.* not understood",
    ),
    # Folders and files that are something else.
    ModelCase(
        name="fp8",
        make=changed(odd.edit("config.json", quantization_config={"quant_method": "fp8"})),
        words="quantised by fp8",
    ),
    ModelCase(
        name="gptq",
        make=changed(odd.edit("config.json", quantization_config={"quant_method": "gptq"})),
        words="quantised by gptq",
    ),
    ModelCase(name="lora-alone", make=changed(odd.only_adapter), words="LoRA adapter alone"),
    ModelCase(
        name="lora-beside", make=changed(odd.edit("adapter_config.json", peft_type="LORA")), words="LoRA adapter beside"
    ),
    ModelCase(name="onnx", make=changed(odd.only("model.onnx")), words="ONNX Runtime"),
    ModelCase(name="image-model", make=changed(odd.only("model_index.json")), words="image model"),
    ModelCase(name="snapshots", make=changed(odd.only("snapshots/abc/config.json")), words="a folder in it has one"),
    ModelCase(name="empty-folder", make=changed(_emptied), words="is empty"),
    ModelCase(name="pickle-only", make=changed(_pickled), words="pickle"),
    ModelCase(name="pickle-file", make=file("pytorch_model.bin", b"x"), words="is a pickle"),
    ModelCase(name="safetensors-file", make=file("model.safetensors", b"x"), words="is one file of a model's folder"),
    ModelCase(name="text-file", make=file("README.md", b"# A model"), words=".*"),
    ModelCase(name="empty-file", make=file("model.gguf", b""), words="is empty"),
    ModelCase(name="no-such-folder", make=lambda _, folder: folder / "nowhere", words="nowhere"),
    ModelCase(name="no-such-hub-id", make=lambda *_: "nobody/no-such-model", words="edged models pull"),
    ModelCase(name="bare-name", make=lambda *_: "qwen", words="no folder or file that is here"),
    ModelCase(name="name-too-long", make=lambda *_: "q" * 5000, words="no folder or file that is here"),
    ModelCase(name="name-with-nul", make=lambda *_: "a\0b", words="no folder or file that is here"),
    ModelCase(name="nobodys-home", make=lambda *_: "~nobody-here/model", words="no folder or file that is here"),
    ModelCase(name="config-missing", make=changed(remove("config.json")), words="config.json"),
    ModelCase(name="config-broken", make=changed(write("config.json", "{")), words="config.json"),
    ModelCase(name="config-a-list", make=changed(write("config.json", "[]")), words="config.json"),
    ModelCase(
        name="config-unknown-type", make=changed(write("config.json", '{"model_type": "no-such"}')), words="config.json"
    ),
    ModelCase(name="config-of-7-heads", make=changed(odd.edit("config.json", num_attention_heads=7)), words=".*"),
    ModelCase(name="config-of-no-layers", make=changed(odd.edit("config.json", num_hidden_layers=0)), words=".*"),
    ModelCase(name="config-of-text", make=changed(odd.edit("config.json", hidden_size="many")), words=".*"),
    ModelCase(
        name="config-short-context", make=changed(odd.edit("config.json", max_position_embeddings=16)), words="no room"
    ),
    ModelCase(name="weights-missing", make=changed(remove("model.safetensors")), words="no model.safetensors"),
    ModelCase(name="weights-empty", make=changed(cut("model.safetensors", 0)), words="cut short"),
    ModelCase(name="weights-cut", make=changed(cut("model.safetensors", -4)), words="cut short"),
    ModelCase(name="weights-header-cut", make=changed(cut("model.safetensors", 1000)), words="cut short"),
    ModelCase(name="index-broken", make=changed(write("model.safetensors.index.json", "{")), words="damaged"),
    ModelCase(
        name="index-of-elsewhere",
        make=changed(write("model.safetensors.index.json", '{"weight_map": {"a": "../../etc/passwd"}}')),
        words="damaged",
    ),
    ModelCase(name="shard-lost", make=changed(lambda folder: _sharded(folder, lose=True)), words="lacks model-00002"),
    ModelCase(name="generation-config-broken", make=changed(write("generation_config.json", "{")), words="is damaged"),
    # GGUF.
    ModelCase(name="gguf-zip", make=file("model.gguf", _ZIP), words="not a GGUF file"),
    ModelCase(
        name="gguf-big-endian", make=file("m.gguf", b"GGUF" + struct.pack(">I", 3) + bytes(1000)), words="version"
    ),
    ModelCase(name="gguf-4-bytes", make=gguf(cut("", 4)), words="cut short"),
    ModelCase(name="gguf-header-cut", make=gguf(cut("", 1500)), words="cut short"),
    ModelCase(name="gguf-cut", make=gguf(cut("", -1)), words="cut short"),
    ModelCase(name="gguf-gemma2", make=gguf(architecture="gemma2"), words="architecture gemma2"),
    ModelCase(name="gguf-experts", make=gguf(metadata={"llama.expert_count": 8}), words="mixture of experts"),
    ModelCase(name="gguf-yarn", make=gguf(metadata={"llama.rope.scaling.type": "yarn"}), words="rotary embedding"),
    ModelCase(name="gguf-split", make=gguf(metadata={"split.no": 0, "split.count": 2}), words="part 1 of 2"),
    ModelCase(name="gguf-tokenizer", make=gguf(tokenizer={"pre": "unheard-of"}), words="unheard-of"),
    ModelCase(name="gguf-eos", make=gguf(tokenizer={"eos_token_id": 9999}), words=".*"),
    ModelCase(
        name="gguf-template",
        make=gguf(metadata={"tokenizer.chat_template": "{{ nobody.knows }}"}),
        words="chat template",
    ),
    ModelCase(name="ggufs", make=gguf(copied("other.gguf"), folder_only=True), words="several GGUF files"),
    ModelCase(name="gguf-in-folder-cut", make=gguf(cut("", 3000), folder_only=True), words="cut short"),
)

_LEFT_OVER = odd.tensors(lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
_BARE = odd.tensors(lambda w: {name.removeprefix("model."): each for name, each in w.items()})

GOOD = (
    ModelCase(name="llama", make=changed(lambda _: None), like="llama"),
    ModelCase(name="llama-left-over", make=changed(_LEFT_OVER), like="llama"),
    ModelCase(name="llama-bare-names", make=changed(_BARE), like="llama"),
    ModelCase(
        name="llama-tied-by-config", make=changed(odd.edit("config.json", tie_word_embeddings=True)), like="llama"
    ),
    ModelCase(name="llama-sharded", make=changed(_sharded), like="llama"),
    ModelCase(name="llama-without-template", make=changed(_without_template), like="llama"),
    ModelCase(name="llama-default-template", make=changed(odd.template(_DEFAULT)), like="llama"),
    ModelCase(name="llama-without-generation-config", make=changed(remove("generation_config.json")), like="llama"),
    ModelCase(
        name="llama-eos-no-number", make=changed(odd.edit("generation_config.json", eos_token_id="</s>")), like="llama"
    ),
    ModelCase(name="gguf", make=gguf(), like="llama"),
    ModelCase(name="gguf-in-folder", make=gguf(folder_only=True), like="llama"),
    ModelCase(name="gemma", make=changed(lambda _: None, "gemma"), like="gemma"),
    ModelCase(name="gemma-left-over", make=changed(_LEFT_OVER, "gemma"), like="gemma"),
    ModelCase(name="mamba", make=changed(lambda _: None, "mamba"), like="mamba"),
)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_model_that_cannot_be_used_is_refused_in_the_same_words(
    case: ModelCase, bases: Bases, commands: Commands, tmp_path: Path
) -> None:
    chosen = _chosen(case, bases, tmp_path)
    agree(commands.check(*chosen), commands.run(*chosen), code=case.code, words=case.words)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_model_that_is_ready_answers_with_the_numbers_of_its_makers(
    case: ModelCase, bases: Bases, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[loading.Plan] = []
    load = loading.load

    def watched(plan: loading.Plan) -> Loaded[Any]:
        plans.append(plan)
        return load(plan)

    monkeypatch.setattr(loading, "load", watched)
    chosen = _chosen(case, bases, tmp_path)
    agree(commands.check(*chosen), commands.run(*chosen), code=DONE, words="^$")
    tokens = [5, 6, 7]
    with torch.inference_mode():
        model = load(plans[0]).model
        found = model.forward([Span(kv=model.allocate(8), tokens=tokens, wanted=(0, 1, 2))])
        meant = bases.models[case.like](torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(meant), atol=1e-4, rtol=1e-3)


def _chosen(case: ModelCase, bases: Bases, tmp_path: Path) -> tuple[str, str]:
    folder = tmp_path / "odd"
    folder.mkdir()
    return "--set", f"model.id={case.make(bases, folder)}"


# ----------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingsCase:
    """Settings, and what both commands say of them.

    Attributes:
        toml: the text of the settings file; `{folder}` is replaced by the folder of the test.
        flags: given by `--set`, with the same replacement.
        prepare: what is done in the folder before.
        model: the base that is named; with `scripted`, no model is loaded by `run`.
    """

    name: str
    toml: str | bytes = ""
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda _: None
    arguments: Sequence[str] = ()
    model: str = "llama"
    scripted: bool = True
    code: int = USAGE
    words: str = "^$"


def flag(name: str, *flags: str, words: str, **more: Any) -> SettingsCase:
    return SettingsCase(name=name, flags=flags, words=words, **more)


def toml(name: str, text: str | bytes, *, words: str, **more: Any) -> SettingsCase:
    return SettingsCase(name=name, toml=text, words=words, **more)


def variables(name: str, words: str, code: int = USAGE, **given: str) -> SettingsCase:
    return SettingsCase(name=name, environment=given, words=words, code=code)


def _task(body: str, name: str = "a") -> str:
    return f"[tasks.{name}]\n{body}\n"


_CLASSIFY = 'kind = "classify"\nlabels = ["good", "bad"]\nrole = "You judge."'
_EXTRACT = 'kind = "extract"\nsystem = "Take the order."\n'
_CLUSTER = {
    "EDGED_PORT": "tcp://10.0.0.1:9464",
    "EDGED_SERVICE_HOST": "10.0.0.1",
    "EDGED_PORT_9464_TCP_ADDR": "10.0.0.1",
}

WRONG_SETTINGS = (
    variables("env-unknown", "did you mean EDGED_MQTT__HOST", EDGED_MQTT__HOTS="x"),
    variables("env-group", "is no setting", EDGED_MQTT="{}"),
    variables("env-port", "valid integer", EDGED_MQTT__PORT="many"),
    variables("env-port-range", "65535", EDGED_MQTT__PORT="70000"),
    variables("env-transport", "'websockets' or 'unix'", EDGED_MQTT__TRANSPORT="udp"),
    variables("env-topics", "no topic filter", EDGED_MQTT__REPLY_TOPICS="a/#/b"),
    variables("env-json", "EDGED_MQTT__REPLY_TOPICS", EDGED_MQTT__REPLY_TOPICS='["a"'),
    variables("env-node", "one level of a topic", EDGED_NODE="a/b"),
    variables("env-prefix", "prefix", EDGED_PREFIX="$SYS"),
    variables("env-nan", "finite number", EDGED_HEALTH__INTERVAL="nan"),
    variables("env-near-miss", "EDGED_MQTT_HOST", EDGED_MQTT_HOST="10.0.0.1"),
    variables("env-path-empty-user", "no such user", EDGED_STATE_DIR="~nobody-here/state"),
    variables("env-config-missing", "No such file", EDGED_CONFIG="/nowhere/edged.toml"),
    flag("flag-without-value", "mqtt.host", words="write NAME=VALUE"),
    flag("flag-unknown", "mqtt.hots=x", words="did you mean mqtt.host"),
    flag("host-dots", "mqtt.host=a..b", words="no host name"),
    flag("host-with-port", "mqtt.host=broker:1883", words="its port is a setting of its own"),
    flag("host-url", "mqtt.host=mqtt://broker", words="only the name"),
    flag("host-brackets", "mqtt.host=[::1", words="host"),
    flag("websocket-path", "mqtt.websocket_path=mqtt", words="begins with '/'"),
    flag("model-url-alone", "model.url=http://127.0.0.1:1/v1", words="given together"),
    flag("model-url-odd", "model.url=host:8080", words="http://"),
    flag("remote-alone", "model.backend=remote", words="given together"),
    flag("group-is-node", "mqtt.share_group=box", words="needs a name of its own"),
    flag("shards-alone", "mqtt.shards=a", words="set share_group too"),
    flag("journal-alone", "journal.url=redis://127.0.0.1:1", words="set mqtt.share_group too"),
    flag("journal-url", "journal.url=http://x", "mqtt.share_group=team", words="journal.url"),
    flag("new-tokens", "engine.max_new_tokens=4000", words="must be below max_context_tokens"),
    flag("certificate-alone", "mqtt.tls.cert=/c", words="given together"),
    flag("threads", "engine.threads=-1", words="engine.threads"),
    flag("format", "model.format=int3", words="model.format"),
    flag("several", "mqtt.port=0", "queue.capacity=0", "nonsense=1", words="nonsense"),
    toml("toml-syntax", "node = =", words="not valid TOML"),
    toml("toml-deep", "x = " + "[" * 5000, words="not valid TOML"),
    toml("toml-utf-16", 'node = "x"'.encode("utf-16"), words="UTF-16"),
    toml("toml-latin-1", 'node = "café"'.encode("latin-1"), words="not valid TOML"),
    toml("toml-unknown", '[mqqt]\nhost = "x"', words="did you mean mqtt"),
    toml("toml-no-table", "mqtt = 5", words=r"write \[mqtt\]"),
    toml("toml-path-nul", '[mqtt.tls]\nca = "/tmp/a\\u0000b"', words="no NUL"),
    SettingsCase(name="file-missing", arguments=("--config", "/nowhere.toml"), words="No such file"),
    SettingsCase(name="file-a-folder", arguments=("--config", "/"), words="Is a directory"),
    toml("task-kind", _task('kind = "guess"'), words="tasks.a"),
    toml("task-without-role", _task('kind = "classify"\nlabels = ["a", "b"]'), words="tasks.a"),
    toml("task-one-label", _task('kind = "classify"\nlabels = ["a"]\nrole = "x"'), words="tasks.a"),
    toml("task-labels-twice", _task('kind = "classify"\nlabels = ["a", "a"]\nrole = "x"'), words="same name"),
    toml("task-case", _task(_CLASSIFY + '\ncase = "{text}"'), words="case must contain"),
    toml("task-name", _task(_CLASSIFY, '"a/b"'), words="one level of a topic"),
    toml("task-reserved", _task(_CLASSIFY, "status"), words="choose another name"),
    toml("task-of-itself", _task('kind = "compose"\nparts = ["a"]'), words="a part of itself"),
    toml("task-of-nothing", _task('kind = "compose"\nparts = ["b"]'), words="is not a task"),
    toml(
        "task-two-talks",
        _task('kind = "generate"\nsystem = "x"\nhistory = true', "b")
        + _task('kind = "compose"\nparts = ["b", "reply"]'),
        words="only one part may",
    ),
    toml("task-schema-of-text", _task(_EXTRACT + 'schema.type = "string"'), words="JSON Schema"),
)

_ORDER = _EXTRACT + 'schema.type = "object"\nschema.properties.item = '
_FOLDER_IS_FILE = flag(
    "state-dir-a-file", "state_dir={folder}/file", prepare=lambda f: (f / "file").touch(), words="is no folder"
)

# What shows only when a part of the daemon is made, or a file is opened.
WRONG_PARTS = (
    toml(
        "task-too-long",
        _task(f'kind = "generate"\nsystem = "{"very long " * 600}"'),
        scripted=False,
        words="leave no room",
    ),
    toml(
        "labels-too-long",
        _task(f'kind = "classify"\nlabels = ["a", "{"b" * 2100}"]\nrole = "x"'),
        scripted=False,
        words="leave no room",
    ),
    toml("schema-type", _task(_ORDER + '{ type = "strange" }'), scripted=False, words="tasks.a.schema"),
    toml(
        "schema-pattern", _task(_ORDER + '{ type = "string", pattern = "(" }'), scripted=False, words="tasks.a.schema"
    ),
    toml(
        "schema-endless",
        _task(_EXTRACT + 'schema = { type = "object", properties = { a = { "$ref" = "#" } }, required = ["a"] }'),
        scripted=False,
        words="no output of it is ever complete",
    ),
    flag("kv-mb", "engine.kv_mb=900000", scripted=False, code=MODEL, words="engine.kv_mb"),
    flag(
        "prefix-cache-mb", "engine.prefix_cache_mb=1000000", scripted=False, code=MODEL, words="engine.prefix_cache_mb"
    ),
    flag("kv-mb-small", "engine.kv_mb=1", scripted=False, model="wide", code=MODEL, words="one full context"),
    flag(
        "new-tokens-of-model",
        "engine.max_context_tokens=4096",
        "engine.max_new_tokens=3000",
        scripted=False,
        code=MODEL,
        words="no room",
    ),
    flag("fp16-on-cpu", "model.format=fp16", scripted=False, code=MODEL, words="for a GPU"),
    flag(
        "int4-of-gemma",
        "model.format=int4",
        scripted=False,
        model="gemma",
        code=MODEL,
        words="not built for this architecture",
    ),
    _FOLDER_IS_FILE,
    flag(
        "state-dir-below-a-file",
        "state_dir={folder}/file/state",
        prepare=lambda f: (f / "file").touch(),
        words="is no folder",
    ),
    flag("state-dir-too-long", "state_dir={folder}/" + "s" * 300, words="too long"),
    flag(
        "metrics-host", f"metrics.port={free_port()}", "metrics.host=203.0.113.9", words="not possible to listen at 203"
    ),
    flag(
        "metrics-name",
        f"metrics.port={free_port()}",
        "metrics.host=no-such-host.invalid",
        words="not possible to listen",
    ),
    flag(
        "http-host",
        f"http.port={free_port()}",
        "http.host=203.0.113.9",
        f"http.token={'k' * 16}",
        words="listen at 203",
    ),
    flag("journal-nowhere", "mqtt.share_group=team", "journal.url=redis://127.0.0.1:1", words="127.0.0.1:1"),
    # TLS: files, before anything is sent.
    flag("ca-missing", "mqtt.tls.ca=/nowhere.crt", code=BROKER, words="/nowhere.crt: No such file"),
    flag("ca-a-folder", "mqtt.tls.ca={folder}", code=BROKER, words="Is a directory"),
    flag(
        "ca-empty", "mqtt.tls.ca={folder}/empty", prepare=lambda f: (f / "empty").touch(), code=BROKER, words="is empty"
    ),
    flag("ca-der", "mqtt.tls.ca={certificates}/ca.der", code=BROKER, words="is DER"),
    flag("ca-a-key", "mqtt.tls.ca={certificates}/ca.key", code=BROKER, words="has no certificate"),
    flag(
        "key-of-another",
        "mqtt.tls.cert={certificates}/us.crt",
        "mqtt.tls.key={certificates}/broker.key",
        code=BROKER,
        words="does not belong",
    ),
    flag(
        "key-with-passphrase",
        "mqtt.tls.cert={certificates}/us.crt",
        "mqtt.tls.key={certificates}/us.enc.key",
        code=BROKER,
        words="has a passphrase",
    ),
    flag(
        "key-wrong-passphrase",
        "mqtt.tls.cert={certificates}/us.crt",
        "mqtt.tls.key={certificates}/us.enc.key",
        "mqtt.tls.key_password=x",
        code=BROKER,
        words="with this passphrase",
    ),
    flag(
        "certificate-pkcs12",
        "mqtt.tls.cert={certificates}/us.p12",
        "mqtt.tls.key={certificates}/us.key",
        code=BROKER,
        words="PKCS #12",
    ),
    # The way to the broker.
    flag("nothing-listens", f"mqtt.port={free_port()}", code=BROKER, words="nothing listens"),
    flag("no-such-host", "mqtt.host=no-such-host.invalid", code=BROKER, words="cannot be resolved"),
    flag("no-socket", "mqtt.transport=unix", "mqtt.host={folder}/no.sock", code=BROKER, words="no socket"),
    flag(
        "socket-a-file",
        "mqtt.transport=unix",
        "mqtt.host={folder}/file",
        prepare=lambda f: (f / "file").touch(),
        code=BROKER,
        words="file",
    ),
    flag("tls-on-plain-port", "mqtt.tls.enabled=true", code=BROKER, words="TLS"),
)

GOOD_SETTINGS = (
    toml("toml-with-bom", '\ufeffnode = "kitchen"'.encode(), code=DONE, words="^$"),
    variables("cluster", "^$", code=DONE, **_CLUSTER),
    variables("empty-variables", "^$", code=DONE, EDGED_MQTT__USERNAME="", EDGED_MQTT__TLS__CA="", EDGED_CONFIG=""),
    flag("tilde", "state_dir=~/state", code=DONE, words="^$"),
    flag("metrics", f"metrics.port={free_port()}", f"http.port={free_port()}", code=DONE, words="^$"),
    flag("extraction", code=DONE, words="^$", toml=_task(_ORDER + '{ type = "string" }'), scripted=False),
    flag("reduced-context", "engine.max_context_tokens=4096", scripted=False, code=DONE, words="^$"),
    flag("own-threads", "engine.threads=1000", scripted=False, code=DONE, words="^$"),
    flag(
        "model-dir-a-file",
        "model_dir={folder}/file",
        prepare=lambda f: (f / "file").touch(),
        scripted=False,
        code=DONE,
        words="^$",
    ),
)


# The plumbing between process and command is the same for all cases, so a few are enough.
AS_PROCESSES = ("env-unknown", "host-dots", "toml-latin-1", "task-reserved")


@cache
def _certificates() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edged-"))
    make_certificates(folder)
    return folder


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # paho leaves the socket of a failed handshake to Python
@pytest.mark.parametrize("case", [*WRONG_SETTINGS, *WRONG_PARTS, *GOOD_SETTINGS], ids=lambda case: case.name)
def test_both_say_the_same_of_settings(
    case: SettingsCase, bases: Bases, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _prepared(case, bases, tmp_path, monkeypatch)
    agree(commands.check(*arguments), commands.run(*arguments), code=case.code, words=case.words)


def _prepared(case: SettingsCase, bases: Bases, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    if case.scripted:
        monkeypatch.setattr(build, "make_engine", lambda *_: ScriptedEngine())
    case.prepare(folder)
    monkeypatch.setenv("EDGED_MODEL__ID", str(bases.folders[case.model]))
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    arguments = list(case.arguments)
    if case.toml:
        content = case.toml if isinstance(case.toml, bytes) else case.toml.encode()
        (folder / "edged.toml").write_bytes(content)
        arguments += ["--config", str(folder / "edged.toml")]
    for each in case.flags:
        name = each.partition("=")[0].replace(".", "__").upper()
        monkeypatch.delenv(f"EDGED_{name}", raising=False)
        arguments += ["--set", _placed(each, folder)]
    return arguments


def _placed(text: str, folder: Path) -> str:
    text = text.replace("{folder}", str(folder))
    return text.replace("{certificates}", str(_certificates())) if "{certificates}" in text else text


def test_a_port_of_another_program_is_refused(
    bases: Bases, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        case = flag("", f"metrics.port={other.getsockname()[1]}", words="Address already in use")
        arguments = _prepared(case, bases, tmp_path, monkeypatch)
        agree(commands.check(*arguments), commands.run(*arguments), code=USAGE, words=case.words)


@pytest.mark.parametrize(("node", "code"), [("box", DONE), ("other", USAGE)])
def test_the_port_of_the_daemon_that_is_checked_is_its_own(
    node: str, code: int, bases: Bases, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    Info("edged_build", "As a daemon tells it.", registry=registry).info({"node": node})
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        case = flag("", f"metrics.port={server.server_port}", words="")
        assert commands.check(*_prepared(case, bases, tmp_path, monkeypatch)).code == code
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TIMEOUT)


@pytest.mark.parametrize(
    ("library", "text"),
    [
        ("llguidance", _task(_ORDER + '{ type = "string" }')),
        ("prometheus_client", "metrics.port = 9464"),
        ("uvicorn", "http.port = 8080"),
        ("redis", 'mqtt.share_group = "team"\njournal.url = "redis://127.0.0.1:1"'),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_command(
    library: str, text: str, bases: Bases, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    for module in [
        each for each in sys.modules if each == library or each.startswith(("edged.journal.redis", "edged.http"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    arguments = _prepared(toml("", text, words=""), bases, tmp_path, monkeypatch)
    agree(commands.check(*arguments), commands.run(*arguments), code=USAGE, words="needs the library .*install")


def test_a_model_whose_numbers_overflow_ends_the_start_in_words(
    bases: Bases, commands: Commands, tmp_path: Path
) -> None:
    huge = odd.tensors(lambda w: w | {"lm_head.weight": torch.full_like(w["lm_head.weight"], 3e38)})
    case = ModelCase(name="", make=changed(huge))
    ran = commands.run(*_chosen(case, bases, tmp_path))  # `check` computes nothing, so it cannot know
    assert ran.code == MODEL, ran.output
    assert "fails on the task" in ran.words


# ---------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("name", ["bert", "gguf-cut"])
def test_processes_agree_on_models(name: str, bases: Bases, broker: Broker, tmp_path: Path) -> None:
    (case,) = (each for each in BROKEN if each.name == name)
    _as_processes(_chosen(case, bases, tmp_path), {}, tmp_path, broker, code=case.code, words=case.words)


@pytest.mark.parametrize("name", AS_PROCESSES)
def test_processes_agree_on_settings(
    name: str, bases: Bases, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = (each for each in WRONG_SETTINGS if each.name == name)
    arguments = _prepared(case, bases, tmp_path, monkeypatch)
    _as_processes(arguments, case.environment, tmp_path, broker, code=case.code, words=case.words)


def _as_processes(
    arguments: Sequence[str], more: Mapping[str, str], folder: Path, broker: Broker, *, code: int, words: str
) -> None:
    environment = {**os.environ, **_environment(folder, broker), **more}
    named = {each.partition("=")[0] for each in arguments}
    environment = {name: each for name, each in environment.items() if name[6:].replace("__", ".").lower() not in named}
    verdicts = []
    for command in ("check", "run"):
        done = run_edged([command, *arguments], environment)
        failed = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("FAIL  model")]
        told = "\n".join(failed) or _told(done.returncode, done.stderr)
        verdicts.append(Verdict(code=done.returncode, words=told, output=done.stdout + done.stderr))
    checked, ran = verdicts
    # The code is that of the first fault: no daemon answers `check`, but a fault of the model is told before.
    agree(checked, ran, code=code, words=words)
