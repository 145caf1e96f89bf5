"""Makes a bundle of a checkpoint whose weights are prepared: everything beside the weights. Needs transformers."""

import shutil
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from edged.engine.bundled import Description
from edged.engine.tokenizer import TokenizerConfig
from edged.engine.weights.architectures.architecture import DecoderShape, LayerKind
from edged.engine.weights.architectures.table import exact_context
from edged.engine.weights.checkpoint import Checkpoint
from edged.engine.weights.prepared_file import fingerprint
from edged.engine.weights.quantised import QuantisedWeights
from edged.engine.weights.rope import Rope
from edged.models.bundle import MANIFEST, TOKENIZER, WEIGHTS, Origin, write_manifest
from edged.models.presets import preset_sampling

log = structlog.get_logger(__name__)


def tokenizer_config(tokenizer: Any) -> TokenizerConfig:
    """What a bundle must know of a tokenizer of transformers beside its tokenizer.json."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else None
    is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    return TokenizerConfig(
        chat_template=template,
        special=dict(tokenizer.special_tokens_map),
        special_ids=list(tokenizer.all_special_ids),
        # transformers does not do it for BPE, unless a tokenizer asks for it by this long name.
        cleans_up=bool(tokenizer.clean_up_tokenization_spaces)
        and (not is_bpe or bool(tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output)),
    )


def tokenizer_json(tokenizer: Any) -> str:
    """A tokenizer of transformers as one file: as it tokenizes, with all tokens that were added to it."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())


def complete(
    folder: Path,
    checkpoint: Checkpoint,
    shape: DecoderShape,
    weights: QuantisedWeights,
    ropes: Sequence[Rope],
    model_id: str,
) -> bool:
    """Make a bundle of the folder that holds the prepared weights.

    Args:
        folder: with the weights of this checkpoint.
        checkpoint: of which they were made.
        shape: its sizes.
        weights: as they were prepared.
        ropes: what its layers rotate by.
        model_id: what the settings call the model.

    Returns:
        Whether it is a bundle now: not if the tokenizer is not one of the `tokenizers` library, or the disk is full.
    """
    made_of = fingerprint(checkpoint.path)
    if not checkpoint.tokenizer.is_fast:
        return False
    description = Description(
        architecture=(checkpoint.config.architectures or ["unknown"])[0],
        weight_format=weights.weight_format,
        parameters=weights.parameters,
        shape=_described(shape),
        frequencies=[float(each) for each in ropes[0].frequencies],
        rope_scale=ropes[0].scale,
        **_more(ropes[1:]),
        max_context=getattr(checkpoint.config.get_text_config(), "max_position_embeddings", None),
        window=exact_context(checkpoint.config),
        end_tokens=sorted(checkpoint.end_tokens),
        always_begins=checkpoint.always_begins,
        sampling=asdict(checkpoint.sampling) | _said(asdict(preset_sampling(model_id))),
        tokenizer=tokenizer_config(checkpoint.tokenizer),
    )
    origin = Origin(model=model_id, made_of=made_of, licence=checkpoint.licence)
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / TOKENIZER).write_text(tokenizer_json(checkpoint.tokenizer), encoding="utf-8")
        licences = _licences(checkpoint.path)
        for each in licences:
            shutil.copyfile(each, folder / each.name)
        names = [WEIGHTS, TOKENIZER, *(each.name for each in licences)]
        write_manifest(folder, names, origin, description.model_dump(mode="json", exclude_unset=True))
    except OSError as error:
        log.warning("bundle_not_made", folder=str(folder), reason=error.strerror or str(error))
        return False
    return True


def _described(shape: DecoderShape) -> dict[str, Any]:
    """Give a shape without what is as usual, so that earlier releases read the bundles of models that they know."""
    left_out = {"names", "embedding_scale"}  # the weights have the scale
    if shape.attention_scale == shape.head_dim**-0.5:
        left_out.add("attention_scale")
    for field, usual in (("layer_kinds", (LayerKind(),) * shape.layers), ("activation", "silu")):
        if getattr(shape, field) == usual:
            left_out.add(field)
    if not shape.normalises_outputs:
        left_out.add("normalises_outputs")
    return {name: value for name, value in asdict(shape).items() if name not in left_out}


def _more(ropes: Sequence[Rope]) -> dict[str, Any]:
    if not ropes:
        return {}
    return {"more_ropes": [{"frequencies": list(map(float, each.frequencies)), "scale": each.scale} for each in ropes]}


def _said(wishes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wishes.items() if value is not None}


def _licences(path: Path) -> list[Path]:
    return sorted(path.glob("LICENSE*")) if path.is_dir() else []
