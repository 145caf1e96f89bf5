"""The commands. Each imports what it needs when it runs, so that `--help` is quick."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged import __version__
from edged.bench.report import PARTS
from edged.errors import EdgedError, ExitCode, FatalError, SettingsError
from edged.settings.schema import Settings

if TYPE_CHECKING:
    from edged.client import Client

_REMEMBERED = 64  # turns that a talk with a group is told of
_RAW = argparse.RawDescriptionHelpFormatter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code (`edged.errors.ExitCode`)."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], ExitCode] = options.command
    try:
        return command(options)
    except FatalError as error:
        print(f"edged: {error}", file=sys.stderr)
        return error.exit_code
    except EdgedError as error:
        print(f"edged: {error}", file=sys.stderr)
        return ExitCode.BUG
    except (KeyboardInterrupt, BrokenPipeError):
        return ExitCode.INTERRUPTED


# ---------------------------------------------------------------------------------------------------- the options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edged",
        description="One small language model, many tasks, over MQTT.",
        epilog="exit codes: 0 done, 2 usage or settings, 3 model, 4 broker, 5 interrupted work, 70 a bug",
    )
    parser.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "run", _run, "serve until SIGTERM", "EDGED_NODE=kitchen edged run --config /etc/edged/edged.toml")
    demo = _add(commands, "demo", _demo, "show it all on a private broker", "edged demo", with_settings=False)
    demo.add_argument("--model", default="smollm2-135m-instruct", help="preset, folder or GGUF file (%(default)s)")
    ask = _add(commands, "ask", _ask, "ask a running daemon once", "edged ask 'I love this phone' --stream")
    ask.add_argument("text", metavar="TEXT", help="the message; - reads standard input")
    ask.add_argument("--task", default="message", help="the task (%(default)s)")
    ask.add_argument("--session", help="continue this conversation")
    ask.add_argument("--stream", action="store_true", help="print words as they come")
    ask.add_argument("--json", action="store_true", help="print the messages as they are on the wire")
    _add_group(ask)
    _add_timeout(ask)
    chat = _add(commands, "chat", _chat, "talk with a running daemon; quit or 退出 ends it", "edged chat")
    chat.add_argument("--session", help="continue this conversation (default: a new one)")
    _add_group(chat)
    _add_timeout(chat)
    check = _add(commands, "check", _check, "try settings, model and broker; say what to mend", "edged check")
    _add_timeout(check)
    top = _add(commands, "top", _top, "watch the daemons of a broker", "edged top --once")
    top.add_argument("--once", action="store_true", help="print what is known now, and end")
    _add_timeout(top)
    _add_models(commands)
    _add_bench(commands)
    _add_eval(commands)
    config = _add(commands, "config", _config, "show or explain settings", "edged config --example > edged.toml")
    what = config.add_mutually_exclusive_group(required=True)
    what.add_argument("--example", action="store_true", help="a settings file with every setting and its meaning")
    what.add_argument("--show", action="store_true", help="the settings in force, secrets masked")
    what.add_argument("--schema", action="store_true", help="the JSON Schema of the settings")
    _add(
        commands,
        "asyncapi",
        _asyncapi,
        "the contract with the outside, as AsyncAPI 3",
        "edged asyncapi > asyncapi.json",
        with_settings=False,
    )
    return parser


def _add(
    commands: Any,
    name: str,
    command: Callable[[argparse.Namespace], ExitCode],
    summary: str,
    example: str,
    *,
    with_settings: bool = True,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example:\n  {example}", formatter_class=_RAW
    )
    parser.set_defaults(command=command)
    if with_settings:
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML)")
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="one setting by its dotted name, e.g. mqtt.host=broker.lan; may be repeated",
        )
    return parser


def _add_group(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", metavar="NAME", help="ask the boxes of this group, and not this node")
    parser.add_argument(
        "--attempts", type=int, default=1, metavar="N", help="send it so often, under one id, if nobody answers"
    )


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait (%(default)s)")


def _add_models(commands: Any) -> None:
    models = commands.add_parser("models", help="the model store", description="the model store")
    actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")
    pull = _add(actions, "pull", _models_pull, "fetch a model", "edged models pull smollm2-135m-instruct")
    pull.add_argument("id", nargs="?", help="preset or hub id (default: the model of the settings)")
    prepare = _add(
        actions,
        "prepare",
        _models_prepare,
        "round a model's weights for this box, so that the first start finds them",
        "edged models prepare --set model.format=int4",
    )
    prepare.add_argument("id", nargs="?", help="preset, hub id, folder or GGUF file (default: the settings' model)")
    _add(actions, "list", _models_list, "what is there, and what can be fetched by name", "edged models list")
    verify = _add(actions, "verify", _models_verify, "check a model's files", "edged models verify")
    verify.add_argument("id", nargs="?", help="preset or hub id (default: the model of the settings)")


def _add_bench(commands: Any) -> None:
    bench = _add(
        commands, "bench", _bench, "measure a model on this box", "edged bench --format bf16 --json > bf16.json"
    )
    bench.add_argument("--model", dest="model.id", metavar="MODEL", help="preset, hub id, folder or GGUF file")
    bench.add_argument("--format", dest="model.format", metavar="FORMAT", help="how the weights are held")
    bench.add_argument("--threads", dest="engine.threads", metavar="N", help="CPU threads; 0 takes every core")
    bench.add_argument("--rounds", type=_count, default=3, metavar="N", help="times each is measured (%(default)s)")
    bench.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"may be repeated: {', '.join(PARTS)}"
    )
    bench.add_argument("--json", action="store_true", help="print the report as JSON")
    bench.add_argument("--schema", action="store_true", help="print the JSON Schema of the report, measure nothing")
    bench.set_defaults(settings=("model.id", "model.format", "engine.threads"))


def _add_eval(commands: Any) -> None:
    evaluate = _add(
        commands,
        "eval",
        _eval,
        "measure how right a task is on labelled texts",
        "edged eval --data reviews.tsv --task sentiment --baseline",
    )
    evaluate.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="text and label with a tab between, in either order"
    )
    evaluate.add_argument("--task", default="sentiment", help="a task that gives labels (%(default)s)")
    evaluate.add_argument(
        "--labels", type=_pairs, default={}, metavar="NAME=LABEL,…", help="what the file's labels are called here"
    )
    evaluate.add_argument("--limit", type=_count, metavar="N", help="only N texts, spread over the file")
    evaluate.add_argument("--baseline", action="store_true", help="beside it, have the label generated and parsed")
    evaluate.add_argument("--model", dest="model.id", metavar="MODEL", help="preset, hub id, folder or GGUF file")
    evaluate.add_argument("--format", dest="model.format", metavar="FORMAT", help="how the weights are held")
    evaluate.add_argument("--json", action="store_true", help="print the report as JSON")
    evaluate.set_defaults(settings=("model.id", "model.format"))


def _pairs(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in text.split(",")]
    if not all(name.strip() and label.strip() for name, _, label in pairs):
        raise argparse.ArgumentTypeError("write NAME=LABEL,NAME=LABEL, as in bad=negative,good=positive")
    names = {name.strip().casefold(): label.strip() for name, _, label in pairs}
    if len(names) < len(pairs):
        raise argparse.ArgumentTypeError("a name stands there twice")
    return names


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 on")
    return int(text)


def _settings(options: argparse.Namespace) -> Settings:
    from edged.settings import load as config

    flags: dict[str, str] = {}
    for each in options.set:
        name, equals, value = each.partition("=")
        if not equals:
            raise SettingsError(f"--set {each}: write NAME=VALUE, for example --set mqtt.host=broker.lan")
        flags[name] = value
    # Options that stand for a setting.
    named = {name: getattr(options, name) for name in getattr(options, "settings", ())}
    flags |= {name: value for name, value in named.items() if value is not None}
    return config.load(flags=flags, config_file=options.config)


# --------------------------------------------------------------------------------------------------- the commands


def _run(options: argparse.Namespace) -> ExitCode:
    from edged import logs
    from edged.daemon import Daemon
    from edged.settings import load as config

    settings = _settings(options)
    logs.configure(settings.log.level, settings.log.format)
    return Daemon(settings, config.systemd()).run()


def _demo(options: argparse.Namespace) -> ExitCode:
    from edged.commands import demo
    from edged.models.store import Store
    from edged.settings import load as config

    model_dir = config.load(flags={}, config_file=None).model_dir
    Store(model_dir).pull(options.model)
    return demo.run(model=options.model, model_dir=model_dir)


def _client(options: argparse.Namespace) -> "Client":
    from edged.client import Client

    settings = _quiet_settings(options)
    return Client(settings, timeout=options.timeout, group=options.group, attempts=options.attempts)


def _ask(options: argparse.Namespace) -> ExitCode:
    text = sys.stdin.read() if options.text == "-" else options.text
    fields: dict[str, Any] = {"stream": True} if options.stream else {}
    if options.session:
        fields["session"] = options.session
    with _client(options) as client:
        for answer in client.stream(text, task=options.task, **fields):
            if options.json:
                print(json.dumps(answer.body, ensure_ascii=False), flush=True)
            elif answer.is_chunk:
                _print_chunk(answer.body)
            else:
                _print_result(answer.body, streamed=options.stream)
    return _exit_code_of(answer.body)


def _exit_code_of(body: Mapping[str, Any]) -> ExitCode:
    if body["status"] == "ok":
        return ExitCode.DONE
    codes = {"model_error": ExitCode.MODEL, "busy": ExitCode.BROKER, "shutting_down": ExitCode.BROKER}
    return codes.get(body["error"]["code"], ExitCode.USAGE)


def _chat(options: argparse.Namespace) -> ExitCode:
    import uuid

    session = options.session or f"chat-{uuid.uuid4().hex[:8]}"
    said: list[dict[str, str]] = []
    with _client(options) as client:
        print("quit or 退出 ends the talk")
        while (text := _read_line()) is not None:
            # The next turn may go to a box of the group that has not heard this one, so it is told.
            fields = {"session": session} if options.group is None or options.session else {"history": said}
            for answer in client.stream(text, stream=True, **fields):
                if answer.is_chunk:
                    _print_chunk(answer.body)
                else:
                    _print_result(answer.body, streamed=True)
            if "reply" in answer.body:
                said += [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": answer.body["reply"]["text"]},
                ]
                del said[:-_REMEMBERED]
    return ExitCode.DONE


def _read_line() -> str | None:
    """The next line that is not empty; None at the end of the talk."""
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return None
        if text.lower() in {"quit", "exit", "退出"}:
            return None
        if text:
            return text


def _check(options: argparse.Namespace) -> ExitCode:
    from edged.commands import check

    return check.run(_quiet_settings(options), timeout=options.timeout, say=print)


def _top(options: argparse.Namespace) -> ExitCode:
    try:
        from edged.commands import top
    except ImportError:
        raise SettingsError("edged top draws with rich, which is not installed: pip install 'edged[top]'") from None

    top.run(_quiet_settings(options), timeout=options.timeout, once=options.once)
    return ExitCode.DONE


def _bench(options: argparse.Namespace) -> ExitCode:
    from edged.bench import run as bench
    from edged.bench.report import Report, table

    if options.schema:
        print(json.dumps(Report.model_json_schema(), indent=2, ensure_ascii=False))
        return ExitCode.DONE
    report = bench.run(
        _quiet_settings(options),
        rounds=options.rounds,
        parts=options.only or PARTS,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report.model_dump_json() if options.json else table(report))
    return ExitCode.DONE


def _eval(options: argparse.Namespace) -> ExitCode:
    from edged.evaluation import run as evaluate
    from edged.evaluation.report import table
    from edged.tasks.own import tasks_of

    settings = _quiet_settings(options)
    report = evaluate.run(
        settings,
        data=options.data,
        task=options.task,
        tasks=tasks_of(settings.tasks),
        names=options.labels,
        limit=options.limit,
        baseline=options.baseline,
    )
    print(report.model_dump_json() if options.json else table(report))
    return ExitCode.DONE


def _models_pull(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    settings = _settings(options)
    print(Store(settings.model_dir).pull(options.id or settings.model.id, settings.model.revision))
    return ExitCode.DONE


def _models_prepare(options: argparse.Namespace) -> ExitCode:
    from edged.build import plan_of
    from edged.engine import loading
    from edged.models.store import Store

    settings = _with_model(_quiet_settings(options), options.id)
    Store(settings.model_dir).pull(settings.model.id, settings.model.revision)
    print(loading.prepare(plan_of(settings)))
    return ExitCode.DONE


def _with_model(settings: Settings, model_id: str | None) -> Settings:
    if model_id is None:
        return settings
    return settings.model_copy(update={"model": settings.model.model_copy(update={"id": model_id})})


def _models_list(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    for line in Store(_settings(options).model_dir).describe():
        print(line)
    return ExitCode.DONE


def _models_verify(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    settings = _settings(options)
    print(Store(settings.model_dir).verify(options.id or settings.model.id, settings.model.revision))
    return ExitCode.DONE


def _config(options: argparse.Namespace) -> ExitCode:
    from edged.settings import text as settings_text

    if options.example:
        print(settings_text.example(), end="")
    elif options.schema:
        print(json.dumps(settings_text.schema(), indent=2, ensure_ascii=False))
    else:
        print(settings_text.show(_settings(options)), end="")
    return ExitCode.DONE


def _asyncapi(_: argparse.Namespace) -> ExitCode:
    from edged.contract import asyncapi

    print(json.dumps(asyncapi.document(), indent=2, ensure_ascii=False))
    return ExitCode.DONE


def _quiet_settings(options: argparse.Namespace) -> Settings:
    """The settings of a command for people: only warnings are logged."""
    from edged import logs

    settings = _settings(options)
    logs.configure("error", "console")
    return settings


# ------------------------------------------------------------------------------------------------------- printing


def _print_chunk(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if isinstance(value, Mapping) and "delta" in value:
            print(value["delta"], end="", flush=True)
        elif isinstance(value, Mapping):
            print(_label(name, value), flush=True)


def _print_result(body: Mapping[str, Any], *, streamed: bool) -> None:
    if body["status"] == "error":
        error = body["error"]
        print(f"error {error['code']}: {error['message']}", file=sys.stderr)
        return
    if streamed:
        print()
    for name, value in body.items():
        if not isinstance(value, Mapping) or (streamed and "data" not in value):
            continue
        if "label" in value:
            print(_label(name, value))
        elif "text" in value:
            print(value["text"])
        elif "data" in value:
            print(json.dumps(value["data"], ensure_ascii=False))
    timings, usage = body["timings"], body["usage"]
    print(f"[{timings['total_ms']:.0f} ms, {usage['completion_tokens']} tokens]", file=sys.stderr)


def _label(name: str, value: Mapping[str, Any]) -> str:
    return f"{name}: {value['emoji']} {value['label']} ({value['name']}) {value['score']:.2f}".replace("  ", " ")
