"""The laws of the forward pass in int8 and int4, for every instruction set of this CPU and for torch's kernels."""

import ctypes
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from edged.engine.decoders import lean_loading, native_library
from edged.engine.decoders.interface import CausalModel, Span
from edged.engine.decoders.lean import Decoder
from edged.engine.decoders.linear import Linear
from edged.engine.weights.architectures.table import decoder_shape
from edged.engine.weights.formats import GROUP, QUANTISED, Packed, QuantisedFormat
from edged.engine.weights.packing import apart, unpack
from edged.engine.weights.preparing import open_quantised
from edged.engine.weights.quantised import QuantisedWeights, fits
from edged.engine.weights.rope import ropes_of
from edged.errors import ModelUnavailable
from tests.support import quantised, tiny
from tests.support.quantised import weights_of

CONTEXT = 256
TOKENS = tiny.random_tokens(90, 512)
KERNELS = [*(each.name for each in native_library.instructions()), "torch"]
Build = Callable[..., CausalModel[Any]]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Build:
    """Makes a decoder of packed weights on given kernels."""
    libraries = request.config.cache.mkdir("kernels")

    def make(model: PreTrainedModel, weights: QuantisedWeights, kernels: str, threads: int = 2) -> CausalModel[Any]:
        if kernels == "torch":
            shape = decoder_shape(model.config)
            return lean_loading.of_quantised(shape, weights, ropes_of(model.config, shape), max_context_tokens=CONTEXT)
        return quantised.native_model(model, weights, kernels, libraries, threads=threads)

    return make


def rounded(model: PreTrainedModel, weights: QuantisedWeights) -> PreTrainedModel:
    """Transformers' model with the weights as they were rounded."""
    config = model.config
    state = dict(model.state_dict())
    queries = config.num_attention_heads * getattr(config, "head_dim", 16)
    keys = config.num_key_value_heads * getattr(config, "head_dim", 16)
    state["model.embed_tokens.weight"] = unpack(weights.embedding)
    for index, layer in enumerate(weights.layers):
        at = f"model.layers.{index}."
        parts = torch.split(unpack(layer.qkv.packed), [queries, keys, keys])
        for name, part in zip(("q", "k", "v"), parts, strict=True):
            state[f"{at}self_attn.{name}_proj.weight"] = part
        state[f"{at}self_attn.o_proj.weight"] = unpack(layer.out.packed)
        gate, up = apart(unpack(layer.gate_up.packed))
        state[f"{at}mlp.gate_proj.weight"], state[f"{at}mlp.up_proj.weight"] = gate, up
        state[f"{at}mlp.down_proj.weight"] = unpack(layer.down.packed)
    del state["lm_head.weight"]
    model.load_state_dict({name: value.clone() for name, value in state.items()}, strict=False)
    model.lm_head.weight = torch.nn.Parameter(unpack(weights.head).clone())  # apart from the embedding, as ours is
    return model


def all_logits(model: CausalModel[Any], tokens: Sequence[int]) -> torch.Tensor:
    kv = model.allocate(CONTEXT)
    return tiny.run(model, [Span(kv=kv, tokens=tokens, wanted=range(len(tokens)))])


