"""Opening models: every tensor as it was saved, and every fault in words before a model answers nonsense."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from edged.engine import loading
from edged.engine.weights.checkpoint import Checkpoint, open_checkpoint
from edged.engine.weights.gguf_file import open_gguf
from edged.engine.weights.gguf_tokenizer import tokenizer_of
from edged.errors import ModelUnavailable
from edged.settings.schema import EngineSettings, ModelSettings
from edged.tasks.specs import SamplingWishes
from tests.support import assets, gguf_writing, tiny

Kind = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def qwen() -> PreTrainedModel:
    return tiny.make(tiny.CONFIGS["qwen2_untied"])


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny.make(tiny.CONFIGS["llama"])


@pytest.fixture
def folder(tmp_path: Path, qwen: PreTrainedModel) -> Path:
    """A whole model as the hub has them."""
    tiny.save(qwen, tmp_path / "model")
    tokenizer = tokenizer_of(open_gguf(gguf_writing.write(tmp_path / "any.gguf", qwen, "qwen2")))
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _assert_same(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not model.config.tie_word_embeddings:
            assert torch.equal(checkpoint.expect(name, tuple(tensor.shape)), tensor), name


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tiny.random_tokens(16, model.config.vocab_size)])).logits
    return logits


def _filled(checkpoint: Checkpoint) -> PreTrainedModel:
    """Transformers' model of the checkpoint's config, holding its tensors and no other."""
    make: Any = AutoModelForCausalLM
    model: PreTrainedModel = make.from_config(checkpoint.config).train(mode=False)
    missing, unexpected = model.load_state_dict({n: checkpoint.tensor(n) for n in checkpoint.names()}, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if checkpoint.config.tie_word_embeddings else set())
    model.tie_weights()
    return model


# ------------------------------------------------------------------------------------------------------- folders


def test_a_folder_gives_every_tensor_as_it_was_saved(folder: Path, qwen: PreTrainedModel) -> None:
    checkpoint = open_checkpoint(folder)
    _assert_same(checkpoint, qwen)
    assert checkpoint.parameters == sum(parameter.numel() for parameter in qwen.parameters())
    assert not checkpoint.has("model.layers.99.mlp.up_proj.weight")
    assert checkpoint.config.architectures == ["Qwen2ForCausalLM"]
    assert checkpoint.tokenizer("hihi")["input_ids"] == [2, 2]


def test_a_file_is_in_memory_only_as_long_as_a_tensor_of_it(folder: Path) -> None:
    def is_mapped() -> bool:
        return str(folder) in Path("/proc/self/maps").read_text()

    checkpoint = open_checkpoint(folder)
    tensor = checkpoint.tensor("model.norm.weight")
    assert is_mapped()
    del tensor
    for name in checkpoint.names():
        checkpoint.tensor(name).sum()
    assert not is_mapped()


def test_a_folder_of_shards_gives_every_tensor(folder: Path, qwen: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    qwen.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    _assert_same(open_checkpoint(folder), qwen)


def test_end_tokens_are_those_of_the_generation_config_before_the_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 1]}')
    assert open_checkpoint(folder).end_tokens == {1, 3}
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    assert open_checkpoint(folder).end_tokens == {2}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True}, None),
        ({"top_p": 0.8, "do_sample": False}, SamplingWishes(top_p=0.8)),
        ({"temperature": 0, "top_p": "0.8", "top_k": -1, "repetition_penalty": True}, SamplingWishes()),
    ],
)
def test_the_makers_sampling_is_taken_where_it_makes_sense(
    folder: Path, said: dict[str, Any], meant: SamplingWishes | None
) -> None:
    (folder / "generation_config.json").write_text(json.dumps(said))
    whole = SamplingWishes(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05)
    assert open_checkpoint(folder).sampling == (meant or whole)


@pytest.mark.parametrize(("name", "temperature"), [("Qwen3-0.6B", 0.7), ("of-my-own", 0.6)])
def test_what_a_preset_knows_goes_before_the_makers_file(folder: Path, name: str, temperature: float) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "repetition_penalty": 1.05}')
    path = folder.rename(folder.with_name(name))
    model = ModelSettings(id=str(path), format="fp32", device="cpu")
    plan = loading.Plan(path=path, model=model, engine=EngineSettings(max_new_tokens=64), half_width=True)
    sampling = loading.load(plan).sampling
    assert (sampling.temperature, sampling.repetition_penalty) == (temperature, 1.05)


def _remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _cut(name: str, keep: int) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def _write(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove("config.json"), "no config.json"),
        (_write("config.json", "{"), "config.json .* not understood"),
        (_write("config.json", '{"model_type": "from-the-future"}'), "config.json .* not understood"),
        (_write("config.json", '{"model_type": "llama", "num_attention_heads": 7}'), "config.json .* not understood"),
        (_remove("tokenizer.json"), "no tokenizer"),
        (_write("tokenizer.json", "{}"), "tokenizer .* not understood"),
        (_remove("model.safetensors"), "no model.safetensors"),
        (_only_pickle, "pickle"),
        (_cut("model.safetensors", 0), "cut short or no safetensors"),
        (_cut("model.safetensors", 1000), "cut short or no safetensors"),
        (_cut("model.safetensors", -4), "cut short or no safetensors"),
        (_write("model.safetensors.index.json", "{"), "damaged"),
        (_write("model.safetensors.index.json", '{"weight_map": {"a": "../../etc/passwd"}}'), "damaged"),
        (_lose_a_shard, "lacks model-00002-of-00002.safetensors"),
        (_write("generation_config.json", "{"), "generation_config.json is damaged"),
    ],
)
def test_a_broken_folder_is_refused_in_words(folder: Path, damage: Any, words: str) -> None:
    damage(folder)
    with pytest.raises(ModelUnavailable, match=rf"{words}.*EDGED_MODEL__ID"):
        open_checkpoint(folder)


def test_code_of_the_model_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(ModelUnavailable, match="not understood"):
        open_checkpoint(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("where", ["nowhere", "nowhere.gguf"])
def test_nothing_there_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"no model at .*edged models pull"):
        open_checkpoint(tmp_path / where)


def test_a_missing_or_misshapen_tensor_is_named(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    with pytest.raises(ModelUnavailable, match=r"tensor lm_head\.bias is missing"):
        checkpoint.expect("lm_head.bias", (512,))
    with pytest.raises(ModelUnavailable, match=r"model\.norm\.weight is \(64,\), where its config means \(65,\)"):
        checkpoint.expect("model.norm.weight", (65,))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_with_no_number_in_it_is_refused(folder: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(8, 8, dtype=dtype)
    save_file(
        {"good": tensor.clone(), "bad": tensor.index_fill(1, torch.tensor([5]), value)}, folder / "model.safetensors"
    )
    checkpoint = open_checkpoint(folder)
    assert torch.equal(checkpoint.tensor("good"), tensor)
    with pytest.raises(ModelUnavailable, match="bad holds NaN or infinity"):
        checkpoint.tensor("bad")


def test_weights_quantised_by_others_are_refused_by_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    save_file({"a.qweight": torch.zeros(4, dtype=torch.int32)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    for name in ("a.weight", "a.qweight"):
        with pytest.raises(ModelUnavailable, match="quantised by gptq"):
            checkpoint.tensor(name)


# ---------------------------------------------------------------------------------------------------------- GGUF


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *(("qwen2", "qwen2"), ("qwen2_untied", "qwen2"), ("qwen3", "qwen3"), ("llama", "llama")),
        *(("llama_biases", "llama"), ("mistral", "llama")),
    ],
)
def test_a_gguf_file_gives_the_model_it_was_made_of(tmp_path: Path, name: str, architecture: str) -> None:
    model = tiny.make(tiny.CONFIGS[name])
    checkpoint = open_checkpoint(gguf_writing.write(tmp_path / "model.gguf", model, architecture))
    _assert_same(checkpoint, model)
    assert torch.equal(_logits(_filled(checkpoint)), _logits(model))
    assert checkpoint.end_tokens == {3}


def test_a_gguf_file_of_smollm3_rotates_all_but_every_fourth_layer(tmp_path: Path) -> None:
    config = tiny.CONFIGS["smollm3"].to_dict() | {"num_hidden_layers": 4, "no_rope_layers": None, "layer_types": None}
    model = tiny.make(type(tiny.CONFIGS["smollm3"])(**config))
    checkpoint = open_checkpoint(gguf_writing.write(tmp_path / "model.gguf", model, "smollm3"))
    assert checkpoint.config.no_rope_layers == [1, 1, 1, 0]
    assert torch.equal(_logits(_filled(checkpoint)), _logits(model))


def test_a_bias_that_a_gguf_file_leaves_out_is_none(tmp_path: Path) -> None:
    model = tiny.make(tiny.CONFIGS["llama_biases"])
    left_out = [name for name in model.state_dict() if name.endswith("o_proj.bias")]
    path = gguf_writing.write(tmp_path / "model.gguf", model, "llama", without=left_out)
    checkpoint = open_checkpoint(path)
    assert len(left_out) == 3
    with torch.no_grad():
        for name in left_out:
            model.get_parameter(name).zero_()
    assert torch.equal(_logits(_filled(checkpoint)), _logits(model))


def test_the_scaled_rotation_of_llama_3_is_told_by_its_factors(tmp_path: Path) -> None:
    config = tiny.CONFIGS["llama"].to_dict() | {"rope_parameters": {**_LLAMA3, "factor": 32.0}}
    model = tiny.make(type(tiny.CONFIGS["llama"])(**config))
    factors = 1 / (model.model.rotary_emb.inv_freq * 10000.0 ** (torch.arange(0, 16, 2) / 16))
    path = gguf_writing.write(tmp_path / "model.gguf", model, "llama", tensors={"rope_freqs.weight": factors})
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.rope_parameters == model.config.rope_parameters
    assert torch.equal(_logits(_filled(checkpoint)), _logits(model))
    path = gguf_writing.write(tmp_path / "odd.gguf", model, "llama", tensors={"rope_freqs.weight": factors.sqrt()})
    with pytest.raises(ModelUnavailable, match="rotary embedding is scaled in a way that is not known"):
        open_checkpoint(path)


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_a_linearly_scaled_rotation_is_told_by_its_keys(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model = tiny.make(type(tiny.CONFIGS["qwen2"])(**(tiny.CONFIGS["qwen2"].to_dict() | {"rope_parameters": rope})))
    said = {"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 4.0}
    checkpoint = open_checkpoint(gguf_writing.write(tmp_path / "model.gguf", model, "qwen2", metadata=said))
    assert torch.equal(_logits(_filled(checkpoint)), _logits(model))


def test_a_gguf_file_of_gemma_gives_the_model_it_was_made_of(tmp_path: Path) -> None:
    config = tiny.CONFIGS["gemma3"].to_dict() | {
        "query_pre_attn_scalar": 32,
        "num_hidden_layers": 6,
        "layer_types": None,
    }
    model = tiny.make(type(tiny.CONFIGS["gemma3"])(**config))
    said = {"gemma3.attention.sliding_window": 8}
    checkpoint = open_checkpoint(gguf_writing.write(tmp_path / "model.gguf", model, "gemma3", metadata=said))
    assert checkpoint.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # norms are kept in another form, which rounds once
            torch.testing.assert_close(checkpoint.expect(name, tuple(tensor.shape)), tensor, atol=1e-6, rtol=0)
    torch.testing.assert_close(_logits(_filled(checkpoint)), _logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16])
def test_quantised_blocks_give_what_ggml_reads_from_them(tmp_path: Path, qwen: PreTrainedModel, kind: Kind) -> None:
    checkpoint = open_checkpoint(gguf_writing.write(tmp_path / "model.gguf", qwen, "qwen2", kind=kind))
    for name, tensor in qwen.state_dict().items():
        expected = tensor.numpy()
        if tensor.dim() > 1:
            expected = gguf.dequantize(gguf.quantize(expected, kind), kind)
        assert torch.equal(checkpoint.tensor(name).float(), torch.from_numpy(expected)), name


@pytest.mark.parametrize(
    ("kind", "scales_at"), [(Kind.Q4_K, (0, 2)), (Kind.Q5_K, (0, 2)), (Kind.Q6_K, (208,)), (Kind.IQ4_NL, (0,))]
)
def test_blocks_that_only_llama_cpp_writes_are_read(tmp_path: Path, kind: Kind, scales_at: tuple[int, ...]) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (3, 512 // block, size), dtype=np.uint8)
    for at in scales_at:
        scales = generator.uniform(0.001, 0.01, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, at : at + 2] = scales[..., None].view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("w", blocks.reshape(3, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = open_gguf(tmp_path / "model.gguf").read("w")
    assert read.shape == (3, 512)
    assert torch.equal(read, torch.from_numpy(gguf.dequantize(blocks.reshape(3, -1), kind)))
    assert 0.001 < float(read.abs().mean()) < 10


def test_a_tensor_of_many_chunks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.make(tiny.CONFIGS["qwen2"])
    path = gguf_writing.write(tmp_path / "model.gguf", model, "qwen2", kind=Kind.Q8_0)
    whole = open_checkpoint(path).tensor("model.embed_tokens.weight")
    monkeypatch.setattr("edged.engine.weights.gguf_file._CHUNK", 7 * 64)  # 512 rows of 64: the last chunk is shorter
    assert torch.equal(open_checkpoint(path).tensor("model.embed_tokens.weight"), whole)


def test_blocks_that_nobody_can_read_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("w", np.zeros((2, 292), dtype=np.uint8), raw_dtype=Kind.Q8_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnavailable, match=r"holds w as Q8_K.*for example Q8_0"):
        open_gguf(tmp_path / "model.gguf").read("w")


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 200, 1500, -1])
def test_a_gguf_file_that_was_cut_short_is_refused(tmp_path: Path, qwen: PreTrainedModel, keep: int) -> None:
    path = gguf_writing.write(tmp_path / "model.gguf", qwen, "qwen2")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelUnavailable, match=r"cut short|not a GGUF file|cannot be read"):
        open_checkpoint(path)


def test_no_single_wrong_byte_in_a_header_ends_in_another_error(tmp_path: Path, llama: PreTrainedModel) -> None:
    path = gguf_writing.write(tmp_path / "model.gguf", llama, "llama")
    content = path.read_bytes()
    for at in range(0, 2500, 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            open_checkpoint(path)
        except ModelUnavailable as error:
            assert str(path) in str(error)  # noqa: PT017 - many a byte may be wrong without harm


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\3\4" + bytes(1000))
    with pytest.raises(ModelUnavailable, match="not a GGUF file"):
        open_checkpoint(path)
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(1000))  # big-endian
    with pytest.raises(ModelUnavailable, match="version"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"architecture": "gemma2"}, "architecture gemma2.*llama, qwen2, qwen3, gemma3, smollm3.*safetensors"),
        ({"metadata": {"llama.expert_count": 8}}, "mixture of experts"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "rotary embedding is scaled"),
        ({"metadata": {"llama.rope.dimension_count": 8}}, "a part of each head"),
        ({"tensors": {"blk.0.attn_sinks.weight": torch.ones(64)}}, r"tensor blk\.0\.attn_sinks\.weight"),
        ({"tokenizer": {"model": "llama", "tokens": ["a"]}}, "tokenizer of kind llama"),
        ({"tokenizer": {"model": "gpt2", "pre": "unheard-of", "tokens": ["a"]}}, "tokenizer of kind gpt2/unheard-of"),
        ({"tokenizer": {"model": "gpt2"}}, "makes no sense"),
        ({"tokenizer": {**gguf_writing.TOKENIZER, "eos_token_id": 99}}, "makes no sense"),
        ({"tokenizer": {**gguf_writing.TOKENIZER, "merges": ["x y"]}}, "makes no sense"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(
    tmp_path: Path, llama: PreTrainedModel, changed: dict[str, Any], words: str
) -> None:
    path = gguf_writing.write(tmp_path / "model.gguf", llama, **({"architecture": "llama"} | changed))
    with pytest.raises(ModelUnavailable, match=words):
        open_checkpoint(path)


# ----------------------------------------------------------------------------------------------------- tokenizers

TEXTS = (
    "hello world",
    "  two  spaces and 12345 apples at 3.14!",
    "line\n\nline\tend \n",
    "今天心情很好!这个产品太差了,我非常失望。",
    "I'm sure they'LL come; don't panic…",
    "ﬁn Å é e\u0301 café \u3000全角ＡＢＣ",
    "😄😢 👩‍👩‍👧 <|im_start|>user\nhi<|im_end|>",
    "",
)


def test_a_qwen_tokenizer_from_a_gguf_file_is_the_real_one(tmp_path: Path) -> None:
    real = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    size = len(real)
    tokens = [real.convert_ids_to_tokens(i) for i in range(size)]
    special = set(real.added_tokens_decoder)
    described = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": [*tokens, "[PAD1]", "[PAD2]"],
        "token_type": [*(3 if i in special else 1 for i in range(size)), 5, 5],
        "merges": [" ".join(pair) for pair in _merges(assets.qwen_tokenizer())],
        "eos_token_id": real.convert_tokens_to_ids("<|im_end|>"),
    }
    model = tiny.make(tiny.CONFIGS["qwen2"])
    ours = tokenizer_of(open_gguf(gguf_writing.write(tmp_path / "model.gguf", model, "qwen2", tokenizer=described)))
    for text in TEXTS:
        for split in (True, False):
            encoded = real(text, split_special_tokens=split)["input_ids"]
            assert ours(text, split_special_tokens=split)["input_ids"] == encoded, text
            assert ours.decode(encoded) == real.decode(encoded)
    assert len(ours) == size
    assert ours.eos_token == "<|im_end|>"


_SCORED: dict[str, Any] = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "<turn>", "▁", "h", "i", "hi", "ih", "▁hi", "  ", *(f"<0x{i:02X}>" for i in range(256))],
    "scores": [0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -2.0, -1.0, -3.0, -1000.0, *[0.0] * 256],
    "token_type": [2, 3, 3, 1, 1, 1, 1, 1, 1, 4, *[6] * 256],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "unknown_token_id": 0,
}


@pytest.mark.parametrize(
    ("said", "text", "expected"),
    [
        ({"add_space_prefix": False}, "hi hi", ["<s>", "hi", "▁hi"]),
        ({}, "hi hi", ["<s>", "▁hi", "▁hi"]),
        ({"add_space_prefix": False}, "hih", ["<s>", "h", "ih"]),  # the better of two tokens
        ({"add_space_prefix": False}, "h  i", ["<s>", "h", "  ", "i"]),  # one of the makers' own is kept whole
        ({"add_space_prefix": False}, "hé", ["<s>", "h", "<0xC3>", "<0xA9>"]),
        ({"add_space_prefix": False, "add_bos_token": False}, "i", ["i"]),
    ],
)
def test_a_tokenizer_with_scores_joins_the_best_neighbours_first(
    tmp_path: Path, llama: PreTrainedModel, said: dict[str, Any], text: str, expected: list[str]
) -> None:
    path = gguf_writing.write(tmp_path / "m.gguf", llama, "llama", tokenizer=_SCORED | said)
    tokenizer = open_checkpoint(path).tokenizer
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_text_never_becomes_a_token_that_steers_the_model(tmp_path: Path, llama: PreTrainedModel) -> None:
    letters = dict.fromkeys("<turn>0xA", -5.0)
    described = _SCORED | {
        "tokens": [*_SCORED["tokens"], *letters, "<turn", "<0x0A"],
        "scores": [*_SCORED["scores"], *letters.values(), -1.0, -1.0],
        "token_type": [*_SCORED["token_type"], *[1] * (len(letters) + 2)],
    }
    tokenizer = open_checkpoint(gguf_writing.write(tmp_path / "m.gguf", llama, "llama", tokenizer=described)).tokenizer
    ids = tokenizer("<turn><0x0A>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert {2, 10 + 0x0A}.isdisjoint(ids)
    assert tokenizer("<turn>", split_special_tokens=False, add_special_tokens=False)["input_ids"] == [2]


def test_a_tokenizer_that_begins_with_a_token_says_so(tmp_path: Path, llama: PreTrainedModel) -> None:
    described = {**gguf_writing.TOKENIZER, "bos_token_id": 3, "add_bos_token": True}
    tokenizer = tokenizer_of(open_gguf(gguf_writing.write(tmp_path / "m.gguf", llama, "llama", tokenizer=described)))
    assert tokenizer("hih")["input_ids"] == [3, 2, 0]
    assert tokenizer("hih", add_special_tokens=False)["input_ids"] == [2, 0]


def test_a_token_of_the_users_own_is_kept_whole_and_is_no_special_one(tmp_path: Path, llama: PreTrainedModel) -> None:
    described = {
        **gguf_writing.TOKENIZER,
        "tokens": [*gguf_writing.TOKENIZER["tokens"], "<think>"],
        "token_type": [1, 1, 1, 3, 4],
    }
    tokenizer = tokenizer_of(open_gguf(gguf_writing.write(tmp_path / "m.gguf", llama, "llama", tokenizer=described)))
    assert tokenizer("hi<think>h")["input_ids"] == [2, 4, 0]
    assert tokenizer.decode([2, 4, 3, 0], skip_special_tokens=True) == "hi<think>h"


def _merges(folder: Path) -> list[list[str]]:
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    return [each.split(" ") if isinstance(each, str) else each for each in merges]


def test_the_small_model_speaks_its_own_tokens() -> None:
    tokenizer = open_checkpoint(assets.small_model()).tokenizer
    assert tokenizer("hello world")["input_ids"] == [28120, 905]
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer("<|im_end|>", split_special_tokens=False)["input_ids"] == [2]
    assert 2 not in tokenizer("<|im_end|>", split_special_tokens=True)["input_ids"]
    # Its makers split every digit off before the words are found, so the spaces before one stay together.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"]) == ["a", "ĠĠ", "1", "2"]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert str(prompt).endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_the_small_model_is_read_as_transformers_reads_it() -> None:
    path = assets.small_model()
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    checkpoint = open_checkpoint(path)
    _assert_same(checkpoint, theirs)
    assert set(checkpoint.names()) == set(theirs.state_dict()) - {"lm_head.weight"}
    for key in ("rope_parameters", "rms_norm_eps", "head_dim", "max_position_embeddings", "tie_word_embeddings"):
        assert getattr(checkpoint.config, key) == getattr(theirs.config, key)
