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
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

ROUNDS = 15


def main(names: list[str]) -> None:
    """Prints the sections asked for, or all."""
    sections = {"startup": startup, "overhead": overhead, "feeding": feeding, "accuracy": accuracy}
    for name in names or sections:
        sections[name]()


def table(title: str, header: tuple[str, ...], rows: list[tuple]) -> None:
    """Prints a section."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*map(str, row))
    Console(width=100).print(shown, "")


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


def startup() -> None:
    """Seconds until `launch.py --help` has printed, with and without a config."""

    def run(*arguments: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "launch.py", *arguments], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - begun

    config = ("--config", "experiments/digits_cnn.py", "--help")
    plain, with_config = interleaved(lambda: run("--help"), lambda: run(*config), rounds=5)
    rows = [("launch.py --help", spread(plain, digits=2)), ("launch.py --config ... --help", spread(with_config, digits=2))]
    table("Start-up, seconds (goal: --help below 1.5)", ("command", "median (middle half)"), rows)


def subjects() -> dict:
    """Experiments from the smallest model up, without evaluation in between."""
    from research.data import Digits
    from research.models import MLP, ConvNet
    from research.training import AdamW, Experiment, percent, steps

    make = functools.partial(Experiment, data=Digits(), optimizer=AdamW(), devices=1, evaluate_every=percent(100))
    return {
        "MLP 1x16": make(model=MLP(depth=1, width=16), duration=steps(4000)),
        "MLP 2x64": make(model=MLP(depth=2, width=64), duration=steps(4000)),
        "MLP 8x128": make(model=MLP(depth=8, width=128), duration=steps(1000)),
        "ConvNet 16, 32": make(model=ConvNet(features=(16, 32), hidden=(64,)), duration=steps(400)),
    }


def prepared(experiment) -> tuple:
    """Plan, leaves, frozen parameters, a function that makes a new state, data."""
    from research.training.evaluation import to_device
    from research.training.plan import boundary, make_plan, replicate
    from research.training.step import initial_state

    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    leaves = replicate(plan, boundary(experiment))
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    fresh = lambda: replicate(plan, initial_state(plan, leaves)[0])  # noqa: E731
    return plan, leaves, {}, fresh, data


def timed(function: Callable[[], object]) -> float:
    """Seconds until what a function returns is computed."""
    import jax

    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun


def overhead() -> None:
    """Training through the loop, logging on, against the bare jitted program doing the same steps in one call."""
    import jax
    import jax.numpy as jnp

    from research.training import loop
    from research.training.checkpoints import Checkpoints
    from research.training.step import train_chunk
    from research.training.writers import MetricWriter

    rows = []
    for name, experiment in subjects().items():
        plan, leaves, frozen, fresh, data = prepared(experiment)
        loaded = experiment.data.load()

        def bare():
            state = jax.block_until_ready(fresh())
            return timed(lambda: train_chunk(plan, leaves, frozen, state, data, jnp.uint32(plan.steps)))

        def through_the_loop():
            with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
                with MetricWriter(Path(folder)) as writer, _silent_display(plan.steps) as display:
                    edge = loop.Edge(writer.write, writer.sync, display.update, display.note, checkpoints, lambda: None)
                    work = loop.Work(experiment, plan, loaded, frozen)
                    state = jax.block_until_ready(fresh())
                    trained = _time_of_training(work, edge, state)
            return trained

        bare(), through_the_loop()
        a, b = interleaved(bare, through_the_loop)
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        us = 1e6 / plan.steps
        rows.append((name, spread(a, us), spread(b, us), f"{ratio:.3f}"))
    header = ("model", "bare, us a step", "loop, us a step", "ratio")
    table("The loop over the bare program, evaluation excluded (goal: at most 1.03)", header, rows)


@contextlib.contextmanager
def _silent_display(steps: int):
    from rich.console import Console

    from research.training.display import Progress

    with Progress(steps, 0, console=Console(file=io.StringIO())) as display:
        yield display


def _time_of_training(work, edge, state) -> float:
    """Seconds from the start of the loop to the evaluation that ends it."""
    from research.training import loop

    class Reached(Exception):
        pass

    def reached(*_):
        raise Reached

    evaluate, loop._evaluate = loop._evaluate, reached
    begun = time.perf_counter()
    try:
        loop.fit(work, edge, state, loop.Progress())
    except Reached:
        return time.perf_counter() - begun
    finally:
        loop._evaluate = evaluate
    raise AssertionError("the loop ended without an evaluation")


def feeding() -> None:
    """Steps that gather their batches against steps on one fixed batch."""
    import jax
    import jax.numpy as jnp

    from research.training.step import batch_at, train_step

    rows = []
    for name, experiment in subjects().items():
        plan, leaves, frozen, fresh, data = prepared(experiment)

        def loop_of(fixed: bool, plan=plan):
            @functools.partial(jax.jit, donate_argnums=0)
            def run(state, leaves, data, steps):
                first = batch_at(plan, leaves, data, state.step, state.step)

                def body(_, state):
                    batch = first if fixed else batch_at(plan, leaves, data, state.step, state.step)
                    return train_step(plan, leaves, frozen, state, batch)[0]

                return jax.lax.fori_loop(0, steps, body, state)

            return run

        def seconds(run, plan=plan, leaves=leaves, data=data, fresh=fresh):
            state = jax.block_until_ready(fresh())
            return timed(lambda: run(state, leaves, data, jnp.int32(plan.steps)))

        runs = [functools.partial(seconds, loop_of(fixed)) for fixed in (True, False)]
        for run in runs:
            run()
        a, b = interleaved(*runs)
        ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
        us = 1e6 / plan.steps
        rows.append((name, spread(a, us), spread(b, us), f"{ratio:.3f}"))
    header = ("model", "fixed batch, us a step", "gathered, us a step", "speed")
    table("Feeding: speed relative to stepping on one fixed batch (goal: at least 0.90)", header, rows)


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