def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence, in nats a token."""
    p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("weight_format", QUANTISED)
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_equals_transformers_on_the_rounded_weights(
    name: str, weight_format: QuantisedFormat, kernels: str, build: Build
) -> None:
    model = tiny.make(tiny.CONFIGS[name])
    weights = weights_of(model, weight_format, smooth=False)
    ours = all_logits(build(model, weights, kernels), TOKENS)
    theirs = rounded(model, weights)(torch.tensor([TOKENS])).logits[0].float()
    spread = float(theirs.std())
    # What is left is the rounding of activations, keys and values (to bf16 in torch's kernels).
    assert float((ours - theirs).square().mean().sqrt()) < 0.02 * spread
    assert divergence(ours, theirs) < 1e-3


@pytest.mark.parametrize("weight_format", QUANTISED)
def test_equals_the_reference_decoder_that_rounds_alike(
    weight_format: QuantisedFormat, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left but fp32's own rounding, unless an activation falls between two integers: in a few prompts."""

    def alike(packed: Packed, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        weight = unpack(packed).to(dtype)
        return lambda x: torch.nn.functional.linear(_rounded_to_8_bits(x), weight, bias)

    model = tiny.make(tiny.CONFIGS["gemma3"])
    weights = weights_of(model, weight_format, smooth=True)
    monkeypatch.setattr(lean_loading, "quantised_linear", alike)
    monkeypatch.setattr(lean_loading, "compute_dtype", lambda _: torch.float32)
    attend = Decoder._attend

    def with_short_keys(self: Decoder, index: int, q: Any, k: Any, v: Any, rows: Any) -> torch.Tensor:
        return attend(self, index, q, k.bfloat16().float(), v.bfloat16().float(), rows)

    monkeypatch.setattr(Decoder, "_attend", with_short_keys)
    prompts = [TOKENS[first : first + 12] for first in range(0, 75, 5)]  # longer than the window
    ours, theirs = (
        torch.stack([all_logits(decoder, prompt)[-1] for prompt in prompts])
        for decoder in (build(model, weights, kernels) for kernels in (KERNELS[0], "torch"))
    )
    far = (ours - theirs).square().mean(1).sqrt() / theirs.std()
    assert float(far.median()) < 1e-5
    assert float(far.max()) < 0.05


def _rounded_to_8_bits(x: torch.Tensor) -> torch.Tensor:
    groups = x.reshape(x.shape[0], -1, GROUP)
    scale = groups.abs().amax(dim=-1, keepdim=True) / 127
    return ((groups / scale.clamp_min(1e-30)).round() * scale).reshape(x.shape)


@pytest.mark.parametrize("name", ["qwen2", "qwen2_untied", "llama_biases"])
@pytest.mark.parametrize("weight_format", QUANTISED)
def test_smoothing_moves_sizes_and_changes_no_answer(name: str, weight_format: QuantisedFormat, build: Build) -> None:
    model = tiny.make(tiny.CONFIGS[name])
    for layer in model.model.layers:
        layer.input_layernorm.weight[5] *= 200  # an outlier channel, as real models have
    theirs = model(torch.tensor([TOKENS])).logits[0].float()
    kinds = {
        smooth: build(model, weights_of(model, weight_format, smooth=smooth), KERNELS[0]) for smooth in (False, True)
    }
    far = {smooth: divergence(all_logits(each, TOKENS), theirs) for smooth, each in kinds.items()}
    assert far[True] <= far[False] * 1.1
    if weight_format == "int8":
        assert far[True] < 2e-3


@pytest.fixture(
    params=[
        *(("qwen3", kernels, each) for kernels in KERNELS[:-1] for each in QUANTISED),
        *(("gemma3", KERNELS[0], each) for each in QUANTISED),
    ],
    ids=str,
)
def ours(request: pytest.FixtureRequest, build: Build) -> CausalModel[Any]:
    name, kernels, weight_format = request.param
    model = tiny.make(tiny.CONFIGS[name])
    return build(model, weights_of(model, weight_format, smooth=True), kernels)


def test_chunked_equals_whole_to_the_bit(ours: CausalModel[Any]) -> None:
    kv = ours.allocate(CONTEXT)
    cuts = ((0, 1), (1, 20), (20, 21), (21, 90))
    chunks = [tiny.run(ours, [Span(kv=kv, tokens=TOKENS[a:b], wanted=range(b - a))]) for a, b in cuts]
    assert torch.equal(torch.cat(chunks), all_logits(ours, TOKENS))
    assert kv.length == len(TOKENS)


def test_cached_equals_uncached_to_the_bit(ours: CausalModel[Any]) -> None:
    source = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=source, tokens=TOKENS)])
    other = [*TOKENS[:25], *tiny.random_tokens(20, 512, seed=1)]
    fork = ours.fork(source, 25, CONTEXT)
    cached = tiny.run(ours, [Span(kv=fork, tokens=other[25:], wanted=range(20))])
    assert torch.equal(cached, all_logits(ours, other)[25:])


