"""Scores the labels of a classification on a server.

The prompt is a text to complete, with solved examples; the server gives the log-probabilities of the next token. A
server that gives none is made to write one of the labels by a JSON Schema; the scores are then 1 and 0.

Source: platform.openai.com/docs/api-reference/completions.
"""

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import structlog

from edged.engine.remote.answers import Completion
from edged.engine.remote.chat import Chat
from edged.engine.remote.connection import Malformed, Refused, Retry
from edged.engine.remote.server import Away, ModelServer
from edged.engine.remote.work import OpenWork
from edged.errors import ModelError
from edged.ports.engine import NO_USAGE, Classified, Usage, Work
from edged.tasks.conversation import Turn
from edged.tasks.specs import ClassifySpec, completion_prompt
from edged.tasks.text import Language, normalise

log = structlog.get_logger(__name__)

_PATH = "completions"
_TOP = 20  # log-probabilities asked for: the most that vLLM gives by default
_DEPTH = 8  # tokens at most by which two labels may begin alike
_LABEL_TOKENS = 16  # the longest label, written as JSON


class LabelScorer:
    """Probabilities of labels.

    Attributes:
        has_log_probabilities: whether the server gives them; None until `look` was called.
    """

    def __init__(self, server: ModelServer, chat: Chat, *, half_width: bool, clock: Callable[[], float]) -> None:
        self.has_log_probabilities: bool | None = None
        self._server = server
        self._chat = chat
        self._half_width = half_width
        self._clock = clock
        self._priors: dict[Hashable, dict[str, float]] = {}  # by `ClassifySpec.question`

    # ------------------------------------------------------------------------------------------------- the start

    def look(self) -> None:
        """Find out whether the server gives log-probabilities.

        Raises:
            Retry: the server cannot tell now.
        """
        body = {"prompt": "One, two, three,", "max_tokens": 1, "logprobs": _TOP}
        try:
            tells = bool(self._server.post_once(_PATH, body, Completion).next_tokens)
        except (Refused, Malformed) as error:
            log.info("remote_completes_no_text", reason=str(error))
            tells = False
        else:
            if not tells:
                log.info("remote_tells_no_log_probabilities", url=self._server.url)
        self.has_log_probabilities = tells

    def learn_prior(self, spec: ClassifySpec, language: Language, work: OpenWork) -> None:
        """Measure the prompt's own bias; see `ClassifyPrompt.neutral_texts`. `work` has the limits of the requests.

        Raises:
            Refused: the server does not take the prompt.
            RequestError: there is no answer.
        """
        if spec.question(language) in self._priors or not self.has_log_probabilities:
            return
        texts = spec.prompts[language].neutral_texts
        sums = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        for text in texts:
            for label, value in self._evidence(work, spec, text, language)[0].items():
                sums[label] += value / len(texts)
        self._priors[spec.question(language)] = sums

    # -------------------------------------------------------------------------------------------------- the work

    @property
    def endpoint(self) -> str:
        """The endpoint that classifications depend on."""
        return _PATH if self.has_log_probabilities else self._chat.endpoint

    def classify(self, work: OpenWork, spec: ClassifySpec) -> Classified:
        """Give each label a probability.

        Raises:
            Refused: the server does not take the request.
            RequestError: there is no answer.
        """
        if self.has_log_probabilities is None:
            raise Away(Retry("it has not answered yet"))
        if self.has_log_probabilities:
            scores, usage = self._scored(work, spec)
        else:
            chosen, usage = self._chosen(work, spec)
            scores = {label.canonical: float(label.canonical == chosen) for label in spec.labels}
        work.first = now = self._clock()
        return Classified(key=work.work.key, scores=scores, usage=usage, timings=work.timings(now))

    def _scored(self, work: OpenWork, spec: ClassifySpec) -> tuple[dict[str, float], Usage]:
        """Score by the task's prompt, and in doubt by its further prompts too."""
        language = work.work.language
        evidence = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        scores, usage = evidence, NO_USAGE
        # What names a label of one prompt is cut out for all of them.
        text = spec.read(normalise(work.work.text, half_width=self._half_width), language)
        for asked, opinion in enumerate(spec.opinions(language), start=1):
            found, spent = self._evidence(work, opinion, text, language)
            prior = self._priors.get(opinion.question(language), {})
            evidence = {label: value + found[label] - prior.get(label, 0.0) for label, value in evidence.items()}
            scores = _softmax({label: value / asked for label, value in evidence.items()})
            usage += spent
            if not spec.is_in_doubt(scores.values()):
                break
        return scores, usage

    def _evidence(
        self, work: OpenWork, spec: ClassifySpec, text: str, language: Language
    ) -> tuple[dict[str, float], Usage]:
        """Log-probability of each label, summed over the readings."""
        prompt = completion_prompt(
            spec, text=spec.read(normalise(text, half_width=self._half_width), language), language=language
        )
        words = [label.words(language) for label in spec.labels]
        flat = [f"{prompt.space}{word}" for each in words for word in each]
        found, usage = self._log_probabilities(work, prompt.text, flat, depth=0)
        evidence = dict.fromkeys((label.canonical for label in spec.labels), 0.0)
        for reading in zip(*words, strict=True):
            values = [found[f"{prompt.space}{word}"] for word in reading]
            total = _log_sum(values)
            for label, value in zip(spec.labels, values, strict=True):
                evidence[label.canonical] += value - total
        return evidence, usage

    def _log_probabilities(
        self, work: OpenWork, prompt: str, words: Sequence[str], depth: int
    ) -> tuple[dict[str, float], Usage]:
        """How probable each of `words` is after `prompt`, as far as is needed to tell them apart.

        A word that is not among the most probable tokens gets the probability of the least probable of these: its own
        is not higher.
        """
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": _TOP}
        answer = self._server.post(work, _PATH, body, Completion)
        top, usage = answer.next_tokens, answer.usage
        if not top:  # llama.cpp, where the text would end here
            return dict.fromkeys(words, 0.0), usage
        floor = min(top.values())
        found: dict[str, list[float]] = {word: [] for word in words}
        for token, value in top.items():
            meant = [word for word in words if token.strip() and (word.startswith(token) or token.startswith(word))]
            if len(meant) == 1 or depth >= _DEPTH:
                for word in meant:
                    found[word].append(value)
            elif meant:
                rests = [word[len(token) :] or "\n" for word in meant]
                deeper, spent = self._log_probabilities(work, prompt + token, rests, depth + 1)
                usage += spent
                for word, rest in zip(meant, rests, strict=True):
                    found[word].append(value + deeper.get(rest, 0.0))
        return {word: _log_sum(values) if values else floor for word, values in found.items()}, usage

    def _chosen(self, work: OpenWork, spec: ClassifySpec) -> tuple[str, Usage]:
        """Let the server write one of the labels; a schema allows nothing else."""
        language = work.work.language
        by_word = {label.words(language)[0]: label.canonical for label in spec.labels}
        words = {label: word for word, label in by_word.items()}
        prompt = spec.prompts[language]
        turns = []
        for example in prompt.examples:
            turns.append(Turn(role="user", content=example.text))
            turns.append(Turn(role="assistant", content=json.dumps(words[example.label], ensure_ascii=False)))
        turns.append(Turn(role="user", content=normalise(work.work.text, half_width=self._half_width)))
        said, usage = self._chat.answer(
            work,
            system=f"{prompt.role.strip()} {' / '.join(by_word)}",
            turns=turns,
            max_tokens=_LABEL_TOKENS,
            name=spec.name,
            schema={"type": "string", "enum": [*by_word]},
        )
        said = said.strip().strip('"')
        if said not in by_word:
            raise ModelError("the server did not keep to the labels of the task")
        return by_word[said], usage


def warm_up_work(spec: ClassifySpec, language: Language, now: float) -> OpenWork:
    """Work for the requests of the start, which no caller sent."""
    return OpenWork(Work(key="warm-up", spec=spec, text="", language=language), lambda _: None, now)


def _log_sum(values: Sequence[float]) -> float:
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values))


def _softmax(evidence: Mapping[str, float]) -> dict[str, float]:
    total = _log_sum([*evidence.values()])
    return {label: math.exp(value - total) for label, value in evidence.items()}
