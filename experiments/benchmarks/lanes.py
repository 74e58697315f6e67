"""Trials of one program one after another on each device ("map") or side by side ("vmap"): milliseconds by trial.

    python experiments/benchmarks/lanes.py                      about six minutes on two cores
    python experiments/benchmarks/lanes.py MLP ViT              some of the models, by how their names begin

Both programs are compiled and then take turns at the same steps of the same trials, which are dealt out to all devices
(each core is one); nothing is evaluated or logged between. Printed are medians of the time of a step by trial and of
the ratio, round by round, with the middle half in brackets, and what it took to compile the two.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from research import runtime  # noqa: E402

ROUNDS, SECONDS, TRIALS, LENGTH = 7, 1.0, (8, 64), 64


class Subject(NamedTuple):
    """A network, and what it is trained on."""

    model: object
    data: object
    objective: object = None


def subjects() -> dict[str, Subject]:
    """Small networks by name: those that a sweep is made of."""
    from research.data import Digits, PythonText
    from research.models import GPT, MLP, ConvNet, ViT
    from research.training import NextToken

    digits = Digits()
    return {
        "MLP 1x8": Subject(MLP(depth=1, width=8), digits),
        "MLP 1x16": Subject(MLP(depth=1, width=16), digits),
        "MLP 2x64": Subject(MLP(depth=2, width=64), digits),
        "MLP 8x128": Subject(MLP(depth=8, width=128, scan=True), digits),
        "ConvNet 8, 16": Subject(ConvNet(features=(8, 16)), digits),
        "ViT 2x16": Subject(ViT(depth=2, width=16, heads=2, patch=4), digits),
        "ViT 2x32": Subject(ViT(depth=2, width=32, heads=4, patch=2), digits),
        "GPT 2x32": Subject(GPT(depth=2, width=32, heads=4, context=LENGTH), PythonText(length=LENGTH), NextToken()),
    }


class Runner:
    """The trials of a subject under way, in one of the two ways."""

    def __init__(self, subject: Subject, trials: int, how: str):
        import jax

        from research.sweeps import lanes
        from research.training import AdamW, Experiment, steps
        from research.training.evaluation import to_device
        from research.training.plan import make_plan

        options = {} if subject.objective is None else {"objective": subject.objective}
        fields = {"optimizer": AdamW(), "duration": steps(10**6), "devices": 1, "norms": "none", **options}
        experiments = [
            Experiment(data=subject.data, model=subject.model, seed=seed, **fields) for seed in range(trials)
        ]
        loaded = subject.data.load()
        plan = make_plan(experiments[0], loaded)
        program = lanes.make_program(plan, experiments, jax.local_devices()[:trials], how)
        self.lanes, self.trials, self.step = lanes.make_lanes(program, experiments), trials, 0
        data = to_device(program.plan, loaded.splits["train"], loaded.normalisation)
        self.data = jax.device_put(data, program.everywhere())
        self.frozen, self.states = lanes.begin(self.lanes)
        begun = time.perf_counter()
        self(1)
        self.compiled = time.perf_counter() - begun

    def __call__(self, steps: int) -> float:
        """Seconds for some steps."""
        import jax

        from research.sweeps import lanes
        from research.training.loop import lengths

        begun = time.perf_counter()
        windows = lengths(self.step, [self.step + steps])
        self.states, logged = lanes.advance(self.lanes, self.frozen, self.states, self.data, windows)
        jax.block_until_ready((self.states, logged))
        self.step += steps
        return time.perf_counter() - begun


def row(name: str, subject: Subject, trials: int) -> tuple[str, ...]:
    """What is told of a subject and a number of trials."""
    runners = [Runner(subject, trials, how) for how in ("map", "vmap")]
    steps = max(1, int(SECONDS / max(runner(4) / 4 for runner in runners)))
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for taken, runner in zip(times, runners, strict=True):
            taken.append(1e3 * runner(steps) / steps / trials)
    ratios = [map_ / vmap for map_, vmap in zip(*times, strict=True)]
    compiled = (f"{runner.compiled:.1f}" for runner in runners)
    return name, str(trials), *map(spread, times), spread(ratios), *compiled


def spread(values: list[float]) -> str:
    """Median and the middle half."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def main(names: list[str]) -> None:
    """Prints the table."""
    runtime.tune()
    runtime.use_all_cores()
    from core import table

    chosen = {name: s for name, s in subjects().items() if not names or any(name.startswith(n) for n in names)}
    rows = [row(name, subject, trials) for name, subject in chosen.items() for trials in TRIALS]
    header = ("model", "trials", "map, ms", "vmap, ms", "map / vmap", "compile map, s", "vmap, s")
    table("a step, by trial", header, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
