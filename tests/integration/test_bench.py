"""`edged bench` from the command line to its JSON, on a tiny random model with a real tokenizer."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen2Config

from edged.bench.report import Figure, Report
from edged.bench.workloads import DECODE_TOKENS, REPLY_TOKENS
from edged.commands import cli
from edged.errors import ExitCode
from tests.support import assets, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny-qwen2"
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
    )
    tiny.save(tiny.make(config), folder)
    AutoTokenizer.from_pretrained(assets.qwen_tokenizer()).save_pretrained(folder)
    return folder


def bench(model: Path, *options: str) -> int:
    return cli.main(["bench", "--model", str(model), "--format", "fp32", "--threads", "1", *options])


def positive(figure: Figure) -> bool:
    return 0 < figure.low <= figure.median <= figure.high


def test_a_whole_report(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, "--rounds", "1", "--json") == ExitCode.DONE
    report = Report.model_validate_json(capsys.readouterr().out)
    assert not report.notes
    assert (report.model.id, report.model.format, report.model.threads) == ("tiny-qwen2", "fp32", 1)
    assert report.rounds == 1
    start = report.start
    assert start is not None
    assert start.load_s.median < start.ready_s.median < start.first_token_s.median
    assert start.import_s is not None
    assert positive(start.import_s)
    assert 0 < start.ready_memory_mb.median <= start.peak_memory_mb.median
    assert [each.tokens for each in report.prefill] == [128, 512]
    for prefill in report.prefill:
        assert abs(prefill.prefilled_tokens - prefill.tokens) <= 1
        assert positive(prefill.tokens_per_s)
    assert [each.batch for each in report.decode] == [1, 4, 8]
    for decode in report.decode:
        assert abs(decode.context_tokens - 128) <= 1
        assert 0 < decode.new_tokens <= DECODE_TOKENS
        assert positive(decode.tokens_per_s)
    # So small a model is asked for the feeling before it replies, by up to three prompts.
    for latency, most in ((report.first_token, 4 * 60), (report.sentiment, 60)):
        assert latency is not None
        assert latency.samples == 10
        assert 0 < latency.p50_ms <= latency.p95_ms
        assert 30 <= latency.prefilled_tokens < most
    assert [(each.concurrency, each.history) for each in report.message] == [
        (1, "new"),
        (1, "known"),
        (8, "new"),
        (8, "known"),
    ]
    for message in report.message:
        assert 0 < message.new_tokens <= REPLY_TOKENS
        texts = 8 if message.history == "new" else 2  # the text twice, and six turns
        assert texts * 28 < message.prefilled_tokens < texts * 60
        assert positive(message.jobs_per_min)
    assert report.bandwidth is not None
    share = report.model.weight_bytes * report.decode[0].tokens_per_s.median / report.bandwidth.read_gb_s.median / 1e9
    assert report.bandwidth.weight_share == pytest.approx(share, rel=0.01)


def test_a_part_alone_as_a_table(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, "--rounds", "2", "--only", "sentiment") == ExitCode.DONE
    printed = capsys.readouterr()
    assert "round 2/2" in printed.err
    lines = printed.out.splitlines()
    assert lines[0].startswith("edged ")
    assert [line.split()[0] for line in lines[3:]] == ["sentiment"]


@pytest.mark.parametrize("part", ["start", "prefill"])
def test_a_model_that_cannot_be_read_is_told(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert bench(tmp_path, "--rounds", "1", "--only", part) == ExitCode.MODEL
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("edged: ")


def test_a_format_that_there_is_not_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--model", str(model), "--format", "int3"]) == ExitCode.USAGE
    assert "model.format" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--only", "nothing"], ["--rounds", "0"], ["--rounds", "x"]])
def test_options_that_make_no_sense_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(["bench", *options])
    assert refused.value.code == ExitCode.USAGE


def test_the_schema_describes_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--schema"]) == ExitCode.DONE
    assert '"jobs_per_min"' in capsys.readouterr().out
