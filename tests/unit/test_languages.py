"""Languages: how a text's own is told, which prompts it gets, and which languages a model reads."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edged.errors import SettingsError
from edged.models.languages import READS, asked_languages_of, languages_of
from edged.serving.identify import identify
from edged.settings import load as config
from edged.settings.text import example, show
from edged.tasks.built_in import BUILT_IN
from edged.tasks.languages.own import EXAMPLE
from edged.tasks.languages.shipped import SHIPPED
from edged.tasks.languages.unread import UNREAD
from edged.tasks.own import tasks_of
from edged.tasks.plain_texts import CLEAR, PLAIN
from edged.tasks.reading import in_use, text_language
from edged.tasks.specs import ClassifySpec, GenerateSpec, solved_cases
from edged.tasks.text import LANGUAGES

SENTIMENT, REPLY = BUILT_IN.parts("message")


def settings(folder: Path, text: str) -> Any:
    path = folder / "edged.toml"
    path.write_text(text)
    return config.load(flags={}, config_file=path)


# ------------------------------------------------------------------------------------------ the language of a text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("My train was late again and I missed the meeting.", "en"),
        ("Mein Zug hatte wieder Verspätung, ich habe die Besprechung verpasst.", "de"),
        ("El tren ha vuelto a llegar tarde y me he perdido la reunión.", "es"),
        ("Mon train était encore en retard et j'ai raté la réunion.", "fr"),
        ("Il treno era di nuovo in ritardo e ho perso la riunione.", "it"),
        ("O trem atrasou de novo e eu perdi a reunião.", "pt"),
        ("今天心情很好", "zh"),
        ("好", "zh"),
        ("また電車が遅れた", "ja"),
        ("ありがとう", "ja"),
        ("기차가 또 늦어서 회의에 못 갔어요.", "ko"),
        ("القطار تأخر مرة أخرى وفاتني الاجتماع", "ar"),
        ("ट्रेन फिर से देर से आई और मेरी बैठक छूट गई", "hi"),
        ("Поезд снова опоздал, и я пропустил совещание.", "ru"),
    ],
)
def test_the_language_of_a_text_is_told(text: str, language: str) -> None:
    assert identify(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "ok",
        "OK!!!",
        "lol",
        "no",
        "😄😄",
        "12:30",
        "temp=21.5 hum=40",
        "https://example.org/a/b",
        "@user #tag",
    ],
)
def test_nothing_is_said_of_a_text_that_could_be_of_many_languages(text: str) -> None:
    assert identify(text) in {None, "en"}


def test_no_line_of_a_device_or_a_customer_counts_as_another_language() -> None:
    for language in LANGUAGES:
        for text in (*PLAIN[language], *CLEAR[language]):
            assert identify(text) in {language, None}, text


def test_a_long_text_and_odd_characters_do_no_harm() -> None:
    assert identify("The train was late again.\n" * 2000) == "en"
    assert identify("\x00\ud800 \U000e0001 " + "The train was late again.") in {"en", None}


# ------------------------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("found", "reads", "fixed", "prompts", "is_unread"),
    [
        ("de", ("en", "de"), None, "de", False),
        ("de", ("en",), None, "en", True),
        ("de", (), None, "en", False),  # it is not known what the model reads
        (None, ("fr",), None, "en", False),  # rather no mark than a wrong one
        ("zh", (), None, "en", False),  # the script decides, as in a text with one Chinese word
        ("de", ("en", "de"), "zh", "zh", False),
        ("de", ("en",), "zh", "zh", True),
    ],
)
def test_prompts_are_in_a_language_that_the_model_reads(
    found: str | None, reads: tuple[str, ...], fixed: str | None, prompts: str, is_unread: bool
) -> None:
    told = text_language("some text", found, reads=reads, asked=reads, fixed=fixed)
    assert (told.found, told.prompts, told.is_unread) == (found, prompts, is_unread)


def test_a_model_is_warmed_up_in_the_languages_that_it_reads() -> None:
    assert in_use(SENTIMENT.languages, asked=()) == ("en", "zh")
    assert in_use(SENTIMENT.languages, asked=("en", "de", "ko")) == ("en", "zh", "de")


@pytest.mark.parametrize(
    ("model", "some"),
    [
        ("smollm2-135m-instruct", "en"),
        ("/models/SmolLM2-135M-Instruct.Q4_1.gguf", "en"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "ja"),
        ("owner--gemma-3-270m@main", "de"),
        ("/models/gemma3-270m.gguf", None),
        ("my-own-model", None),
    ],
)
def test_the_name_of_a_model_tells_what_it_reads(model: str, some: str | None) -> None:
    found = languages_of(model)
    assert (some in found) if some is not None else found == ()
    assert languages_of(model, ["pl"]) == asked_languages_of(model, ["pl"]) == ("pl",)


def test_a_model_is_asked_in_few_languages_unless_that_takes_little_memory() -> None:
    assert asked_languages_of("qwen2.5-0.5b-instruct") == ()
    assert "de" in asked_languages_of("gemma-3-270m")
    assert "de" in languages_of("qwen2.5-0.5b-instruct")


def test_codes_are_codes() -> None:
    codes = {*UNREAD, *(each for reads in READS.values() for each in reads), *SENTIMENT.languages}
    assert all(re.fullmatch("[a-z]{2}", each) for each in codes)


# --------------------------------------------------------------------------------------------------------- prompts


def test_every_language_has_all_that_the_tasks_need() -> None:
    assert isinstance(SENTIMENT, ClassifySpec)
    assert isinstance(REPLY, GenerateSpec)
    assert SENTIMENT.neutral is not None
    for language in SENTIMENT.languages:
        prompt = SENTIMENT.prompts[language]
        labels = [each.label for each in prompt.examples]
        assert labels.count("positive") == labels.count("negative") == len(labels) / 2
        assert all(label.names[language] for label in (*SENTIMENT.labels, SENTIMENT.neutral))
        assert solved_cases(SENTIMENT, language)
        assert prompt.neutral_texts
        assert REPLY.system[language]
        assert language in UNREAD
    for each in SHIPPED:
        texts = [*each.neutral_texts, *each.positive, *each.negative]
        assert len({*texts}) == len(texts)
        assert not any(identify(text) not in {None, each.language} for text in (*each.positive, *each.negative))


@pytest.mark.parametrize("language", sorted({*UNREAD} - {"no"}))  # Norwegian is taken for Danish
def test_what_a_reply_says_is_in_its_own_language(language: str) -> None:
    assert identify(UNREAD[language]) == language


def test_an_operator_adds_a_language(tmp_path: Path) -> None:
    shown = "\n".join(line.removeprefix("#") for line in EXAMPLE.splitlines() if not re.match(r"# \S", line))
    found = settings(tmp_path, shown)
    sentiment, reply = tasks_of(found.tasks, found.languages).parts("message")
    assert isinstance(sentiment, ClassifySpec)
    assert isinstance(reply, GenerateSpec)
    assert solved_cases(sentiment, "pl").startswith("Komentarz: Pociąg znowu się spóźnił.\nNastrój: źle\n\n")
    assert sentiment.labels[0].names["pl"] == "pozytywny"
    assert reply.system["pl"].startswith("Jesteś")
    assert {*BUILT_IN.parts("sentiment")[0].languages} < {*sentiment.languages}
    assert EXAMPLE in example()
    assert tomllib.loads(show(found))["languages"]["pl"]["bad"] == ["źle", "smutek"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["źle", "smutek"]', '["źle"]', "the same number of words"),
        ('["źle", "smutek"]', '["źle", "dobrze"]', "none in common"),
        ("{label}", "label", "case must contain"),
        ('negative = ["Pociąg znowu się spóźnił.", ', "negative = [", "the same number of texts"),
        ("[languages.pl]", "[languages.polish]", r"languages\.polish.*two or three small letters"),
    ],
)
def test_a_language_that_does_not_fit_is_refused_by_name(tmp_path: Path, old: str, new: str, told: str) -> None:
    shown = "\n".join(line.removeprefix("#") for line in EXAMPLE.splitlines() if not re.match(r"# \S", line))
    assert old in shown
    with pytest.raises(SettingsError, match=told):
        settings(tmp_path, shown.replace(old, new))


def test_a_fixed_language_needs_prompts_and_a_model_that_reads_it(tmp_path: Path) -> None:
    assert settings(tmp_path, 'language = "de"\n[model]\nreads = ["de", "en"]\n').prompt_language == "de"
    for text in ('language = "de"\n', 'language = "xx"\n[model]\nreads = ["xx"]\n'):
        with pytest.raises(SettingsError, match="for which there must be prompts"):
            settings(tmp_path, text)


def test_what_a_model_reads_may_be_given_as_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_MODEL__READS", "en,de")
    assert config.load(flags={}, config_file=None).model.reads == ("en", "de")
    monkeypatch.setenv("EDGED_MODEL__READS", '["en", "pl"]')
    assert config.load(flags={}, config_file=None).model.reads == ("en", "pl")


def test_a_task_of_the_operators_own_may_be_asked_in_any_language(tmp_path: Path) -> None:
    text = (
        '[tasks.x]\nkind = "classify"\nrole = { en = "Judge.", de = "Urteile." }\n'
        'labels = [{ label = "a", names = { de = "ja" } }, "b"]\n'
    )
    found = settings(tmp_path, text)
    (task,) = tasks_of(found.tasks).parts("x")
    assert isinstance(task, ClassifySpec)
    assert {*task.languages} == {"en", "zh", "de"}
    assert task.prompts["de"].role == "Urteile.\n\n"
    assert task.labels[0].words("de") == ("ja",)
    assert task.labels[0].words("en") == ("a",)
