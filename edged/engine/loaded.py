"""A loaded model, and what the engine measures about it and its prompts before the first request."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import numpy.typing as npt

from edged.engine.constrain import Constraints
from edged.engine.conversation_file import ConversationFile
from edged.engine.decoders.interface import CausalModel, K
from edged.engine.neutrality import Neutralities
from edged.engine.own_calibrations import OwnCalibrations
from edged.engine.priors import PriorStore
from edged.engine.prompt import Prompter
from edged.engine.warm_up_file import WarmUpFile
from edged.ports.engine import ModelInfo
from edged.tasks.own_calibration import OwnCalibration
from edged.tasks.specs import Sampling
from edged.tasks.text import Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much the engine may do at once.

    Attributes:
        max_batch: replies that are written at the same time.
        max_new_tokens: of one reply.
        prefill_chunk_tokens: prompt tokens of one step.
        classify_chunk_tokens: those of classifications among them; None: no less.
        kv_bytes: keys and values of all running sequences together.
        prefix_cache_bytes: keys and values that are kept for later prompts.
    """

    max_batch: int
    max_new_tokens: int
    prefill_chunk_tokens: int
    kv_bytes: int
    prefix_cache_bytes: int
    classify_chunk_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[K]):
    """A model ready to run.

    Attributes:
        sampling: the values that suit this model; they hold where neither the task nor the request has its own.
        priors: the file where priors are kept from one start to the next.
        own_calibrations: what was learned from the operator's texts; empty where it is not to be used.
        warm_up_file: what earlier starts computed of this very model by these very kernels; None where the decoder
            cannot take it from a file.
        conversation_file: where conversations are kept from one process to the next; None where they are not.
    """

    model: CausalModel[K]
    prompter: Prompter
    info: ModelInfo
    limits: Limits
    sampling: Sampling = field(default_factory=Sampling)
    priors: PriorStore = field(default_factory=lambda: PriorStore(None))
    own_calibrations: OwnCalibrations = field(default_factory=dict)
    warm_up_file: WarmUpFile[K] | None = None
    conversation_file: ConversationFile[K] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared(Generic[K]):
    """A loaded model with what every sequence on it needs.

    Attributes:
        end_tokens: tokens with which the model ends its turn.
        banned: ids of the tokens that no reply contains.
        constraints: hold an output to the JSON Schema of its task.
        priors: the bias of each prompt, by `ClassifySpec.question`. The warm-up fills it.
        further_capacity: by task and language, how many more tokens the longest of the further prompts takes than the
            first one. The warm-up fills it.
        room: by the same, how many tokens of a text fit into the longest of the prompts. The warm-up fills it.
        neutralities: how a plain text is known, after one prompt, after two, and so on, by `ClassifySpec.questions`.
            The warm-up fills it for tasks that can learn it.
        own: what was learned from the operator's texts, by the same. The warm-up fills it.
    """

    loaded: Loaded[K]
    end_tokens: frozenset[int]
    banned: npt.NDArray[np.intp]
    constraints: Constraints
    priors: dict[Hashable, list[float]] = field(default_factory=dict)
    further_capacity: dict[tuple[str, Language], int] = field(default_factory=dict)
    room: dict[tuple[str, Language], int] = field(default_factory=dict)
    neutralities: dict[Hashable, Neutralities] = field(default_factory=dict)
    own: dict[Hashable, OwnCalibration] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Loaded[K]) -> "Prepared[K]":
        """Derive the token sets from the model's tokenizer; nothing is warmed up yet."""
        prompter, vocab_size = loaded.prompter, loaded.model.vocab_size
        return cls(
            loaded=loaded,
            end_tokens=prompter.end_tokens(),
            banned=np.array(sorted(prompter.banned_tokens(vocab_size)), dtype=np.intp),
            constraints=prompter.constraints(vocab_size),
        )
