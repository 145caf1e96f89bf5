"""Models as people have them: incomplete, of another kind, saved by other programs. Start and check say the same."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    MiniMaxConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from edged.engine import inspection, loading
from edged.engine.decoders.interface import Span
from edged.engine.weights.checkpoint import open_checkpoint
from edged.engine.weights.prepared_file import fingerprint
from edged.errors import ModelUnavailable
from edged.settings.schema import EngineSettings, ModelSettings
from edged.tasks.own import tasks_of
from tests.support import gguf_writing, tiny
from tests.support import odd_models as odd


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return odd.tokenizer()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return odd.saved(tiny.make(odd.sized(tiny.CONFIGS["llama_biases"])), tmp_path_factory.mktemp("llama"), tokenizer)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """One of those that transformers runs."""
    config = Gemma2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=512,
        max_position_embeddings=2048,
    )
    return odd.saved(tiny.make(config), tmp_path_factory.mktemp("gemma"), tokenizer)


def plan(path: Path, **engine: Any) -> loading.Plan:
    model = ModelSettings(id=str(path), format="fp32", device="cpu")
    return loading.Plan(path=path, model=model, engine=EngineSettings(max_new_tokens=32, **engine), half_width=True)


def refused(path: Path, words: str) -> None:
    """Both ways say the same words."""
    with pytest.raises(ModelUnavailable, match=words) as loaded:
        loading.load(plan(path))
    with pytest.raises(ModelUnavailable) as inspected:
        inspection.inspect(plan(path), tasks_of({}))
    assert str(inspected.value) == str(loaded.value)


def opens(path: Path) -> torch.Tensor:
    """Give the logits of a few tokens."""
    assert inspection.inspect(plan(path), tasks_of({})).parameters > 0
    with torch.inference_mode():
        model = loading.load(plan(path)).model
        logits: torch.Tensor = tiny.run(model, [Span(kv=model.allocate(8), tokens=[5, 6, 7], wanted=(0, 1, 2))])
    return logits


_UP = "model.layers.1.mlp.up_proj.weight"


# ------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            odd.tensors(lambda w: {k: v for k, v in w.items() if "layers.1." not in k}),
            r"tensor model\.layers\.1.*is missing",
        ),
        (odd.tensors(lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}), r"tensor .*is missing"),
        (
            odd.tensors(lambda w: {k: v for k, v in w.items() if k != "model.norm.weight"}),
            r"model\.norm\.weight is missing",
        ),
        (odd.tensors(lambda w: w | {_UP: torch.full_like(w[_UP], float("nan"))}), "holds NaN or infinity"),
        (odd.tensors(lambda w: w | {_UP: torch.full_like(w[_UP], float("inf"))}), "holds NaN or infinity"),
        (
            odd.tensors(lambda w: w | {"model.norm.weight": torch.ones(65)}),
            r"model\.norm\.weight is \(65,\), where .*\(64,\)",
        ),
        (
            odd.tensors(lambda w: w | {_UP.replace("1", "7"): w[_UP].clone()}),
            r"tensor model\.layers\.7\.mlp\.up_proj\.weight is not known",
        ),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(
    kind: str, change: odd.Change, words: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "model"))
    change(folder)
    refused(folder, words)


@pytest.mark.parametrize(
    ("layers", "words"), [(2, r"tensor model\.layers\.2.*is not known"), (4, r"tensor model\.layers\.3.*is missing")]
)
def test_a_config_of_another_depth_is_refused(layers: int, words: str, llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    odd.edit("config.json", num_hidden_layers=layers)(folder)
    refused(folder, words)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_what_was_never_trained_may_be_left_over(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "model"))
    expected = opens(folder)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    odd.tensors(lambda w: w | extra)(folder)
    assert torch.equal(opens(folder), expected)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_names_without_their_prefix_are_taken_as_transformers_takes_them(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "model"))
    expected = opens(folder)
    odd.tensors(lambda w: {name.removeprefix("model."): each for name, each in w.items()})(folder)
    assert torch.equal(opens(folder), expected)


def test_a_head_that_was_trained_apart_counts_whatever_the_config_says(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    expected = opens(folder)
    odd.edit("config.json", tie_word_embeddings=True)(folder)
    assert torch.equal(opens(folder), expected)
    odd.tensors(lambda w: {name: each for name, each in w.items() if name != "lm_head.weight"})(folder)
    assert not torch.equal(opens(folder), expected)  # now the embedding is the head
    odd.edit("config.json", tie_word_embeddings=False)(folder)
    refused(folder, r"lm_head\.weight is missing")


# --------------------------------------------------------------------------------------------- other kinds of model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (odd.t5, "is an encoder-decoder"),
        (odd.bert, "is an encoder"),
        (lambda: LlamaModel(LlamaConfig(**odd.SMALL)), "LlamaModel.* no language model's head"),
        (odd.labels, "no language model's head"),
        (
            lambda: odd.random_model(RecurrentGemmaConfig(**{**odd.SMALL, "num_hidden_layers": 3}, lru_width=32)),
            "sequences would disturb",
        ),
        (
            lambda: odd.random_model(MiniMaxConfig(**odd.SMALL, num_local_experts=2, head_dim=16)),
            "in a way that is not supported",
        ),
    ],
)
def test_another_kind_of_model_is_refused_by_what_it_is(
    make: Callable[[], PreTrainedModel], words: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    refused(odd.saved(make(), tmp_path, tokenizer), words)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, state_size=8),
        RwkvConfig(vocab_size=512, hidden_size=64, attention_hidden_size=64, num_hidden_layers=2, context_length=2048),
    ],
    ids=["mamba", "rwkv"],
)
def test_a_recurrent_model_opens(config: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = odd.random_model(config)
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 7]])).logits[0]
    found = opens(odd.saved(model, tmp_path, tokenizer))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


# ---------------------------------------------------------------------------------------- templates and tokenizers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (odd.template("{% for m in messages %}{{ m.content }"), "chat template cannot be used"),
        (odd.template("{{ nobody.knows.this }}"), "chat template cannot be used"),
        (
            odd.template([{"name": "chatml", "template": odd.CHATML}, {"name": "tool_use", "template": odd.CHATML}]),
            r"several by name \(chatml, tool_use\) and none of them is the default",
        ),
        (odd.template("{% for m in messages %}{{ m.role }}{% endfor %}"), "leaves out what the user says"),
        (
            odd.edit("generation_config.json", eos_token_id=[0, 600]),
            "generation_config.json .*token 600.*ends at 512",
        ),
    ],
)
def test_faults_of_template_and_end_of_turn_are_told(
    change: odd.Change, words: str, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    change(folder)
    refused(folder, words)


# --------------------------------------------------------------------------------------------- files and folders


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (odd.bitsandbytes, "quantised by bitsandbytes: take the model with plain weights"),
        (odd.mlx, r"quantised by MLX \(4 bits\).*take the model with plain weights"),
        (odd.edit("config.json", quantization_config={"quant_method": "fp8"}), "quantised by fp8"),
        (odd.only_adapter, r"LoRA adapter alone: merge it into Qwen/Qwen2\.5-0\.5B-Instruct"),
        (
            odd.edit("adapter_config.json", peft_type="LORA"),
            "LoRA adapter beside a model, and would not be applied",
        ),
        (odd.only("model.onnx"), "is for ONNX Runtime"),
        (odd.only("model_index.json"), "is an image model"),
        (
            odd.only("snapshots/abc/config.json"),
            "a folder in it has one: set EDGED_MODEL__ID to .*snapshots/abc",
        ),
        (lambda folder: [each.unlink() for each in folder.iterdir()], "is empty"),
    ],
)
def test_a_folder_that_is_something_else_is_told_so(
    change: odd.Change, words: str, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    change(folder)
    refused(folder, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "is one file of a model's folder: set EDGED_MODEL__ID to the folder"),
        ("pytorch_model.bin", "is a pickle"),
    ],
)
def test_a_file_that_is_something_else_is_told_so(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, words)


def test_the_one_gguf_file_of_a_folder_is_the_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.make(odd.sized(tiny.CONFIGS["llama"]))
    file = gguf_writing.write(tmp_path / "model-q8_0.gguf", model, "llama", tokenizer=odd.described(tokenizer))
    assert torch.equal(opens(tmp_path), opens(file))
    shutil.copy(file, tmp_path / "model-q4_0.gguf")
    refused(tmp_path, r"several GGUF files: .*one of them \(model-q4_0\.gguf, model-q8_0\.gguf\)")


def test_a_part_of_a_split_gguf_file_is_told_to_be_one(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    file = gguf_writing.write(
        tmp_path / "m-00001-of-00002.gguf",
        tiny.make(tiny.CONFIGS["llama"]),
        "llama",
        tokenizer=odd.described(tokenizer),
        metadata={"split.no": 0, "split.count": 2},
    )
    shutil.copy(file, tmp_path / "m-00002-of-00002.gguf")
    for path in (file, tmp_path):
        refused(path, r"part 1 of 2 of a GGUF file that was split: join them")


def test_the_parts_of_a_split_gguf_file_are_one_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.make(odd.sized(tiny.CONFIGS["llama"]))
    whole = gguf_writing.write(tmp_path / "whole.gguf", model, "llama", tokenizer=odd.described(tokenizer))
    (tmp_path / "m").mkdir()
    names = list(model.state_dict())
    first, second = (
        gguf_writing.write(
            tmp_path / "m" / f"m-0000{number + 1}-of-00002.gguf",
            model,
            "llama",
            tokenizer=odd.described(tokenizer) if number == 0 else {},
            metadata={"split.no": number, "split.count": 2},
            without=names[20:] if number == 0 else names[:20],
        )
        for number in range(2)
    )
    expected = opens(whole)
    for path in (first, second, first.parent):
        assert torch.equal(opens(path), expected)
    made_of = fingerprint(first)
    os.utime(second, ns=(1, 1))
    assert fingerprint(first) != made_of
    second.unlink()
    refused(first, r"part 1 of 2 of a GGUF file that was split: .*m-00002-of-00002\.gguf is missing")


# ---------------------------------------------------------------------------------------------- what GGUF leaves out


@pytest.fixture
def gguf(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    model = tiny.make(odd.sized(tiny.CONFIGS["llama"]))

    def write(**more: Any) -> Path:
        template = {} if "template" not in more else {"tokenizer.chat_template": more.pop("template")}
        described = odd.described(tokenizer, **more)
        return gguf_writing.write(tmp_path / "model.gguf", model, "llama", tokenizer=described, metadata=template)

    return write


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"pre": "gpt-2"}, False),
        ({"pre": None}, False),
        ({"pre": "llama-bpe"}, True),
        ({"pre": "llama-bpe", "add_bos_token": False}, False),
        ({"pre": "gpt-2", "add_bos_token": True}, True),
    ],
)
def test_a_prompt_begins_with_bos_where_llama_cpp_begins_it(
    said: dict[str, Any], expected: bool, gguf: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    bos: Any = tokenizer.convert_tokens_to_ids("<|im_start|>")
    prompter = loading.load(plan(gguf(bos_token_id=bos, template="{{ messages[-1].content }}", **said))).prompter
    tokens = _prompt(prompter)
    assert (tokens[0] == bos) is expected
    assert tokens.count(bos) == expected
    again = loading.load(plan(gguf(bos_token_id=bos, template=odd.CHATML, **said))).prompter
    assert _prompt(again).count(bos) == 3  # by the template, once before each turn


def _prompt(prompter: Any) -> tuple[int, ...]:
    (task,) = (spec for spec in tasks_of({}).parts("reply"))
    tokens: tuple[int, ...] = prompter.generation(task, text="hi", language="en", turns=(), max_new_tokens=8).tokens
    return tokens


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ({}, {"<|endoftext|>", "<|im_end|>"}),  # by their text
        ({"eos_token_id": None}, {"<|endoftext|>", "<|im_end|>"}),
        ({"eot_token_id": 300}, {"<|endoftext|>", "<|im_end|>", 300}),
        ({"eom_token_id": 301}, {"<|endoftext|>", "<|im_end|>", 301}),
        ({"eot_token_id": 9999}, {"<|endoftext|>", "<|im_end|>"}),
    ],
)
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_what_ends_a_turn_in_llama_cpp_ends_it_here(
    kind: int, said: dict[str, Any], ends: set[Any], gguf: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    kinds = odd.described(tokenizer)["token_type"]
    end: Any = tokenizer.convert_tokens_to_ids("<|im_end|>")
    kinds[end] = kind  # NORMAL, CONTROL, USER_DEFINED
    prompter = loading.load(plan(gguf(token_type=kinds, template=odd.CHATML, **said))).prompter
    expected = {tokenizer.convert_tokens_to_ids(each) if isinstance(each, str) else each for each in ends}
    assert prompter.end_tokens() == expected
    assert not prompter.banned_tokens(512) & expected


def test_a_rule_that_is_not_named_is_llama_cpps_default(gguf: Callable[..., Path]) -> None:
    tokenizers = [open_checkpoint(gguf(pre=pre)).tokenizer for pre in (None, "default", "gpt-2")]
    text = "a!!b 12345 ..."
    unnamed, default, gpt2 = (
        [word for word, _ in each.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)] for each in tokenizers
    )
    assert unnamed == default == ["a", "!!", "b", "Ġ", "123", "45", "Ġ", "..."]
    assert gpt2 == ["a", "!!", "b", "Ġ12345", "Ġ..."]


def test_add_eos_ends_a_text_but_no_prompt(gguf: Callable[..., Path]) -> None:
    path = gguf(add_eos_token=True, add_bos_token=True, bos_token_id=0)
    tokenizer = open_checkpoint(path).tokenizer
    ids = tokenizer("hi")["input_ids"]
    assert (ids[0], ids[-1]) == (0, 0)
    assert _prompt(loading.load(plan(path)).prompter).count(0) == 1
