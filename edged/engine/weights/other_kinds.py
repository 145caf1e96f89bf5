"""Files and folders that people take for a model and that are something else: what they are, and what to do.

Looks at names and small files only. Gives words; raises nothing but for folders with several GGUF files.
"""

import json
from pathlib import Path

from transformers import PretrainedConfig

from edged.engine.weights.gguf_parts import number_of
from edged.errors import ModelUnavailable

_SET = "set EDGED_MODEL__ID to"
# A file that a folder of another kind has, what the folder is then, and what to do.
_OTHER_FOLDERS = (
    ("model_index.json", "is an image model of diffusers: name a language model in EDGED_MODEL__ID"),
    ("*.mlmodelc", "is a model for Core ML: take its original with safetensors, and name that in EDGED_MODEL__ID"),
    ("openvino_model*.xml", "is for OpenVINO: take its original with safetensors, and name that in EDGED_MODEL__ID"),
    ("*.onnx", "is for ONNX Runtime: take its original with safetensors, and name that in EDGED_MODEL__ID"),
    ("onnx/*.onnx", "is for ONNX Runtime: take its original with safetensors, and name that in EDGED_MODEL__ID"),
    ("rank*.engine", "is compiled for TensorRT: take its original with safetensors, and name that in EDGED_MODEL__ID"),
    (
        "params.json",
        "is in its makers' own layout: take the one for transformers, and name that in EDGED_MODEL__ID",
    ),
)
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def gguf_alone(folder: Path) -> Path | None:
    """Give the one GGUF file of a folder that has no other weights; None where it has none.

    Raises:
        ModelUnavailable: there are several, and one must be named.
    """
    if any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").exists():
        return None
    found = sorted(each for each in folder.glob("*.gguf") if not each.name.startswith("mmproj"))
    if not found:
        return None
    whole = [each for each in found if (number_of(each) or 1) == 1]
    if len(whole) == 1:
        return whole[0]
    names = ", ".join(each.name for each in found)
    raise ModelUnavailable(f"{folder} has several GGUF files: {_SET} one of them ({names})")


def other_file(path: Path) -> str:
    """Say what a file is that is no GGUF file by its name; empty where it may be one."""
    if path.name.endswith((".safetensors", ".safetensors.index.json")) or path.name == "config.json":
        return f"is one file of a model's folder: {_SET} the folder, {path.parent}"
    if path.suffix in _PICKLES:
        return (
            "is a pickle, which can run code and is never loaded: take the model's folder of safetensors or its GGUF "
            "file, and name that in EDGED_MODEL__ID"
        )
    return ""


def other_folder(folder: Path) -> str:
    """Say what a folder is that is no model's; empty where it may be one."""
    if not any(folder.iterdir()):
        return (
            "is empty, with no config.json in it: fetch the model with `edged models pull`, or name another in "
            "EDGED_MODEL__ID"
        )
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder)
    if (folder / "config.json").is_file():
        return ""
    return next((what for pattern, what in _OTHER_FOLDERS if any(folder.glob(pattern))), "") or _inner(folder)


def quantised_by_others(config: PretrainedConfig) -> str:
    """Say by which program a model's weights were rounded; empty where they are plain."""
    plain = "take the model with plain weights, or a GGUF file of it"
    said = getattr(config, "quantization_config", None)
    if said is not None:
        method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
        return f"its weights are quantised by {getattr(method, 'value', method) or 'another program'}: {plain}"
    said = getattr(config, "quantization", None)
    if isinstance(said, dict) and "bits" in said:
        return f"its weights are quantised by MLX ({said['bits']} bits), for Apple's machines: {plain}"
    return ""


def _adapter(folder: Path) -> str:
    try:
        said = json.loads((folder / "adapter_config.json").read_bytes())
        base = str(said.get("base_model_name_or_path") or "its base model")
    except (OSError, ValueError, AttributeError):
        base = "its base model"
    beside = " beside a model, and would not be applied" if any(folder.glob("model*.safetensors")) else " alone"
    return (
        f"has a LoRA adapter{beside}: merge it into {base} (load both with peft, merge_and_unload(), "
        f"save_pretrained()), and {_SET} the merged folder"
    )


def _inner(folder: Path) -> str:
    """Say where the model is, if a folder in this one has it."""
    inner = sorted(each.parent for each in folder.glob("*/config.json"))
    if not inner:
        inner = sorted(each.parent for each in folder.glob("snapshots/*/config.json"))
    if not inner:
        return ""
    return f"has no config.json, but a folder in it has one: {_SET} {inner[0]}"