@pytest.mark.parametrize("shared", [5, 16, 40])
def test_a_beginning_that_is_borrowed_equals_one_that_is_copied_to_the_bit(ours: CausalModel[Any], shared: int) -> None:
    source = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=source, tokens=TOKENS[:45])])
    other = [*TOKENS[:shared], *tiny.random_tokens(20, 512, seed=1)]
    lines = []
    for borrow in (False, True):
        fork = ours.fork(source, shared, len(other) + 2, borrow=borrow)
        first = tiny.run(ours, [Span(kv=fork, tokens=other[shared : shared + 7], wanted=range(7))])
        rest = other[shared + 7 :]
        span = Span(kv=fork, tokens=rest, branches=[(12, 7), (13, 8)], wanted=range(15))
        lines.append(torch.cat((first, tiny.run(ours, [span]))))
        assert fork.length == len(other)
    assert torch.equal(*lines)
    assert torch.equal(lines[0][:20], all_logits(ours, other)[shared:])
    assert ours.fork(source, 45, CONTEXT, borrow=True).nbytes < source.nbytes
    after = tiny.run(ours, [Span(kv=source, tokens=TOKENS[45:50], wanted=range(5))])
    assert torch.equal(after, all_logits(ours, TOKENS[:50])[45:])


def test_the_logits_of_some_words_are_the_same_as_among_all_to_the_bit(ours: CausalModel[Any]) -> None:
    words = (3, 37, 511)
    all_of_them = all_logits(ours, TOKENS)
    kvs = [ours.allocate(CONTEXT) for _ in range(2)]
    spans = [Span(kv=kv, tokens=TOKENS, wanted=(10, 89), words=words) for kv in kvs]
    some = tiny.run(ours, [spans[0], Span(kv=kvs[1], tokens=TOKENS[:4])])  # the second asks for nothing
    assert torch.equal(some[:, words], all_of_them[[10, 89]][:, words])
    kvs = [ours.allocate(CONTEXT) for _ in range(2)]
    mixed = tiny.run(
        ours, [Span(kv=kvs[0], tokens=TOKENS, wanted=(89,), words=words), Span(kv=kvs[1], tokens=TOKENS, wanted=(89,))]
    )
    assert torch.equal(mixed[0][list(words)], all_of_them[89][list(words)])
    assert torch.equal(mixed[1], all_of_them[89])


def test_alone_equals_in_a_batch_to_the_bit(ours: CausalModel[Any]) -> None:
    prompts = [tiny.random_tokens(length, 512, seed=length) for length in (60, 1, 17, 33, 2)]
    started = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=started, tokens=TOKENS[:40])])
    spans = [Span(kv=ours.allocate(CONTEXT), tokens=each, wanted=(len(each) - 1,)) for each in prompts]
    together = tiny.run(ours, [spans[0], Span(kv=started, tokens=TOKENS[40:41], wanted=(0,)), *spans[1:]])
    alone = [all_logits(ours, prompt)[-1] for prompt in (prompts[0], TOKENS[:41], *prompts[1:])]
    assert torch.equal(together, torch.stack(alone))


def test_branches_are_lines_of_their_own_to_the_bit(ours: CausalModel[Any]) -> None:
    kv = ours.allocate(CONTEXT)
    tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:10])])
    span = Span(kv=kv, tokens=TOKENS[10:13], branches=[(2, 7), (3, 8), (2, 9)], wanted=(2, 3, 4, 5))
    rows = tiny.run(ours, [span])
    long, short = all_logits(ours, [*TOKENS[:13], 7, 8]), all_logits(ours, [*TOKENS[:13], 9])
    torch.testing.assert_close(rows, torch.stack((long[12], long[13], long[14], short[13])), atol=1e-4, rtol=1e-4)
    assert kv.length == 13
    after = tiny.run(ours, [Span(kv=kv, tokens=[TOKENS[13]], wanted=(0,))])[0].clone()
    assert torch.equal(after, all_logits(ours, TOKENS[:14])[13])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_threads_change_nothing(name: str, build: Build) -> None:
    model = tiny.make(tiny.CONFIGS[name])
    weights = weights_of(model, "int4", smooth=True)
    each = [all_logits(build(model, weights, KERNELS[0], threads), TOKENS) for threads in (1, 2, 3)]
    assert torch.equal(each[0], each[1])
    assert torch.equal(each[0], each[2])


