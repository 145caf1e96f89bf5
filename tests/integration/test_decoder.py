"""The laws of the forward pass, on tiny random models of every architecture that the lean decoder knows."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    FalconH1Config,
    Gemma3TextConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3_5TextConfig,
    RwkvConfig,
)

from edged.engine.decoders import generic_loading, lean_loading
from edged.engine.decoders.interface import CausalModel, Span
from edged.engine.decoders.lean import Decoder
from edged.engine.weights.architectures import table
from edged.errors import ModelUnavailable
from tests.support import tiny

CONTEXT = 256
TOKENS = tiny.random_tokens(60, 512)
Pair = tuple[CausalModel[Any], PreTrainedModel]


def lean(model: PreTrainedModel, **overrides: torch.Tensor) -> Decoder:
    tensors = {**model.state_dict(), **overrides}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    built, _ = lean_loading.load(
        model.config,
        tensor=lambda name, _: tensors[name],
        weight_format="fp32",
        device=torch.device("cpu"),
        max_context_tokens=CONTEXT,
    )
    return built


_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
_NO_NAMES: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
_LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_n_groups": 1}
# Models whose past cannot be cut.
RECURRENT: dict[str, PretrainedConfig] = {
    "lfm2": Lfm2Config(**_SIZES, **_NO_NAMES, layer_types=["conv", "full_attention"]),
    "mamba": MambaConfig(**_NO_NAMES, vocab_size=512, hidden_size=64, num_hidden_layers=2, state_size=8),
    "qwen3.5": Qwen3_5TextConfig(**{**_SIZES, "num_hidden_layers": 4}, **_NO_NAMES, **_LINEAR, head_dim=16),
    "granite 4 h": GraniteMoeHybridConfig(
        **_SIZES,
        **_NO_NAMES,
        **_MAMBA2,
        layer_types=["mamba", "attention"],
        num_local_experts=2,
        num_experts_per_tok=1,
        shared_intermediate_size=64,
    ),
    "falcon h1": FalconH1Config(**_SIZES, **_NO_NAMES, **{**_MAMBA2, "mamba_d_head": 16, "mamba_d_ssm": 64}),
    "rwkv": RwkvConfig(
        **_NO_NAMES, vocab_size=512, hidden_size=64, attention_hidden_size=64, num_hidden_layers=2, context_length=512
    ),
}
# What transformers' own forward is for: one that the lean decoder knows too, Gemma, most of whose layers see a short
# window only, and recurrent ones.
GENERIC: dict[str, PretrainedConfig] = {
    "generic": tiny.CONFIGS["qwen2"],
    "generic gemma3": Gemma3TextConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=512,
        max_position_embeddings=512,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    **{f"generic {name}": config for name, config in RECURRENT.items()},
}


@pytest.fixture(params=[*tiny.CONFIGS, *(f"{name} stepping" for name in tiny.CONFIGS), *GENERIC], scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of ours beside transformers' own."""
    name, *_ = request.param.partition(" stepping")
    reference = tiny.make({**tiny.CONFIGS, **GENERIC}[name])
    if name not in GENERIC:
        ours = lean(reference)
        if request.param != name:
            ours.reserve(8 * CONTEXT)  # as on a GPU
        return ours, reference
    folder = tiny.save(reference, tmp_path_factory.mktemp("generic"))
    model, _ = generic_loading.load(folder, reference.config, weight_format="fp32", device=torch.device("cpu"))
    return model, reference


def reference_logits(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([list(tokens)])).logits[0]
    return logits.float()


def all_logits(model: CausalModel[Any], tokens: Sequence[int]) -> torch.Tensor:
    kv = model.allocate(CONTEXT)
    return tiny.run(model, [Span(kv=kv, tokens=tokens, wanted=range(len(tokens)))])


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=2e-5, rtol=1e-4)


def test_equals_transformers(pair: Pair) -> None:
    ours, theirs = pair
    close(all_logits(ours, TOKENS), reference_logits(theirs, TOKENS))


def test_chunked_equals_whole(pair: Pair) -> None:
    ours, _ = pair
    kv = ours.allocate(CONTEXT)
    chunks = [
        tiny.run(ours, [Span(kv=kv, tokens=TOKENS[a:b], wanted=range(b - a))])
        for a, b in ((0, 1), (1, 20), (20, 21), (21, 60))
    ]
    close(torch.cat(chunks), all_logits(ours, TOKENS))
    assert kv.length == len(TOKENS)


def test_cached_equals_uncached_and_the_source_stays_as_it_was(pair: Pair) -> None:
    ours, _ = pair
    source = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=source, tokens=TOKENS)])
    other = [*TOKENS[:25], *tiny.random_tokens(20, 512, seed=1)]
    fork = ours.fork(source, 25, CONTEXT)
    close(
        tiny.run(ours, [Span(kv=fork, tokens=other[25:], wanted=range(20))]),
        all_logits(ours, other)[25:],
    )
    again = ours.fork(source, 59, CONTEXT)
    close(tiny.run(ours, [Span(kv=again, tokens=TOKENS[59:], wanted=(0,))])[0], all_logits(ours, TOKENS)[59])


def test_alone_equals_in_a_batch(pair: Pair) -> None:
    ours, _ = pair
    lengths = (60, 1, 17, 33)
    prompts = [tiny.random_tokens(length, 512, seed=length) for length in lengths]
    started = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=started, tokens=TOKENS[:40])])
    spans = [Span(kv=ours.allocate(CONTEXT), tokens=each, wanted=(len(each) - 1,)) for each in prompts]
    together = tiny.run(ours, [spans[0], Span(kv=started, tokens=TOKENS[40:41], wanted=(0,)), *spans[1:]])
    close(together[1], all_logits(ours, TOKENS[:41])[40])
    for row, prompt in zip(together[[0, 2, 3, 4]], prompts, strict=True):
        close(row, all_logits(ours, prompt)[-1])


