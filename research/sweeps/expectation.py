"""How long a sweep will take, by how fast the ones before it were.

    expect(plan, plan.trials, "runs")       # (50.2, "as fast as runs/depth_sweep/20260101-120000-3fa9c1")

The FLOPs that are left, over the FLOP/s of the newest sweep in the same folder; where there is none, a guess. Compiling
comes on top where programs are not remembered.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from research import runtime
from research.errors import UserError
from research.jsonl import folders_holding, read_json, read_rows
from research.sweeps.plan import SweepPlan
from research.sweeps.sweep import Trial

OF_A_CORE = 6e9
"""FLOP/s of a core of a processor in small networks, where nothing else is known."""


class Expectation(NamedTuple):
    """How long it will take."""

    seconds: float
    by: str
    """What it was reckoned from, in words."""


def expect(plan: SweepPlan, trials: Sequence[Trial], workdir: Path | str) -> Expectation | None:
    """The time for some trials of a sweep and those that judge them; None where nothing is known of the device."""
    flops = _flops(plan, trials)
    for path in _earlier(workdir, plan.sweep.name):
        if rate := _rate(path):
            return Expectation(flops / rate, f"as fast as {path}")
    if jax.default_backend() == "cpu":
        return Expectation(flops / (OF_A_CORE * runtime.cores()), f"at {OF_A_CORE / 1e9:.0f} GFLOP/s a core, a guess")
    return None


def _flops(plan: SweepPlan, trials: Sequence[Trial]) -> float:
    left = {trial.fingerprint for trial in trials}
    programs = [row for row in plan.built if any(trial.fingerprint in left for trial in row.group.trials)]
    searched = sum(row.training_flops * sum(t.fingerprint in left for t in row.group.trials) for row in programs)
    judged = sorted((row.training_flops for row in programs), reverse=True)[: plan.sweep.judge_most]
    return searched + plan.sweep.judge * sum(judged)


def _earlier(workdir: Path | str, name: str) -> list[Path]:
    """The sweeps in a folder, those of the name first, the newest of these first."""
    if not Path(workdir).is_dir():
        return []
    found = folders_holding("trials.jsonl", Path(workdir))
    return sorted(found, key=lambda path: (path.parent.name == name, path.name), reverse=True)


def _rate(path: Path) -> float | None:
    """FLOP/s of a sweep's trials; None where its folder does not tell."""
    try:
        programs = read_json(path / "sweep.json")["plan"]["programs"]
        rows = [row for row in read_rows(path / "trials.jsonl") if row.get("seconds") and row.get("steps")]
        flops = sum(
            programs[row["program"]]["training_flops"] * row["steps"] / programs[row["program"]]["steps"]
            for row in rows
        )
        return flops / sum(row["seconds"] for row in rows)
    except (OSError, UserError, KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None  # another version's, or damaged: it is asked for a guess alone
