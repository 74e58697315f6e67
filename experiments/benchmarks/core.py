"""Figures of one experiment: start-up, the loop over the bare program, feeding, and accuracy over seeds.

    python experiments/benchmarks/core.py                    all of them, about three minutes on two cores
    python experiments/benchmarks/core.py overhead feeding   some of them

What is compared is run interleaved in one process (start-up: in processes of its own), and printed are medians, the
spread of the middle half, and ratios. Absolute times differ from machine to machine and from day to day.
"""

import contextlib
import functools
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

ROUNDS = 9


def main(names: list[str]) -> None:
    """Prints the sections asked for, or all."""
    from research import runtime

    runtime.tune()
    sections = {"startup": startup, "overhead": overhead, "feeding": feeding, "accuracy": accuracy}
    for name in names or sections:
        sections[name]()


def table(title: str, header: tuple[str, ...], rows: list[tuple], width: int = 100) -> None:
    """Prints a section."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*map(str, row))
    Console(width=width).print(shown, "")


def interleaved(*functions: Callable[[], float], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds that each function says it took, `rounds` times, one after another in turn."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for times, function in zip(taken, functions, strict=True):
            times.append(function())
    return taken


def spread(times: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Median and the range of the middle half."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle * scale:.{digits}f} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """How many times as long `these` took as `those`, round by round, as far as both came."""
    return [a / b for a, b in zip(these, those, strict=False)]


def startup() -> None:
    """Seconds until `launch.py --help` has printed, with and without a config."""

    def run(*arguments: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "launch.py", *arguments], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - begun

    config = ("--config", "experiments/digits_cnn.py", "--help")
    plain, with_config = interleaved(lambda: run("--help"), lambda: run(*config), rounds=5)
    rows = [
        ("launch.py --help", spread(plain, digits=2)),
        ("launch.py --config ... --help", spread(with_config, digits=2)),
    ]
    table("Start-up, seconds (goal: --help below 1.5)", ("command", "median (middle half)"), rows)


def subjects() -> dict:
    """Experiments from the smallest model up, without evaluation in between."""
    from research.data import Digits
    from research.models import MLP, ConvNet
    from research.training import AdamW, Experiment, percent, steps

    make = functools.partial(Experiment, data=Digits(), optimizer=AdamW(), devices=1, evaluate_every=percent(100))
    return {
        "MLP 1x16": make(model=MLP(depth=1, width=16), duration=steps(40_000)),
        "MLP 2x64": make(model=MLP(depth=2, width=64), duration=steps(16_000)),
        "MLP 8x128": make(model=MLP(depth=8, width=128), duration=steps(2000)),
        "ConvNet 16, 32": make(model=ConvNet(features=(16, 32), hidden=(64,)), duration=steps(2000)),
    }


class Prepared(NamedTuple):
    """An experiment that is ready to step."""

    experiment: Any
    loaded: Any
    plan: Any
    leaves: Any
    data: Any

    @classmethod
    def of(cls, experiment) -> "Prepared":
        """Loads the data, plans, and puts everything on the device."""
        from research.training.evaluation import to_device
        from research.training.plan import boundary, make_plan, replicate

        loaded = experiment.data.load()
        plan = make_plan(experiment, loaded)
        data = to_device(plan, loaded.splits["train"], loaded.normalisation)
        return cls(experiment, loaded, plan, replicate(plan, boundary(experiment)), data)

    def state(self) -> Any:
        """A new state, computed."""
        import jax

        from research.training.plan import replicate
        from research.training.step import initial_state

        return jax.block_until_ready(replicate(self.plan, initial_state(self.plan, self.leaves)[0]))


def seconds_until_computed(function: Callable[[], object]) -> float:
    """Seconds until what a function returns is computed."""
    import jax

    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun


def compared(name: str, steps: int, first: Callable[[], float], second: Callable[[], float]) -> tuple:
    """A row: microseconds a step of both, and the median ratio of second to first in a round."""
    first(), second()  # compile
    a, b = interleaved(first, second)
    ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
    return name, spread(a, 1e6 / steps), spread(b, 1e6 / steps), f"{ratio:.3f}"


def overhead() -> None:
    """Training through the loop, logging on, against the bare jitted program doing the same steps in one call."""
    rows = [_overhead_of(name, Prepared.of(experiment)) for name, experiment in subjects().items()]
    header = ("model", "bare, us a step", "loop, us a step", "ratio")
    table("The loop over the bare program, evaluation excluded (goal: at most 1.03)", header, rows)


def _overhead_of(name: str, it: Prepared) -> tuple:
    from research.training import loop
    from research.training.checkpoints import Checkpoints
    from research.training.step import train_chunk
    from research.training.writers import MetricWriter

    def bare() -> float:
        state, steps = it.state(), loop.lengths(0, [it.plan.steps])
        return seconds_until_computed(lambda: train_chunk(it.plan, it.leaves, {}, state, it.data, steps))

    def through_the_loop() -> float:
        with (
            tempfile.TemporaryDirectory() as folder,
            Checkpoints(Path(folder)) as checkpoints,
            MetricWriter(Path(folder)) as writer,
            _silent_display(it.plan.steps) as display,
        ):
            edge = loop.Edge(writer.write, writer.sync, display.update, display.note, checkpoints, lambda: None)
            work = loop.Work(it.experiment, it.plan, it.loaded, {})
            return _seconds_of_training(work, edge, it.state())

    return compared(name, it.plan.steps, bare, through_the_loop)


@contextlib.contextmanager
def _silent_display(steps: int):
    from rich.console import Console

    from research.training.display import Progress

    with Progress(steps, 0, console=Console(file=io.StringIO())) as display:
        yield display


class _Reached(Exception):
    pass


def _seconds_of_training(work, edge, state) -> float:
    """Seconds from the start of the loop to the evaluation that ends it."""
    from unittest import mock

    from research.training import loop

    begun = time.perf_counter()
    with mock.patch.object(loop, "evaluate", side_effect=_Reached):
        try:
            loop.fit(work, edge, state, loop.Progress())
        except _Reached:
            return time.perf_counter() - begun
    raise AssertionError("the loop ended without an evaluation")


def feeding() -> None:
    """Steps that gather their batches against steps on one fixed batch."""
    rows = [_feeding_of(name, Prepared.of(experiment)) for name, experiment in subjects().items()]
    header = ("model", "gathered, us a step", "fixed batch, us a step", "speed")
    table("Feeding: speed relative to stepping on one fixed batch (goal: at least 0.90)", header, rows)


def _feeding_of(name: str, it: Prepared) -> tuple:
    import jax
    import jax.numpy as jnp

    from research.training.step import batch_at, train_step

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def run(fixed, state, leaves, data, steps):
        first = batch_at(it.plan, leaves, data, state.step, state.step)

        def body(_, state):
            batch = first if fixed else batch_at(it.plan, leaves, data, state.step, state.step)
            return train_step(it.plan, leaves, {}, state, batch)[0]

        return jax.lax.fori_loop(0, steps, body, state)

    def seconds(fixed: bool) -> float:
        state, steps = it.state(), jnp.int32(it.plan.steps)
        return seconds_until_computed(lambda: run(fixed, state, it.leaves, it.data, steps))

    return compared(name, it.plan.steps, functools.partial(seconds, False), functools.partial(seconds, True))


def accuracy(seeds: int = 5) -> None:
    """Test accuracy of the README's main job over seeds, each a run of its own."""
    figures, walls = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            begun = time.perf_counter()
            config = ("--config", "experiments/digits_cnn.py", "--config.seed", str(seed), "--workdir", folder)
            subprocess.run([sys.executable, "launch.py", *config], cwd=ROOT, check=True, capture_output=True)
            walls.append(time.perf_counter() - begun)
        for path in sorted(Path(folder).glob("*/*/summary.json")):
            figures.append(json.loads(path.read_text())["test"]["accuracy"])
    shown = ", ".join(f"{100 * figure:.2f}" for figure in figures)
    rows = [("digits_cnn", f"{100 * statistics.mean(figures):.2f} %", shown, spread(walls))]
    header = ("experiment", "mean", f"seeds 0 to {seeds - 1}", "seconds a run")
    table("Test accuracy (goal: 98.5 % on average)", header, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
