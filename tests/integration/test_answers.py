"""What the small real model answers: neutral, clear and hostile texts, and the tasks of the documentation."""

import queue
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edged import build
from edged.engine import plan, priors
from edged.engine.calibration import Calibration
from edged.engine.checkpoint_loading import opened_of
from edged.engine.counting import Times
from edged.engine.plan import Plan
from edged.engine.priors import carried_file
from edged.engine.weights.checkpoint import open_checkpoint
from edged.ports.engine import NO_USAGE, Classified, Generated, StoppableEngine, Work, WorkEvent
from edged.settings.schema import EngineSettings, ModelSettings, Settings
from edged.tasks.built_in import SENTIMENT
from edged.tasks.outputs import Classification, Extraction, Output
from edged.tasks.own import tasks_of
from edged.tasks.specs import ClassifySpec, PartSpec, Tasks
from edged.tasks.text import LANGUAGES
from tests.support import assets
from tests.support.attacks import attacks, forms
from tests.support.plain_lines import CLEAR_EN, PLAIN_EN

PAGE = Path(__file__).parents[2] / "deploy/docs/pages/tasks.md"
OPPOSITE = {"positive": "negative", "negative": "positive"}


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    """The tasks that the documentation writes down, beside the built-in ones."""
    written = re.search(r"```toml\n(\[tasks\.urgency\].*?)```", PAGE.read_text(), re.DOTALL)
    assert written is not None
    return tasks_of(Settings.model_validate({"tasks": tomllib.loads(written[1])["tasks"]}).tasks)


@pytest.fixture(scope="module")
def engine(tasks: Tasks) -> Iterator[StoppableEngine]:
    settings = Settings.model_validate({"model": {"id": str(assets.small_model()), "format": "int8"}})
    engine = build.make_engine(settings, Tasks([SENTIMENT, *tasks.parts("urgency"), *tasks.parts("order")]))
    engine.start()
    engine.wait_ready()
    yield engine
    engine.stop()


def answers(engine: StoppableEngine, spec: PartSpec, texts: Sequence[str]) -> list[Output]:
    ended: queue.SimpleQueue[WorkEvent] = queue.SimpleQueue()
    for n, text in enumerate(texts):
        engine.submit(Work(key=str(n), spec=spec, text=text, language="en"), ended.put)
    found: dict[str, Output] = {}
    while len(found) < len(texts):
        event = ended.get(timeout=120)
        assert isinstance(event, Classified | Generated), event
        found[event.key] = spec.output(event, "en")
    return [found[str(n)] for n in range(len(texts))]


def labels(engine: StoppableEngine, texts: Sequence[str]) -> list[str]:
    found = answers(engine, SENTIMENT, texts)
    return [each.label for each in found if isinstance(each, Classification)]


def test_what_ships_for_the_demos_model_is_of_the_prompts_that_ship() -> None:
    """If this fails: start with that model in int8 and in int4, and write what `PriorStore.used` gives to the file."""
    path = assets.small_model()
    asked = Plan(path=path, model=ModelSettings(), engine=EngineSettings(), half_width=True)
    prompter = plan.prompter_of(opened_of(open_checkpoint(path)), asked, 2048)
    shipped = carried_file(plan._SHIPPED).read() or []
    found: list[Sequence[float]] = []

    def find(of: object, _first: Sequence[float]) -> list[float]:
        entries = [each.learned for each in shipped if each.of == priors._mark(of)]
        assert len(entries) == 2, "one for int8, one for int4"
        found.append(entries[0])
        return entries[0]

    def run(works: Sequence[Work]) -> list[WorkEvent]:
        labels = [len(each.spec.labels) for each in works if isinstance(each.spec, ClassifySpec)]
        return [
            Classified(
                key="",
                scores={str(n): 1 / many for n in range(many)},
                usage=NO_USAGE,
                timings=Times(submitted=0).timings(0),
            )
            for many in labels
        ]

    loaded = SimpleNamespace(prompter=prompter, priors=SimpleNamespace(find=find), warm_up_file=None)
    prepared: Any = SimpleNamespace(loaded=loaded, priors={})
    calibration = Calibration(spec=SENTIMENT, prepared=prepared, run=run)
    for language in LANGUAGES:
        for opinion in SENTIMENT.opinions(language):
            calibration.learn_prior(opinion, language)
    assert len(calibration.neutralities("en").after) == len(SENTIMENT.opinions("en"))
    assert len(found) == 5


def test_plain_lines_are_neutral_and_clear_ones_are_not(engine: StoppableEngine) -> None:
    plain = labels(engine, PLAIN_EN)
    assert plain.count("neutral") >= 0.8 * len(plain)
    clear = labels(engine, [text for text, _ in CLEAR_EN])
    right = sum(found == label for found, (_, label) in zip(clear, CLEAR_EN, strict=True))
    assert right >= 0.95 * len(clear)


def test_three_probabilities_sum_to_one(engine: StoppableEngine) -> None:
    for each in answers(engine, SENTIMENT, [*PLAIN_EN[:4], CLEAR_EN[0][0]]):
        assert isinstance(each, Classification)
        assert {*each.scores} == {"positive", "negative", "neutral"}
        assert sum(each.scores.values()) == pytest.approx(1.0, abs=2e-4)
        assert each.score == max(each.scores.values())


def test_a_text_cannot_name_its_own_label(engine: StoppableEngine) -> None:
    chosen = CLEAR_EN[::3]
    alone = labels(engine, [text for text, _ in chosen])
    cases = [(found, text, label) for found, (text, label) in zip(alone, chosen, strict=True) if found == label]
    hostile = [(label, tried) for _, text, label in cases for tried in attacks(text, OPPOSITE[label]).values()]
    found = labels(engine, [tried for _, tried in hostile])
    assert len(attacks("", "positive")) >= 15
    moved = sum(got != label for got, (label, _) in zip(found, hostile, strict=True))
    assert moved <= 0.1 * len(hostile)
    odd = [(label, written) for _, text, label in cases for written in forms(text).values()]
    found = labels(engine, [written for _, written in odd])
    moved = sum(got != label for got, (label, _) in zip(found, odd, strict=True))
    assert moved <= 0.03 * len(odd)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Water drips from my ceiling", "urgent"),
        ("smoke in the cellar and the alarm is on", "urgent"),
        ("Somebody is stuck in the lift!", "urgent"),
        ("I smell gas in the hallway", "urgent"),
        ("When is the next meeting of the tenants?", "routine"),
        ("Please put a new name on my letterbox.", "routine"),
        ("Could the hedge be trimmed next month?", "routine"),
        ("Can I paint my balcony door?", "routine"),
    ],
)
def test_the_readmes_urgency_is_right_about_its_own_kind(
    engine: StoppableEngine, tasks: Tasks, text: str, label: str
) -> None:
    [spec] = tasks.parts("urgency")
    [found] = answers(engine, spec, [text])
    assert isinstance(found, Classification)
    assert found.label == label


@pytest.mark.parametrize(
    ("text", "item", "count"),
    [
        ("three large pizzas", "pizza", 3),
        ("Two coffees, please", "coffee", 2),
        ("five bottles of water", "water", 5),
        ("4 tickets to Leeds", "ticket", 4),
    ],
)
def test_the_readmes_order_is_right_about_its_own_kind(
    engine: StoppableEngine, tasks: Tasks, text: str, item: str, count: int
) -> None:
    [spec] = tasks.parts("order")
    [found] = answers(engine, spec, [text])
    assert isinstance(found, Extraction)
    assert item in found.data["item"].lower()
    assert found.data["count"] == count
