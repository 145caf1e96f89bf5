"""A model served from its bundle: no torch, no transformers. The bundle's files are in `edged.models.bundle`'s care.

Serving takes the compiled kernels. Where there are none, torch's kernels run the same weights.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer

from edged import extras
from edged.engine import kept_files
from edged.engine.decoders import native_library
from edged.engine.decoders.native import NativeDecoder, kv_bytes_per_token
from edged.engine.loaded import Loaded
from edged.engine.memory_plan import SERVING_BYTES, TORCH_BYTES, MemoryPlan, plan_memory
from edged.engine.plan import (
    Built,
    Opened,
    Plan,
    bind,
    context_tokens,
    kernels_of,
    loaded_of,
    prompter_of,
    with_threads,
)
from edged.engine.prompt import Prompter
from edged.engine.tokenizer import BundleTokenizer, TokenizerConfig
from edged.engine.weights.architectures.architecture import (
    LLAMA_NAMES,
    SPARE_POSITIONS,
    Activation,
    Biases,
    DecoderShape,
    LayerKind,
)
from edged.engine.weights.formats import QuantisedFormat
from edged.engine.weights.layout import entries_of, pieces_of
from edged.engine.weights.prepared_file import Damaged, Entry, fingerprint, map_file, prepared_folder
from edged.engine.weights.quantised import QuantisedWeights, assemble, resident_bytes
from edged.engine.weights.rope import Rope
from edged.errors import ModelUnavailable
from edged.models.bundle import TOKENIZER, WEIGHTS, DamagedBundle, Manifest, is_bundle, open_bundle
from edged.tasks.specs import SamplingWishes

_SPARE_TOKENS = 1.05  # a tokenizer may have a few more tokens than the embedding: they are never used
_TRIED_TOKENS = 2048  # of the context for which a template is tried
# Where the kernel shows that there is a GPU that torch may have a use for: NVIDIA's driver, its boards, WSL's.
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/nvhost-gpu"), Path("/dev/nvgpu"), Path("/dev/dxg"))


class _Kind(BaseModel):
    """`LayerKind`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rope: int = Field(ge=0)
    window: int = Field(ge=0)


class _Shape(BaseModel):
    """`DecoderShape` without what is in a bundle's weights already, and the names of a checkpoint's tensors.

    Attributes:
        attention_scale: None stands for the usual one, by the size of a head.
        layer_kinds: empty where all layers are of the usual kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    tied: bool
    normalises_heads: bool
    biases: dict[str, bool]
    normalises_outputs: bool = False
    activation: Activation = "silu"
    attention_scale: float | None = None
    layer_kinds: list[_Kind] = []


class _Rope(BaseModel):
    """A rotary embedding; see `Description`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frequencies: list[float]
    scale: float