@pytest.mark.parametrize("weight_format", QUANTISED)
def test_a_branch_sees_no_further_than_its_window(weight_format: QuantisedFormat, build: Build) -> None:
    model = tiny.make(tiny.CONFIGS["gemma3"])
    ours = build(model, weights_of(model, weight_format, smooth=False), KERNELS[0])
    window = max(kind.window for kind in decoder_shape(model.config).layer_kinds)
    line = tiny.random_tokens(2 * window, 512, seed=7)  # a branch so deep that its end does not see its beginning
    kv = ours.allocate(CONTEXT)
    span = Span(kv=kv, tokens=TOKENS[:20], branches=list(enumerate(line, start=19)), wanted=range(20, 20 + len(line)))
    rows = tiny.run(ours, [span])
    torch.testing.assert_close(rows, all_logits(ours, [*TOKENS[:20], *line])[20:], atol=1e-4, rtol=1e-4)


def test_a_token_or_a_length_that_cannot_be_is_refused_and_changes_nothing(ours: CausalModel[Any]) -> None:
    kv = ours.allocate(16)
    tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:10])])
    for tokens, message in (([512], "vocabulary"), ([-1], "vocabulary"), (TOKENS[:7], "do not fit")):
        with pytest.raises(ValueError, match=message):
            tiny.run(ours, [Span(kv=kv, tokens=tokens)])
    with pytest.raises(ValueError, match="vocabulary"):
        tiny.run(ours, [Span(kv=kv, tokens=TOKENS[:1], wanted=(0,), words=(3, 512))])
    assert kv.length == 10


def test_sizes_that_cannot_be_packed_are_said_to_be_so() -> None:
    assert all(fits(decoder_shape(tiny.make(config).config)) for config in tiny.CONFIGS.values())
    odd = tiny.CONFIGS["qwen2"].to_dict() | {"intermediate_size": 100}
    assert not fits(decoder_shape(tiny.make(type(tiny.CONFIGS["qwen2"])(**odd)).config))


# ------------------------------------------------------------------------------------------- the prepared file


def same(a: QuantisedWeights, b: QuantisedWeights) -> bool:
    pairs: list[tuple[Any, Any]] = [(a.embedding.blocks, b.embedding.blocks), (a.norm, b.norm)]
    pairs += [(x.qkv.packed.blocks, y.qkv.packed.blocks) for x, y in zip(a.layers, b.layers, strict=True)]
    pairs += [(x.qkv.packed.factors, y.qkv.packed.factors) for x, y in zip(a.layers, b.layers, strict=True)]
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny.save(tiny.make(tiny.CONFIGS["llama_biases"]), tmp_path / "model") / "model.safetensors"


def opened(checkpoint: Path, folder: Path, read: Mapping[str, torch.Tensor] | None) -> QuantisedWeights:
    """Open; without `read` no tensor of the checkpoint may be looked at."""

    def get(name: str, _: tuple[int, ...]) -> torch.Tensor:
        if read is None:
            raise AssertionError(name)
        return read[name]

    shape = decoder_shape(tiny.make(tiny.CONFIGS["llama_biases"]).config)
    return open_quantised(checkpoint, shape, "int4", tensor=get, folder=folder, sizes=dict, smooth=False)


def test_weights_are_rounded_once(checkpoint: Path, tmp_path: Path) -> None:
    state = tiny.make(tiny.CONFIGS["llama_biases"]).state_dict()
    first = opened(checkpoint, tmp_path / "prepared", state)
    (folder,) = (tmp_path / "prepared").iterdir()
    again = opened(checkpoint, tmp_path / "prepared", None)
    assert same(first, again)
    assert again.parameters == sum(value.numel() for value in state.values())
    assert all(layer.qkv.packed.blocks.ctypes.data % 64 == 0 for layer in again.layers)
    assert folder.name.startswith("model-")


