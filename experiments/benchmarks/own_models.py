"""Plain Flax networks as users' own modules: what `research.models.formulations` gains, and what they still lack.

    python experiments/benchmarks/own_models.py                about eight minutes on two cores
    python experiments/benchmarks/own_models.py W1 W5          some of the workloads of `training_subjects`
    python experiments/benchmarks/own_models.py --quick        tiny ones: does it run?

The networks of `training_flax`, written as Flax's documentation would, are trained by our own compiled chunk of steps:
as Flax computes its layers, and as they are computed here. Beside them stands our own family of the same arithmetic.
All three take turns in one process, with the flags that `launch.py` sets. Printed are milliseconds a step, the median
of the rounds with the middle half in brackets, and the ratios' medians.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import training_flax  # noqa: E402
import training_ours  # noqa: E402
import training_subjects as subjects  # noqa: E402
from core import Prepared, interleaved, ratios, seconds_until_computed, spread, table  # noqa: E402

from research import runtime  # noqa: E402
from research.models import base  # noqa: E402
from research.training import Experiment, step, steps  # noqa: E402
from research.training.loop import lengths  # noqa: E402

ROUNDS, SECONDS = 7, 0.5
"""Turns of each, and how long one is at least."""
LENGTHS = {"flax": 10**6, "formulated": 10**6 + 1, "ours": 10**6 + 2}
"""Steps that each would take to its end: no two of them are one program to jit, which knows no formulation."""


def turn(experiment: Experiment, around: contextlib.AbstractContextManager, seconds: float) -> Callable[[], float]:
    """Seconds of a step, in a chunk of as many as take so long; it is compiled within `around`."""
    it = Prepared.of(experiment)
    kept, count = [it.state()], 1

    def run() -> float:
        def chunk() -> Any:
            kept[0], logged = step.train_chunk(it.plan, it.leaves, {}, kept[0], it.data, lengths(0, [count]))
            return kept[0], logged

        return seconds_until_computed(chunk) / count

    with around:
        run()
        count = max(1, round(seconds / run()))
        run()
    return run


def as_flax_does() -> contextlib.AbstractContextManager:
    """Within it, programs that are traced leave layers to Flax."""
    return mock.patch.object(base, "formulated", contextlib.nullcontext)


def row(name: str, found: subjects.Workload, rounds: int, seconds: float) -> tuple[str, ...]:
    """Milliseconds a step in three ways, and how many times as fast the second is as the first, and the third."""
    ours = training_ours.experiment(found)
    users = dataclasses.replace(ours, model=training_flax.network(found))
    ways = {
        "flax": (users, as_flax_does()),
        "formulated": (users, contextlib.nullcontext()),
        "ours": (ours, contextlib.nullcontext()),
    }
    turns = [
        turn(dataclasses.replace(experiment, duration=steps(LENGTHS[way])), around, seconds)
        for way, (experiment, around) in ways.items()
    ]
    flax, formulated, family = interleaved(*turns, rounds=rounds)
    gained, lacking = (
        statistics.median(ratios(slower, faster)) for slower, faster in ((flax, formulated), (formulated, family))
    )
    return (name, *(spread(taken, 1e3) for taken in (flax, formulated, family)), f"{gained:.2f}", f"{lacking:.2f}")


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"of {', '.join(subjects.WORKLOADS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="tiny networks, two rounds")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.workloads if name not in subjects.WORKLOADS]:
        parser.error(f"no workload {unknown[0]}; there are {', '.join(subjects.WORKLOADS)}")
    rounds, seconds = (2, 0.01) if asked.quick else (ROUNDS, SECONDS)
    rows = [
        row(name, subjects.workload(name, tiny=asked.quick), rounds, seconds)
        for name in asked.workloads or subjects.WORKLOADS
    ]
    header = ("network", "as Flax does, ms", "formulated, ms", "our family, ms", "gained", "lacking")
    table("A step of plain Flax's networks", header, rows)


if __name__ == "__main__":
    runtime.keep_memory()
    runtime.tune()
    main(sys.argv[1:])
