"""A trial of deploy/slim.py: a slimmed copy of an environment does all with models that the whole one does.

usage: ENVIRONMENT/bin/python -m tests.trials.slimmed MODEL.gguf MOSQUITTO

MODEL.gguf is a small real model, MOSQUITTO the broker's program with its clients beside it. No root is needed, and
nothing is changed but the copy, which goes in the end. Prints what it saw.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import odd_models, tiny
from tests.support.broker import free_port
from tests.trials.box import expect, say, until
from tests.trials.images import ROOT, Broker, answered

# Imports every module that transformers has for models, and builds each model that writes text, without its weights.
_EVERY_MODEL = """\
import importlib, json, pkgutil, sys, warnings
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
warnings.simplefilter("ignore")
transformers.logging.set_verbosity(50)
told = {}
def attempt(name, act):
    try:
        act()
        told[name] = ""
    except BaseException as error:
        told[name] = f"{type(error).__name__}: {error}"[:300]
def build(kind):
    config = AutoConfig.for_model(kind)
    for part in (config, config.get_text_config()):
        if "num_hidden_layers" in part.to_dict():
            part = type(part)(num_hidden_layers=2) if part is config else part
            config = part if part.model_type == config.model_type else config
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config)
for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
    attempt(f"model {kind}", lambda: build(kind))
models = importlib.import_module("transformers.models")
for found in pkgutil.walk_packages(models.__path__, "transformers.models."):
    if "modular_" not in found.name and "convert_" not in found.name:
        attempt(f"module {found.name}", lambda: importlib.import_module(found.name))
json.dump(told, open(sys.argv[1], "w"))
"""
FORMATS = ("int8", "int4", "bf16", "fp32")


class Slimmed:
    """An environment whose `edged` is that of these sources."""

    def __init__(self, environment: Path, work: Path) -> None:
        self.python = environment / "bin/python"
        self.variables = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(work),
            "PYTHONPATH": str(ROOT),
            "STATE_DIRECTORY": str(work / "state"),
            "CACHE_DIRECTORY": str(work / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(self.python), *arguments]

    def run(self, *arguments: str, **variables: str) -> str:
        """Run Python; gives what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.variables | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        said = f"exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-2500:]}"
        expect(done.returncode == 0, " ".join(arguments)[:120], "" if done.returncode == 0 else said)
        return done.stdout

    @contextlib.contextmanager
    def daemon(self, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("wb") as output:
            command = self.command("-m", "edged", "run")
            process = subprocess.Popen(command, env=self.variables | variables, stdout=output, stderr=output)
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def every_model(whole: Path, slimmed: Slimmed, work: Path) -> None:
    """What transformers imports and builds in both environments."""
    script = work / "every_model.py"
    script.write_text(_EVERY_MODEL)
    told: dict[str, dict[str, str]] = {}
    for name, python in (("whole", whole / "bin/python"), ("slimmed", slimmed.python)):
        out = work / f"{name}.json"
        subprocess.run([str(python), "-I", str(script), str(out)], check=True, capture_output=True, timeout=1800)
        told[name] = json.loads(out.read_text())
    for kind in ("model", "module"):
        good = {name for name, error in told["whole"].items() if name.startswith(f"{kind} ") and not error}
        # Modules that went are not asked for; models are, whatever went.
        lost = {name: told["slimmed"].get(name, "gone" if kind == "model" else "") for name in sorted(good)}
        lost = {name: error for name, error in lost.items() if error}
        left = [name for name in good if name in told["slimmed"]]
        expect(not lost, f"every {kind}", json.dumps(lost, indent=1) if lost else f"{len(left)} of {len(good)}")


def tiny_models(slimmed: Slimmed, work: Path) -> None:
    """Checkpoints with random weights of every kind that the tests know, prepared and asked in the copy."""
    data = work / "data.tsv"
    data.write_text("positive\tI love it\nnegative\tI hate it\n")
    for name, config in tiny.CONFIGS.items():
        folder = odd_models.saved(tiny.make(odd_models.sized(config)), work / name, odd_models.tokenizer())
        slimmed.run("-m", "edged", "models", "prepare", str(folder))
        for form in ("int8", "fp32"):
            told = slimmed.run(
                "-m", "edged", "eval", "--data", str(data), "--model", str(folder), "--format", form, "--json"
            )
            expect('"texts"' in told or "accuracy" in told, f"{name} in {form}", " ".join(told.split())[:80])
        shutil.rmtree(folder)


def real_model(slimmed: Slimmed, model: Path, broker: Broker, work: Path) -> None:
    """A daemon with the real model in each format."""
    given = {"EDGED_NODE": "trial", "EDGED_MQTT__PORT": str(broker.port), "EDGED_MODEL__ID": str(model)}
    for form in FORMATS:
        with slimmed.daemon(work / f"{form}.log", **given, EDGED_MODEL__FORMAT=form) as process:
            one_format(process, form, broker)


def one_format(process: subprocess.Popen[bytes], form: str, broker: Broker) -> None:
    """The daemon gets ready, answers, and ends in order."""
    began = time.monotonic()
    until(
        lambda: process.poll() is not None or '"ready"' in broker.read("edged/trial/status"), f"ready in {form}", 1200
    )
    expect(process.poll() is None, f"ready in {form}", f"after {time.monotonic() - began:.0f} s")
    answered(broker, "trial")
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    expect(code == 0, "SIGTERM ends it in order", f"exit {code}")


def main() -> None:
    model, mosquitto = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    whole = Path(sys.prefix)
    with tempfile.TemporaryDirectory(prefix="edged-slimmed-") as folder:
        work = Path(folder)
        copy = work / "environment"
        subprocess.run(["cp", "-a", "--reflink=auto", str(whole), str(copy)], check=True)
        subprocess.run([sys.executable, str(ROOT / "deploy/slim.py"), str(copy)], check=True)
        size = subprocess.run(["du", "-sm", str(copy)], check=True, capture_output=True, text=True).stdout.split()[0]
        say("a slimmed copy", f"{size} MB, load {os.getloadavg()[0]:.0f}")
        slimmed = Slimmed(copy, work)
        every_model(whole, slimmed, work)
        tiny_models(slimmed, work)
        broker = Broker(mosquitto, work, free_port())
        try:
            real_model(slimmed, model, broker, work)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