class Description(BaseModel):
    """What the manifest of a bundle says of the model.

    Attributes:
        window: the longest context that the decoder computes exactly, of a model with a sliding window.
        frequencies: of the rotary embedding, in radians for each position.
        rope_scale: the factor of its cosines and sines.
        more_ropes: other rotary embeddings, of a model whose layers are of several kinds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    weight_format: QuantisedFormat
    parameters: int
    shape: _Shape
    frequencies: list[float]
    rope_scale: float
    more_ropes: list[_Rope] = []
    max_context: int | None
    window: int | None
    end_tokens: list[int]
    always_begins: bool
    sampling: dict[str, float | None]
    tokenizer: TokenizerConfig

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        kinds, ropes = self.shape.layer_kinds, 1 + len(self.more_ropes)
        if kinds and (len(kinds) != self.shape.layers or any(kind.rope >= ropes for kind in kinds)):
            raise ValueError("its kinds of layers do not fit its layers and rotary embeddings")
        if any(
            2 * len(each) != self.shape.head_dim
            for each in (self.frequencies, *(r.frequencies for r in self.more_ropes))
        ):
            raise ValueError("its rotary embedding does not fit the size of its heads")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    manifest: Manifest
    description: Description

    @property
    def shape(self) -> DecoderShape:
        said = self.description.shape
        fields = said.model_dump(exclude={"biases", "layer_kinds", "attention_scale"})
        kinds = [LayerKind(rope=kind.rope, window=kind.window) for kind in said.layer_kinds]
        return DecoderShape(
            **fields,
            embedding_scale=1.0,
            attention_scale=said.head_dim**-0.5 if said.attention_scale is None else said.attention_scale,
            layer_kinds=tuple(kinds or [LayerKind()] * said.layers),
            biases=Biases(**said.biases),
            names=LLAMA_NAMES,
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        said = self.description
        first = _Rope(frequencies=said.frequencies, scale=said.rope_scale)
        return tuple(
            Rope(frequencies=np.array(each.frequencies, dtype=np.float32), scale=each.scale)
            for each in (first, *said.more_ropes)
        )

    def opened(self) -> Opened:
        """What is known of the model before its weights are mapped.

        Raises:
            ModelUnavailable: the tokenizer cannot be read, or does not fit the weights.
        """
        said = self.description
        tokenizer = self._tokenizer()
        known = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
        if known > _SPARE_TOKENS * said.shape.vocab:
            raise self.damaged(f"{TOKENIZER} has {known} tokens, and the weights are of {said.shape.vocab}")
        beyond = [end for end in said.end_tokens if end >= said.shape.vocab]
        if beyond:
            raise self.damaged(f"a turn ends with token {beyond[0]}, and the vocabulary ends at {said.shape.vocab}")
        return Opened(
            architecture=said.architecture,
            tokenizer=tokenizer,
            vocab_size=said.shape.vocab,
            end_tokens=frozenset(said.end_tokens),
            always_begins=said.always_begins,
            max_context=said.max_context,
            sampling=_sampling(said.sampling),
        )

    def weights(self) -> QuantisedWeights:
        """Map the weights.

        Raises:
            ModelUnavailable: they are not those of the shape that the manifest names.
        """
        said = self.description
        expected = self._entries()
        try:
            _, tensors = map_file(self.folder / WEIGHTS)
        except (OSError, Damaged) as error:
            raise self.damaged(f"{WEIGHTS}: {error}") from error
        found = {name: each.shape for name, each in tensors.items()}
        if found != {name: shape for name, (_, shape) in expected.items()}:
            raise self.damaged(f"{WEIGHTS} does not have the tensors that the manifest means")
        return assemble(tensors, self.shape, said.weight_format, said.parameters)

    def damaged(self, what: str) -> DamagedBundle:
        return DamagedBundle(f"the bundle {self.folder} is damaged: {what}; import or prepare it again")

    def _entries(self) -> dict[str, Entry]:
        return entries_of(pieces_of(self.shape, self.description.weight_format))

    def _tokenizer(self) -> BundleTokenizer:
        try:
            backend = Tokenizer.from_file(str(self.folder / TOKENIZER))
        except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot parse
            raise self.damaged(f"{TOKENIZER} is not understood ({' '.join(str(error).split())[:200]})") from error
        return BundleTokenizer(backend, self.description.tokenizer)


def read_bundle(folder: Path) -> Bundle:
    """Open a bundle.

    Raises:
        ModelUnavailable: it is damaged, or of a schema that this release does not know.
    """
    manifest = open_bundle(folder)
    try:
        description = Description.model_validate(manifest.model)
        Biases(**description.shape.biases)
    except (ValidationError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnavailable(f"the manifest of the bundle {folder} is damaged: model: {reason}") from error
    return Bundle(folder=folder, manifest=manifest, description=description)


def try_out(folder: Path) -> None:
    """See that a bundle can be served: the tokenizer and the template work, the weights are those of its shape.

    Raises:
        ModelUnavailable: it cannot.
    """
    bundle = read_bundle(folder)
    opened = bundle.opened()
    bundle.weights()
    Prompter(opened.tokenizer, max_context_tokens=_TRIED_TOKENS, half_width=True).try_template()


def refuse_without_kernels(folder: Path) -> None:
    """Refuse bundles on a box that can serve none: it has no kernels, can compile none, and torch is not installed.

    Raises:
        ModelUnavailable: it can serve none.
    """
    try:
        native_library.prospect(folder)
    except native_library.NotBuilt as error:
        if extras.only_serves():
            raise ModelUnavailable(f"a bundle cannot be served here: {error}, and torch is not installed") from error


def find(plan: Plan) -> Bundle | None:
    """Find the bundle by which a model is to be served: the model itself is one, or its checkpoint has one here.

    Returns:
        None where torch has to load the checkpoint: there is no bundle, or it is not of the format or for the device
        that is wanted, or the checkpoint has changed.

    Raises:
        ModelUnavailable: the model is a bundle that cannot be served so.
    """
    if is_bundle(plan.path):
        return _named(plan)
    if plan.cache_dir is None or plan.engine.kernels == "torch" or not _is_for_cpu(plan.model.device):
        return None
    formats: dict[str, QuantisedFormat] = {"auto": "int8", "int8": "int8", "int4": "int4"}
    weight_format = formats.get(plan.model.format)
    if weight_format is None:
        return None
    folder = prepared_folder(plan.cache_dir / "prepared", plan.path, weight_format, smooth=True)
    bundle = current(folder, plan.path)
    if bundle is None or not _computes(bundle, plan) or kernels_of(plan) is None:
        return None
    return bundle


def current(folder: Path, checkpoint: Path) -> Bundle | None:
    """Open the bundle of a checkpoint, if there is a whole one that was made of the checkpoint as it is now."""
    if not is_bundle(folder):
        return None
    try:
        bundle = read_bundle(folder)
        return bundle if bundle.manifest.origin.made_of == fingerprint(checkpoint) else None
    except (ModelUnavailable, OSError):  # it is made anew
        return None


def load(plan: Plan, bundle: Bundle, available_bytes: Callable[[], int]) -> Loaded[Any]:
    """Load the model of a bundle; see `loading.load`."""
    begin = time.perf_counter()
    library = kernels_of(plan)
    with ThreadPoolExecutor(1, "kept files") as beside:  # adding up their checksums holds up nothing
        with_files = kept_files.read(plan, bundle.folder, library, beside)
        return with_files(_load(plan, bundle, library, available_bytes(), begin))


def _load(plan: Plan, bundle: Bundle, library: Path | None, free: int, begin: float) -> Loaded[Any]:
    opened = bundle.opened()
    context = context_tokens(opened.max_context, plan.engine)
    prompter = prompter_of(opened, plan, context)
    plan, chosen = with_threads(plan)
    if chosen.stay_on:
        bind(chosen.stay_on)
    memory = memory_of(plan, bundle, context, free=free, has_kernels=library is not None)
    built = _build(plan, bundle, library, context)
    return loaded_of(plan, opened, built, prompter, memory=memory, context=context, cores=chosen, begin=begin)


def memory_of(plan: Plan, bundle: Bundle, context: int, *, free: int, has_kernels: bool) -> MemoryPlan:
    """Plan the memory of serving a bundle, `free` bytes of which are there.

    Raises:
        ModelUnavailable: it is too little.
    """
    return plan_memory(
        plan.engine,
        weights=resident_bytes(bundle.shape, bundle.description.weight_format),
        one_context=context * kv_bytes_per_token(bundle.shape),
        process=SERVING_BYTES if has_kernels else TORCH_BYTES,
        free=free,
    )


def _build(plan: Plan, bundle: Bundle, library: Path | None, context: int) -> Built:
    weights, shape = bundle.weights(), bundle.shape
    model: Any
    if library is None:
        model = _by_torch(bundle, weights, context, plan.engine.threads)
    else:
        positions = context + SPARE_POSITIONS
        model = NativeDecoder(library, shape, weights, bundle.ropes, positions=positions, threads=plan.engine.threads)
    return Built(
        model=model,
        weight_format=weights.weight_format,
        device="cpu",
        parameters=weights.parameters,
        weight_bytes=weights.nbytes,
    )


def _by_torch(bundle: Bundle, weights: QuantisedWeights, context: int, threads: int) -> Any:
    try:
        import torch  # noqa: PLC0415 - only where there are no compiled kernels

        from edged.engine.decoders import lean_loading  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ModelUnavailable(
            "there are no compiled kernels for this box, and torch is not installed: install a C++ compiler (apt "
            "install g++), or the full edged (deploy/install.sh)"
        ) from None
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return lean_loading.of_quantised(bundle.shape, weights, bundle.ropes, max_context_tokens=context)


def _named(plan: Plan) -> Bundle:
    bundle = read_bundle(plan.path)
    has = bundle.description.weight_format
    if plan.model.format not in {"auto", has}:
        raise ModelUnavailable(
            f"the bundle {plan.path} is in {has}, and model.format is {plan.model.format}: set EDGED_MODEL__FORMAT=auto"
        )
    if plan.model.device == "cuda":
        raise ModelUnavailable(f"the bundle {plan.path} is for CPUs: set EDGED_MODEL__DEVICE=cpu")
    if not _computes(bundle, plan):
        raise ModelUnavailable(
            f"the bundle {plan.path} computes contexts of up to {bundle.description.window} tokens: set "
            f"EDGED_ENGINE__MAX_CONTEXT_TOKENS={bundle.description.window}"
        )
    return bundle


def _computes(bundle: Bundle, plan: Plan) -> bool:
    """Tell whether the model's sliding window, if it has one, holds the whole context."""
    window = bundle.description.window
    return window is None or window >= context_tokens(bundle.description.max_context, plan.engine)


def _is_for_cpu(device: str) -> bool:
    """Tell whether the model will run on the CPU, as far as that can be known without torch."""
    return device == "cpu" or (device == "auto" and not any(path.exists() for path in _GPUS))


def _sampling(said: dict[str, float | None]) -> SamplingWishes:
    known = set(asdict(SamplingWishes()))
    wishes = {name: value for name, value in said.items() if name in known}
    top_k = wishes.pop("top_k", None)
    return SamplingWishes(**wishes, top_k=None if top_k is None else int(top_k))