def test_another_checkpoint_or_a_damaged_file_is_prepared_anew(checkpoint: Path, tmp_path: Path) -> None:
    state = tiny.make(tiny.CONFIGS["llama_biases"]).state_dict()
    opened(checkpoint, tmp_path / "prepared", state)
    other = tiny.make(tiny.CONFIGS["llama_biases"], seed=1)
    tiny.save(other, checkpoint.parent)
    changed = opened(checkpoint, tmp_path / "prepared", other.state_dict())
    (file,) = (tmp_path / "prepared").glob("*/*")
    half = file.with_suffix(".half")  # in a file of its own: the other one is mapped
    half.write_bytes(file.read_bytes()[:5000])
    half.replace(file)
    assert same(opened(checkpoint, tmp_path / "prepared", other.state_dict()), changed)
    assert same(opened(checkpoint, tmp_path / "prepared", None), changed)


def test_without_a_place_for_them_the_weights_are_held(checkpoint: Path, tmp_path: Path) -> None:
    state = tiny.make(tiny.CONFIGS["llama_biases"]).state_dict()
    kept = opened(checkpoint, tmp_path / "prepared", state)
    (tmp_path / "file").write_text("no folder")
    assert same(opened(checkpoint, tmp_path / "file" / "prepared", state), kept)


def test_a_broken_tensor_leaves_no_half_file(checkpoint: Path, tmp_path: Path) -> None:
    def refuse(name: str, _: tuple[int, ...]) -> torch.Tensor:
        raise ModelUnavailable(f"{name} holds NaN")

    shape = decoder_shape(tiny.make(tiny.CONFIGS["llama_biases"]).config)
    with pytest.raises(ModelUnavailable, match="NaN"):
        open_quantised(
            checkpoint,
            shape,
            "int8",
            tensor=refuse,
            folder=tmp_path / "prepared",
            sizes=dict,
            smooth=False,
        )
    assert not [each for each in (tmp_path / "prepared").rglob("*") if each.is_file()]


# ------------------------------------------------------------------------------------------------ the compiler


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(native_library.NotBuilt, match=r"apt install g\+\+"):
        native_library.compile_for(native_library.instructions()[0], tmp_path)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_SOURCES", tmp_path)
    (tmp_path / "native.cpp").write_text("int broken(")
    with pytest.raises(native_library.NotBuilt, match="fails"):
        native_library.compile_for(native_library.instructions()[0], tmp_path / "kernels")
    assert not list((tmp_path / "kernels").iterdir())


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_a_change_of_any_source_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_SOURCES", tmp_path)
    (tmp_path / "native.cpp").write_text('#include "part.h"\nextern "C" int edged_answer() { return kAnswer; }\n')
    portable = native_library.instructions()[-1]
    answers = []
    for answer in (1, 2, 2):
        (tmp_path / "part.h").write_text(f"constexpr int kAnswer = {answer};\n")
        library = native_library.compile_for(portable, tmp_path / "kernels")
        answers.append(ctypes.CDLL(str(library)).edged_answer())
    assert answers == [1, 2, 2]
    assert len(list((tmp_path / "kernels").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flags : fpu avx2 fma avx512f avx512bw avx512vl avx512dq avx512_vnni avx_vnni", "avx512vnni"),
        ("flags : fpu avx2 fma avx_vnni", "avxvnni"),
        ("flags : fpu avx2 fma avx512f avx512bw avx512vl avx512dq", "avx512"),
        ("flags : fpu avx2 fma", "avx2"),
        ("flags : fpu sse2 ssse3 sse4_1 sse4_2", "ssse3"),
        ("flags : fpu sse2", "portable"),
    ],
)
def test_the_fastest_code_that_the_cpu_can_run_is_taken(
    words: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(words)
    assert native_library.instructions(tmp_path / "cpuinfo")[0].name == expected
