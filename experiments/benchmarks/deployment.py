"""Figures of deployment: one prediction from a cold start, and an exported program against the jitted model.

    python experiments/benchmarks/deployment.py                     both, about two minutes on two cores
    python experiments/benchmarks/deployment.py cold                new processes that predict one picture, seconds
    python experiments/benchmarks/deployment.py exported            a call of each, microseconds
    python experiments/benchmarks/deployment.py --quick             one round: does it run?

Programs are compiled once and then read from the disk, as they are for a user, except in the row "nothing compiled
yet". What is compared takes turns; printed are medians, with the least and the most in brackets, and ratios that are
taken round by round. The goals: a cold start below 3 s, and an exported program no slower than the model.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from core import interleaved, table  # noqa: E402

PICTURE = ROOT / "docs" / "seven.png"


def main(arguments: list[str]) -> None:
    """Prints the sections asked for, or all."""
    from research import runtime

    runtime.tune()
    sections = {"cold": cold, "exported": exported}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", help=" or ".join(sections))
    parser.add_argument("--quick", action="store_true", help="one round, of networks that hardly learned")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.sections) - sections.keys():
        parser.error(f"no section {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as scratch:
        run, export = trained(Path(scratch), steps=5 if asked.quick else 200)
        for name in asked.sections or sections:
            sections[name](run, export, Path(scratch), rounds=1 if asked.quick else 11)


def trained(scratch: Path, steps: int) -> tuple[str, str]:
    """The folders of a run on digits, and of its export."""
    from research.data import Digits
    from research.deployment.exporting import export
    from research.models import ConvNet
    from research.training import Experiment, run
    from research.training import steps as duration

    experiment = Experiment(
        data=Digits(), model=ConvNet(convolutions=2, hidden=(128,), norm="batch"), duration=duration(steps), devices=1
    )
    with contextlib.redirect_stdout(io.StringIO()):
        folder = run.train(experiment, workdir=str(scratch / "runs"))["folder"]
    return folder, export(folder, scratch / "exported", ["stablehlo"])["to"]


def cold(run: str, export: str, scratch: Path, rounds: int) -> None:
    """Seconds from the start of a process to its end, for one picture."""
    launch = [sys.executable, str(ROOT / "launch.py"), "--mode", "predict", str(PICTURE), "--run"]
    filled = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    commands = {
        "import jax, and no more": ([sys.executable, "-c", "import jax"], filled),
        "a run": ([*launch, run], filled),
        "a run, nothing compiled yet": ([*launch, run], {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
        "an exported folder": ([*launch, export], filled),
        "its predict.py": ([sys.executable, str(Path(export, "predict.py")), str(PICTURE)], filled),
    }
    measured = [seconds_of(*command) for command in commands.values()]
    for measure in measured:
        measure()  # fills the caches
    taken = interleaved(*measured, rounds=rounds)
    rows = [(name, spread(times)) for name, times in zip(commands, taken, strict=True)]
    table("one prediction from a cold start", ("by", "seconds"), rows)


def seconds_of(command: list[str], settings: dict[str, str]) -> Callable[[], float]:
    """What runs a command and tells how long it took."""

    def measure() -> float:
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **settings})
        return time.perf_counter() - begun

    return measure


def exported(run: str, export: str, scratch: Path, rounds: int) -> None:
    """Microseconds of a call, inputs and outputs on the host: the jitted model, and the exported program."""
    import jax
    import numpy as np

    from research.deployment import standalone
    from research.deployment.program import read_program

    program = read_program(run)
    arrays, function = jax.device_put(program.arrays), jax.jit(program.function)
    ways = {"jitted": lambda raw: np.asarray(function(arrays, raw)), "exported": standalone.load(export)}
    rows = []
    for batch in (1, 64, 512):
        raw = np.random.default_rng(0).integers(0, 17, (batch, 8, 8, 1)).astype(np.float32)
        jitted, again = (way(raw) for way in ways.values())
        np.testing.assert_allclose(again, jitted, atol=1e-5)
        calls = max(1, 512 // batch)
        taken = interleaved(*(microseconds_of(way, raw, calls) for way in ways.values()), rounds=rounds)
        ratios = [new / old for old, new in zip(*taken, strict=True)]
        rows += [(f"{name}, batch {batch}", spread(times)) for name, times in zip(ways, taken, strict=True)]
        rows[-1] += (spread(ratios),)
        rows[-2] += ("",)
    table("an exported program against the jitted model", ("by", "microseconds a call", "to jitted"), rows)


def microseconds_of(function: Callable, raw, calls: int) -> Callable[[], float]:
    """What calls a function several times and tells how long one call took."""

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            function(raw)
        return (time.perf_counter() - begun) / calls * 1e6

    return measure


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main(sys.argv[1:])
