"""Which of XLA's flags a network trains fastest with on this machine: measured once, and remembered.

choose(experiment, "exp.py:small", overrides, may_measure=True)      # before JAX computes; says what it sets
remember_time(experiment, 1800)                                     # it was long: the next of its structure measures
repeat("runs/exp")                                                  # the flags that a run began with

What is chosen among is `runtime.choices()`. A choice holds for a machine, a jaxlib and a structure: the network, its
data, batches and optimizer, whatever their numbers are and however long it is trained. Measuring takes about a minute,
in a process for each, which holds the data and the network: for what is short that is too long, so it is done where it
is asked for, and for a structure that has been seen to train for ten minutes.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from research import runtime
from research.commandline.arguments import Override
from research.errors import UserError
from research.training import display, folder
from research.training.experiment import Experiment

ROUNDS, SECONDS = 7, 0.5
"""How often each choice trains, and about how long."""
GAIN = 1.03
"""How many times as fast another choice must be than the usual one to be taken: less is within what is measured."""
LONG = 600.0
"""Seconds of training that are worth a minute of measuring, before the next one of the structure."""
HOW_LONG = ("name", "duration", "early_stopping", "select", "evaluate_every", "log_every")
"""Fields that a step does not depend on."""


class Failed(Exception):
    """A choice could not be measured; the message is the reason, in a line."""


class Measured(NamedTuple):
    """Of each name in `runtime.choices()` the milliseconds of a step by round, and the name that is chosen."""

    ms: dict[str, list[float]]
    name: str

    def told(self) -> str:
        """In a line."""
        usual = next(iter(self.ms))
        if self.name != usual:
            return f"{self.name}: {times_as_fast(self.ms, self.name):.2f} times as fast as {usual}"
        others = "; ".join(f"{name}: {times_as_fast(self.ms, name):.2f}" for name in self.ms if name != usual)
        return f"{usual}, as is usual; others are hardly faster or slower (times as fast: {others})"


def choose(experiment: Experiment, config_file: str, overrides: Sequence[Override], *, may_measure: bool) -> None:
    """Sets the flags as they are fastest for such an experiment, if that is known or can be measured, and says so.

    It is measured where it may be, or where one of this structure has trained for long.
    """
    name, was_long = remembered(experiment), _was_long(experiment)
    if name is None and (may_measure or was_long):
        why = "" if may_measure else "this took more than ten minutes before: "
        display.note(
            f"{why}measuring with which of XLA's flags it trains fastest, about a minute, once on this machine"
        )
        try:
            measured = measure(experiment, config_file, overrides)
            display.note(f"XLA hands {measured.told()}" if measured else "they change nothing on this device")
        except Failed as error:
            measured = None
            display.note(f"they could not be measured, and are as usual: {error}")
        if measured is None and was_long:
            _remember(experiment, False)
        name = measured and measured.name
    elif name is not None and name != next(iter(runtime.HANDED)):
        display.note(f"XLA hands {name}, as was measured before")
    if name is not None:
        runtime.hand(runtime.HANDED[name])


def repeat(path: str) -> None:
    """Sets the flags as a run began with them, so that it goes on as it would have; left alone if it does not say."""
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):
        words = folder.open_run(path).read_json("environment.json")["XLA_FLAGS"].split()
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        ours = [runtime.FUSIONS, runtime.ONEDNN, *([] if runtime.says_devices() else [runtime.DEVICES])]
        runtime.hand({name: flags[name] for name in ours if name in flags})


def times_as_fast(ms: dict[str, list[float]], name: str) -> float:
    """As the first of them, by the median of the ratios of rounds."""
    usual = next(iter(ms.values()))
    return statistics.median(a / b for a, b in zip(usual, ms[name], strict=True))


def measure(experiment: Experiment, config_file: str, overrides: Sequence[Override]) -> Measured | None:
    """Lets the choices take turns, and remembers the fastest; None where they change nothing, as on a GPU.

    config_file: as --config names it. Raises Failed where the usual choice fails.
    """
    with contextlib.ExitStack() as stack:
        asked = {
            name: stack.enter_context(_Process(flags, config_file, overrides))
            for name, flags in runtime.choices().items()
        }
        if any(answer["platform"] != "cpu" for answer in _answers(asked).values()):
            return None
        rounds = [_answers(asked, "turn") for _ in range(ROUNDS)]
    ms = {name: [answers[name]["ms"] for answers in rounds] for name in asked}
    fastest = max(ms, key=lambda name: times_as_fast(ms, name))
    found = Measured(ms, fastest if times_as_fast(ms, fastest) >= GAIN else next(iter(ms)))
    _remember(experiment, found.name)
    return found


def _answers(asked: dict[str, "_Process"], *what: str) -> dict[str, dict[str, Any]]:
    """What each says. Those that fail are out from then on, as for want of memory; the first may not, and raises."""
    answers = {}
    for name, each in list(asked.items()):
        try:
            answers[name] = each.told(*what)
        except Failed:
            if not answers:
                raise
            del asked[name]
    return answers


def remembered(experiment: Experiment) -> str | None:
    """The name of what was chosen for such an experiment on this machine."""
    name = _all_remembered().get(_key(experiment))
    return name if isinstance(name, str) and name in runtime.choices() else None


def remember_time(experiment: Experiment, seconds: float) -> None:
    """Remembers that a structure trains for long, so that the next one is measured before; nothing if it is short."""
    if seconds >= LONG and _key(experiment) not in _all_remembered() and jax.default_backend() == "cpu":
        _remember(experiment, None)


def _remember(experiment: Experiment, what: str | Literal[False] | None) -> None:
    """What was chosen; None: that it trains for long; False: that nothing could be, and it is not tried again."""
    runtime.write_if_possible(_file(), json.dumps(_all_remembered() | {_key(experiment): what}))


def _was_long(experiment: Experiment) -> bool:
    """Whether one of this structure has trained for long, and nothing was chosen for it."""
    return _all_remembered().get(_key(experiment), "") is None


def _file() -> Path:
    return runtime.cache_folder() / "tuned.json"


def _all_remembered() -> dict[str, Any]:
    try:
        return dict(json.loads(_file().read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _key(experiment: Experiment) -> str:
    """Of a structure on this machine, with this jaxlib."""
    plain = Experiment(data=experiment.data, model=experiment.model)
    how_long = {name: getattr(plain, name) for name in HOW_LONG}
    structure = repr(jax.tree.structure(dataclasses.replace(experiment, **how_long)))
    machine = [platform.node(), platform.machine(), str(runtime.cores()), importlib.metadata.version("jaxlib")]
    told = "\n".join([*machine, re.sub(r" at 0x[0-9a-f]+", "", structure)])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Process:
    """A process that trains with some flags, as it is told; it ends with the `with` block."""

    def __init__(self, flags: Mapping[str, str], config_file: str, overrides: Sequence[Override]):
        xla_flags = runtime.handing(os.environ.get("XLA_FLAGS", ""), flags)
        command = [sys.executable, "-m", "research.training.measuring", config_file, json.dumps(list(overrides))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {"XLA_FLAGS": xla_flags, "PYTHONPATH": path}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def told(self, what: str = "") -> dict[str, Any]:
        """Its next answer, to what it is told, if anything."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            if what:
                self._process.stdin.write(f"{what}\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with {self._process.wait()}"}
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()
