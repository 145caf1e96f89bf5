"""`edged models`: fetch, prepare, carry, list and verify models; `running_models.py` has what a daemon does."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged import extras, progress
from edged.commands import running_models
from edged.commands.options import add_command, quiet_settings, settings_of
from edged.errors import ExitCode, ModelUnavailable, SettingsError

if TYPE_CHECKING:
    from edged.settings.schema import Settings


def add(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    models = commands.add_parser("models", help="the model store", description="the model store")
    actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")
    pull = add_command(actions, "pull", _pull, "fetch a model", "edged models pull smollm2-135m-instruct")
    pull.add_argument(
        "id", nargs="?", help="preset, hub id, or URL of an exported bundle (default: the model of the settings)"
    )
    pull.add_argument("--sha256", help="of the file at the URL, in hexadecimal")
    pull.add_argument("--name", help="what to call the bundle (default: the file's name without its ending)")
    prepare = add_command(
        actions,
        "prepare",
        _prepare,
        "round a model's weights for this box now, so that the first start is quick",
        "edged models prepare --set model.format=int4",
    )
    prepare.add_argument("id", nargs="?", help="preset, hub id, folder or GGUF file (default: the settings' model)")
    export = add_command(
        actions,
        "export",
        _export,
        "write a prepared model as one file",
        "edged models export qwen3-0.6b qwen.tar",
    )
    export.add_argument("id", help="preset, hub id, folder or GGUF file that was prepared, or an imported bundle")
    export.add_argument("file", type=Path, help="the file to write")
    imported = add_command(
        actions, "import", _import, "take in a model that another box exported", "edged models import qwen.tar"
    )
    imported.add_argument("file", type=Path, help="as `edged models export` wrote it")
    imported.add_argument("--name", help="what to call it (default: the file's name without its ending)")
    imported.add_argument(
        "--use",
        action="store_true",
        help="write its name into the settings file; as root on a box with systemd, start the service with it as well",
    )
    add_command(actions, "list", _list, "the models that are here, and those that have a name", "edged models list")
    recommend = add_command(
        actions,
        "recommend",
        _recommend,
        "say which models suit this box, and why",
        "edged models recommend --languages en de",
    )
    recommend.add_argument(
        "--languages",
        nargs="+",
        default=["en"],
        metavar="CODE",
        help="languages to be read, as en, de, zh (default: en)",
    )
    verify = add_command(actions, "verify", _verify, "check a model's files", "edged models verify")
    verify.add_argument("id", nargs="?", help="preset or hub id (default: the model of the settings)")
    running_models.add(actions)


def _pull(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    settings = settings_of(options)
    model_id = options.id or settings.model.id
    if model_id.startswith(("http://", "https://")):
        return _pull_bundle(options, settings)
    with progress.waiting(f"fetching {model_id}", has_bar=True):
        path = Store(settings.model_dir).pull(model_id, settings.model.revision)
    print(path)
    return ExitCode.DONE


def _pull_bundle(options: argparse.Namespace, settings: "Settings") -> ExitCode:
    from edged.build import try_out_bundle
    from edged.models.bundle_source import BundleSource
    from edged.models.store import Store

    try:
        source = BundleSource(url=options.id, sha256=options.sha256 or "")
    except ValueError as error:
        raise SettingsError(f"{error} (--sha256)") from error
    with progress.waiting(f"fetching {source}", has_bar=True):
        name = Store(settings.model_dir).fetch_bundle(
            source, options.name, check=partial(try_out_bundle, settings), show_progress=True
        )
    print(f"{name}: imported; serve it with EDGED_MODEL__ID={name}")
    return ExitCode.DONE


def _prepare(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    settings = quiet_settings(options)
    if options.id is not None:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"id": options.id})})
    store = Store(settings.model_dir)
    if extras.only_serves() and not store.has_bundle(settings.model.id):  # said before anything is fetched
        raise ModelUnavailable(f"to prepare {settings.model.id}, {extras.how_to_get_torch()}")
    with progress.waiting(f"fetching {settings.model.id}", has_bar=True):
        store.pull(settings.model.id, settings.model.revision)
    with progress.waiting("loading torch", lines=False):
        from edged.build import plan_of
        from edged.engine import bundled, loading

    with progress.waiting(f"preparing {settings.model.id}"):
        done = loading.prepare(plan_of(settings))
        if bundled.find(plan_of(settings)) is not None:
            _warm_up(settings)
    print(done)
    return ExitCode.DONE


def _warm_up(settings: "Settings") -> None:
    """Start and end the engine: it keeps what its warm-up computes, so that the daemon's start need not."""
    from edged.build import make_engine
    from edged.tasks.own import tasks_of

    engine = make_engine(settings, tasks_of(settings.tasks))
    engine.start()
    try:
        engine.wait_ready()
    finally:
        engine.stop()


def _export(options: argparse.Namespace) -> ExitCode:
    from edged.build import plan_of
    from edged.engine import bundled
    from edged.models import bundle

    settings = quiet_settings(options)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"id": options.id})})
    found = bundled.find(plan_of(settings))
    if found is None:
        raise ModelUnavailable(f"{options.id} is not prepared here; prepare it with: edged models prepare {options.id}")
    with progress.waiting(f"writing {options.file}"):
        bundle.export(found.folder, options.file)
    print(options.file)
    return ExitCode.DONE


def _import(options: argparse.Namespace) -> ExitCode:
    from edged.commands import use_model
    from edged.engine import bundled
    from edged.models.store import Store

    settings = settings_of(options)
    bundled.refuse_without_kernels(settings.model_dir / "kernels")
    with progress.waiting(f"reading {options.file}"):
        name = Store(settings.model_dir).import_bundle(options.file, options.name, check=bundled.try_out)
    if options.use:
        print(f"{name}: imported; {use_model.use(name, options.config)}")
    else:
        print(f"{name}: imported; serve it with EDGED_MODEL__ID={name}")
    return ExitCode.DONE


def _list(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    for line in Store(settings_of(options).model_dir).describe():
        print(line)
    return ExitCode.DONE


def _recommend(options: argparse.Namespace) -> ExitCode:
    import psutil

    from edged.bench.bandwidth import read_bandwidth
    from edged.engine import cores
    from edged.models.advice import Box, advise, report
    from edged.models.presets import CARDS

    settings = settings_of(options)
    threads = cores.choose(cores.read(), wanted=settings.engine.threads).threads
    with progress.waiting("measuring this box's memory", lines=False):
        box = Box(free_mib=psutil.virtual_memory().available >> 20, bandwidth=read_bandwidth(threads))
    print(report(advise(CARDS, box, options.languages), CARDS, box))
    return ExitCode.DONE


def _verify(options: argparse.Namespace) -> ExitCode:
    from edged.models.store import Store

    settings = settings_of(options)
    model_id = options.id or settings.model.id
    with progress.waiting(f"verifying {model_id}", lines=False):
        verdict = Store(settings.model_dir).verify(model_id, settings.model.revision)
    print(verdict)
    return ExitCode.DONE