def test_steps_of_many_equal_each_alone(pair: Pair) -> None:
    ours, _ = pair
    prompts = [tiny.random_tokens(length, 512, seed=length) for length in (3, 40, 17, 1, 25)]
    sequences = [ours.allocate(CONTEXT) for _ in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        if prompt[:-1]:
            tiny.run(ours, [Span(kv=sequence, tokens=prompt[:-1])])
    for step in range(3):
        logits = tiny.run(
            ours, [Span(kv=kv, tokens=prompt[-1:], wanted=(0,)) for kv, prompt in zip(sequences, prompts, strict=True)]
        )
        for row, prompt in zip(logits, prompts, strict=True):
            close(row, all_logits(ours, prompt)[-1])
            prompt.append(100 + step)


def test_branches_are_lines_of_their_own(pair: Pair) -> None:
    ours, theirs = pair
    kv = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:10])])
    span = Span(kv=kv, tokens=TOKENS[10:13], branches=[(2, 7), (3, 8), (2, 9)], wanted=(2, 3, 4, 5))
    rows = tiny.run(ours, [span])
    stem = TOKENS[:13]
    long, short = reference_logits(theirs, [*stem, 7, 8]), reference_logits(theirs, [*stem, 9])
    close(rows, torch.stack((long[12], long[13], long[14], short[13])))
    assert kv.length == 13
    close(tiny.run(ours, [Span(kv=kv, tokens=[TOKENS[13]], wanted=(0,))])[0], reference_logits(theirs, TOKENS[:14])[13])


def test_a_failed_step_changes_nothing(pair: Pair) -> None:
    ours, _ = pair
    kv = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:10])])
    with pytest.raises((IndexError, RuntimeError)):
        tiny.run(ours, [Span(kv=kv, tokens=TOKENS[10:12]), Span(kv=ours.allocate(4), tokens=[10**6])])
    assert kv.length == 10
    close(tiny.run(ours, [Span(kv=kv, tokens=TOKENS[10:12], wanted=(1,))])[0], all_logits(ours, TOKENS[:12])[11])


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_writes_what_transformers_has_it_write(name: str, tmp_path: Path) -> None:
    reference = tiny.make(RECURRENT[name])
    ours, _ = generic_loading.load(
        tiny.save(reference, tmp_path), reference.config, weight_format="fp32", device=torch.device("cpu")
    )
    assert not ours.shares_prefixes
    generate: Any = reference.generate
    theirs = generate(torch.tensor([TOKENS[:20]]), do_sample=False, max_new_tokens=20, min_new_tokens=20)
    kv = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:7])])  # a chunk
    tokens = TOKENS[7:20]
    written: list[int] = []
    while len(written) < 20:
        row = tiny.run(ours, [Span(kv=kv, tokens=tokens, wanted=(len(tokens) - 1,))])[0]
        row[0] = float("-inf")  # the end, which `generate` was told to put off
        tokens = [int(row.argmax())]
        written += tokens
    assert written == theirs[0, 20:].tolist()


@pytest.mark.parametrize("name", ["lfm2", "rwkv", "gemma3"])
def test_a_step_that_fails_on_its_way_is_undone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GENERIC[f"generic {name}"]
    ours, _ = generic_loading.load(
        tiny.save(tiny.make(config), tmp_path), config, weight_format="fp32", device=torch.device("cpu")
    )
    kv = ours.allocate(CONTEXT)
    ours.forward([Span(kv=kv, tokens=TOKENS[:10], wanted=(9,))])
    run = ours._model.forward

    def fail_at_the_end(**arguments: Any) -> None:
        run(**arguments)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(ours._model, "forward", fail_at_the_end)
        with pytest.raises(RuntimeError, match="out of memory"):
            ours.forward([Span(kv=kv, tokens=TOKENS[10:12], wanted=(1,))])
    assert kv.length == 10
    close(ours.forward([Span(kv=kv, tokens=TOKENS[10:12], wanted=(1,))])[0], all_logits(ours, TOKENS[:12])[11])


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(hidden_act="gelu"),
        LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=0),
    ],
    ids=["activation", "rope", "window"],
)
def test_what_the_lean_decoder_would_compute_wrongly_is_left_to_transformers(config: PretrainedConfig) -> None:
    config.architectures = ["Qwen2ForCausalLM" if isinstance(config, Qwen2Config) else "LlamaForCausalLM"]
    assert not table.supports(config, max_context_tokens=CONTEXT)


def test_a_loader_that_finds_fault_is_heard() -> None:
    def refuse(name: str, _: tuple[int, ...]) -> torch.Tensor:
        raise ModelUnavailable(f"{name} is missing")

    config = tiny.make(tiny.CONFIGS["qwen2"]).config
    with pytest.raises(ModelUnavailable, match="embed_tokens"):
        lean_loading.load(
            config,
            tensor=refuse,
            weight_format="fp32",
            device=torch.device("cpu"),
            max_context_tokens=CONTEXT,
        )


def test_a_tied_head_is_held_once(tmp_path: Path) -> None:
    model = lean(tiny.make(tiny.CONFIGS["qwen2"]))
    head: Any = model._head
    assert head.weight.data_ptr() == inspect.getclosurevars(model._embed).nonlocals["embedding"].data_ptr()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_tensors_that_a_model_has_no_use_for_are_known_from_those_it_has(name: str) -> None:
    model = tiny.make(tiny.CONFIGS[name])
    names = [*model.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq"]
    strange = ["score.weight", "model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.sinks"]
    assert table.unknown_tensors([*names, *strange], table.decoder_shape(model.config)) == strange
