"""`edged eval` on the small real model."""

import json
from pathlib import Path

import pytest

from edged.commands import cli
from edged.errors import ExitCode
from edged.evaluation.report import EvalReport
from tests.support import assets

DATA = """\
text\tlabel
I love it, it is wonderful.\t1
A great day with great people.\t1
This is the best meal I ever had.\t1
The staff were lovely and helpful.\t1
I hate it, it is horrible.\t0
A terrible day, everything went wrong.\t0
This is the worst meal I ever had.\t0
The staff were rude and lazy.\t0
I am so happy today.\t1
I am so sad today.\t0
"""


def test_it_measures_both_ways_and_says_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reviews.tsv"
    path.write_text(DATA)
    monkeypatch.setenv("EDGED_MODEL__ID", str(assets.small_model()))
    assert cli.main(["eval", "--data", str(path), "--baseline", "--json"]) == ExitCode.DONE
    told = capsys.readouterr().out
    found = EvalReport.model_validate_json(told)
    assert found.scored.accuracy >= 0.9  # these are plain
    assert found.scored.calibration_error is not None
    assert found.baseline is not None
    assert found.baseline.seconds_per_text > 0  # how much longer it takes is for a quiet box to say
    assert cli.main(["eval", "--data", str(path), "--json"]) == ExitCode.DONE
    first, second = json.loads(told)["scored"], json.loads(capsys.readouterr().out)["scored"]
    for name in ("seconds_per_text", "mean_seconds_per_text"):
        assert first.pop(name) > 0
        second.pop(name)
    assert first == second
