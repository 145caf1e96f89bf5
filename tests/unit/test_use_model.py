"""`edged models import --use`: the settings file names another model, and nothing else in it changes."""

import tomllib
from pathlib import Path

import pytest

from edged.commands import use_model
from edged.errors import SettingsError
from edged.settings import load as config
from edged.settings.text import example


def test_the_example_file_names_the_model_and_is_otherwise_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "edged.toml"
    file.write_text(example())
    before = config.load(flags={}, config_file=file)
    told = use_model.use("smollm2", file)
    assert str(file) in told
    after = config.load(flags={}, config_file=file)
    assert after.model.id == "smollm2"
    assert after.model_copy(update={"model": before.model}) == before
    changed = [line for line in file.read_text().splitlines() if line not in example().splitlines()]
    assert changed == ['id = "smollm2"']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '[model]\nid = "new"\n'),
        ("# mine", '# mine\n\n[model]\nid = "new"\n'),
        ("[model]", '[model]\nid = "new"\n'),
        ('[model] # ours\nid = "old" # once\n', '[model] # ours\nid = "new"\n'),
        (
            '[model]\nformat = "int8"\n[mqtt]\nid = "x"\n',
            '[model]\nid = "new"\nformat = "int8"\n[mqtt]\nid = "x"\n',
        ),
        ('[model]\n# id = "a"\nid = "b"\n', '[model]\n# id = "a"\nid = "new"\n'),
    ],
)
def test_the_line_of_the_model_is_changed_or_written(text: str, expected: str) -> None:
    assert use_model.with_model(text, "new") == expected


def test_a_name_with_quotes_stays_a_name() -> None:
    name = 'a "b" \\ c'
    assert tomllib.loads(use_model.with_model("[model]\n", name))["model"]["id"] == name


@pytest.mark.parametrize("text", ['model.id = "old"\n', 'model = { id = "old" }\n', "[model\n"])
def test_what_it_does_not_understand_it_leaves_to_a_person(text: str, tmp_path: Path) -> None:
    file = tmp_path / "edged.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"below \[model\]: id = \"new\""):
        use_model.use("new", file)
    assert file.read_text() == text


def test_without_a_settings_file_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_model, "settings_file", lambda _: None)
    with pytest.raises(SettingsError, match="EDGED_MODEL__ID=new"):
        use_model.use("new", None)
