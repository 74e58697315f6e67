"""Depth as a number: the networks of the depth sweep, each by a program of its own or by that of the deepest.

    python experiments/benchmarks/depth_as_leaf.py              about four minutes on two cores
    python experiments/benchmarks/depth_as_leaf.py --quick      one round of a few steps: does it run?

    own        a program for each depth, as `Sweep(join_depths=False)` has it
    joined     one program for all depths, plain or residual: 16 layers scanned, those beyond a trial's depth skipped

Nothing is compiled before. Both ways take turns at the trials of each network, eight of them over all devices, each
core being one; printed are the seconds to compile, and medians with the least and the most in brackets of the seconds
to train and to judge, and of their ratios round by round. What `research.sweeps.depths` reckons with is from here.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from research import runtime  # noqa: E402

if __name__ == "__main__":
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    runtime.tune()
    runtime.use_all_cores()

import jax  # noqa: E402
from core import table  # noqa: E402

from experiments.depth_sweep import get_config  # noqa: E402
from research.sweeps import fit, lanes  # noqa: E402
from research.sweeps.depths import Joined, join  # noqa: E402
from research.sweeps.plan import make_plan  # noqa: E402
from research.sweeps.sweep import Trial  # noqa: E402
from research.training import steps  # noqa: E402

QUIET = fit.Edge(lambda row: None, lambda *told: None, lambda: None)


class Way:
    """Networks that one program trains."""

    def __init__(self, joined: Joined, loaded):
        self.joined, self.loaded = joined, loaded
        self.program = lanes.make_program(joined.deepest.plan, joined.experiments(), jax.local_devices(), "map")
        begun = time.perf_counter()
        self.pack(joined.deepest.group.trials).compile_ahead()
        self.compiling = time.perf_counter() - begun

    def pack(self, trials: Sequence[Trial]) -> fit.Pack:
        """Some trials before their first step."""
        return fit.Pack(self.program, trials, self.loaded, len(trials), role=self.joined.role)

    def run(self, trials: Sequence[Trial]) -> tuple[float, float]:
        """Seconds to train trials, and to judge them."""
        pack = self.pack(trials)
        begun = time.perf_counter()
        pack.advance(pack.plan.steps, QUIET)
        trained = time.perf_counter()
        pack.finish()
        return trained - begun, time.perf_counter() - trained


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    quick = parser.parse_args(arguments).quick
    sweep, rounds = get_config(), 1 if quick else 5
    if quick:
        base = dataclasses.replace(sweep.base, duration=steps(10), evaluate_every=steps(10))
        sweep = dataclasses.replace(sweep, base=base)
    plan = make_plan(dataclasses.replace(sweep, join_depths=True))
    loaded = sweep.base.data.load()
    rows = []
    for together in join(plan):
        joined = Way(together, loaded)
        for number, row in sorted(zip(together.numbers, together.rows, strict=True)):
            own, trials = Way(Joined((number,), (row,)), loaded), row.group.trials
            for way in (own, joined):
                way.run(trials)  # what is traced when it is first called
            taken = [[*own.run(trials), *joined.run(trials)] for _ in range(rounds)]
            train, judge, train_joined, judge_joined = zip(*taken, strict=True)
            model = row.group.experiment.model
            rows.append(
                (
                    f"{'residual' if model.residual else 'plain'}, {model.convolutions}",
                    f"{own.compiling:.1f}",
                    f"{joined.compiling:.1f}" if row is together.deepest else "",
                    spread(train),
                    spread([b / a for a, b in zip(train, train_joined, strict=True)]),
                    spread([b / a for a, b in zip(judge, judge_joined, strict=True)]),
                )
            )
    header = ("layers", "compile own, s", "joined, s", "train own, s", "joined to own", "to judge")
    table("depth as a number", header, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
