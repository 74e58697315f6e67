"""A sweep against the same trials one after another, where its time goes, and how it grows.

    python experiments/benchmarks/sweeps.py                                   everything, about an hour on two cores
    python experiments/benchmarks/sweeps.py --quick                           a few steps of a few trials: does it run?
    python experiments/benchmarks/sweeps.py --only peers --models "MLP 2x64"  some sections, of some models

    peers       64 trials in a process of their own, imports and compilation included, against a plain PyTorch loop, a
                plain Flax loop and our own program of a single trial (what is absent is left out: the extra `peers`)
    parts       where the time of such a process goes, at 8, 32 and 128 trials
    alone       all that a sweep does, once compiled, against our program of a single trial over and over
    overhead    the same against its bare vectorised program, called directly with the same windows
    scaling     sweeps of 10 to 1,000 trials of a tiny model: does anything grow faster than linearly?
    gpu         256 trials against our program of a single trial, where there is a GPU

Trials are of 600 steps of AdamW on digits, in batches of 64. What is compared takes turns; printed are medians and, in
brackets, the least and the most, and ratios taken round by round. Of what runs its trials one after another some are
run, and each further one is taken to last as long as one of these but the first (which compiles): time(n) = time(m) +
(n - m) x marginal, where the marginal is (end of the m-th - end of the first) / (m - 1). "A trial more"
is this marginal, and of a sweep what training, judging and keeping took by trial. Of this file's own processes
none is told how many threads to use but PyTorch, which has the better of 1 and 2.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from core import ratios, table  # noqa: E402

MODELS = ("MLP 2x64", "MLP 8x128", "ConvNet 8, 16", "ViT 2x32")
RATES = (5e-4, 1e-3, 2e-3, 5e-3)  # as in sweeps_subjects
GOALS = {  # of a cold sweep: against PyTorch, against Flax
    "MLP 2x64": (15, 6),
    "MLP 8x128": (4, 6),
    "ConvNet 8, 16": (2, 6),
    "ViT 2x32": (None, 6),
}
ALONE = 16
"""Trials that our own program runs one after another, about; it is quick."""


class How(NamedTuple):
    """How much is measured."""

    models: tuple[str, ...]
    rounds: int
    trials: int
    """Of a sweep that is compared with peers."""
    few: int
    """Of these, how many a peer runs."""
    steps: int
    counts: tuple[int, ...]
    """Trials in other sections."""
    tiny: tuple[int, ...]
    """Trials of a tiny model, for scaling."""


QUICK = {"rounds": 1, "trials": 8, "few": 2, "steps": 40, "counts": (4, 8), "tiny": (4, 8)}


def main(arguments: Sequence[str]) -> None:
    """Prints the sections asked for, or all."""
    sections = {
        "peers": peers,
        "parts": parts,
        "alone": alone,
        "overhead": overhead,
        "scaling": scaling,
        "gpu": gpu,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections), metavar="SECTION")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=64, help="of a sweep that is compared with peers")
    parser.add_argument("--few", type=int, default=4, help="how many of them a peer runs, 2 at least")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 32, 128], help="trials, in other sections")
    parser.add_argument("--tiny", type=int, nargs="+", default=[10, 100, 300, 1000], help="trials, for scaling")
    parser.add_argument("--quick", action="store_true", help="as little as runs all of it")
    asked = parser.parse_args(arguments)
    if asked.quick:
        vars(asked).update(QUICK)
    how = How(
        tuple(asked.models), asked.rounds, asked.trials, asked.few, asked.steps, tuple(asked.counts), tuple(asked.tiny)
    )
    for name in asked.only:
        sections[name](how)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def environment(cache: str | None) -> dict[str, str]:
    """That of a process that keeps compiled programs in a folder, or nowhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    kept |= {"SWEEPS_BEGUN": str(time.time()), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # two may share a GPU
    return kept | ({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {"JAX_ENABLE_COMPILATION_CACHE": "false"})


def process(file: str, *arguments: Any, cache: str | None = None) -> dict[str, Any]:
    """What a script wrote to the file whose name takes the place of OUT, and the seconds that its process took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        command = [sys.executable, str(HERE / file), *(str(out) if each is OUT else str(each) for each in arguments)]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment(cache), capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(out.read_text()) | {"seconds": seconds}


OUT = object()


class Worker:
    """A process of ours that does what it is told, line by line."""

    def __init__(self, variant: str, *flags: str, cache: str | None = None):
        command = [sys.executable, str(HERE / "sweeps_ours.py"), "rounds", variant, *flags]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment(cache), **pipes)

    def __call__(self, line: str) -> dict[str, Any]:
        """Does what a line says."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"sweeps_ours.py ended at '{line}' (status {self._process.wait()})")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def workers(variant: str, cache: str) -> Iterator[tuple[Worker, Worker]]:
    """One that runs the sweep on all cores as devices, and one that runs trials one after another."""
    with (
        contextlib.closing(Worker(variant, "--cores", cache=cache)) as sweep,
        contextlib.closing(Worker(variant, cache=cache)) as single,
    ):
        yield sweep, single


def scaled(told: dict[str, Any], trials: int) -> float:
    """Seconds that a process would have taken for more trials than it ran, one after another."""
    done = told["done"]
    return told["seconds"] + (trials - len(done)) * marginal(told)


def marginal(told: dict[str, Any]) -> float:
    """Seconds of a further trial."""
    done = told["done"]
    return (done[-1] - done[0]) / (len(done) - 1)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median, and in brackets the least and the most."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# ---------------------------------------------------------------------------------------------------------------------
# From the start of a process to its end


def peers(how: How) -> None:
    """The sweep, cold and warm, against peers."""
    rows = [row for name in how.models for row in rows_of_peers(name, how)]
    header = ("model", "what", "seconds", "a trial more", "ratio to cold", "to warm", "goal", "accuracy, %")
    table(f"{how.trials} trials of {how.steps} steps, a process each", header, rows)


def rows_of_peers(name: str, how: How) -> list[tuple]:
    """A row for the sweep, one for each peer."""
    points = points_of(how.trials)
    chosen = [round(i * (how.trials - 1) / (how.few - 1)) for i in range(how.few)]
    texts = [f"{points[i][0]}:{points[i][1]}" for i in chosen]
    variant, found = f"{name},{how.trials},{how.steps}", {}
    has_torch = importlib.util.find_spec("torch") is not None
    with tempfile.TemporaryDirectory() as folder:
        digits = write_digits(Path(folder, "digits.npz"))

        def peer(kind: str, trials: Sequence[str], *more: Any) -> dict[str, Any]:
            options = ("--digits", digits, "--steps", how.steps, *more, "--out", OUT)
            return process("sweeps_peers.py", kind, name, *options, "--trials", *trials)

        def single(cache: str) -> dict[str, Any]:
            several = range(0, how.trials, max(1, how.trials // ALONE))
            return process("sweeps_ours.py", "alone", OUT, variant, ",".join(map(str, several)), cache=cache)

        threads = best_threads(peer, texts) if has_torch else 0
        for number in range(how.rounds):
            cache = str(Path(folder, f"cache-{number}"))
            for what, turn in {
                "sweep, cold": functools.partial(sweep, variant, cache, points),
                "sweep, warm": functools.partial(sweep, variant, cache, points),
                "alone, cold": functools.partial(single, f"{cache}-alone"),
                "alone, warm": functools.partial(single, f"{cache}-alone"),
                "Flax": functools.partial(peer, "flax", texts),
                "PyTorch": functools.partial(peer, "torch", texts, "--threads", threads),
            }.items():
                if threads or what != "PyTorch":
                    found.setdefault(what, []).append(turn())
    found = {what if what != "PyTorch" else f"{what}, {threads} threads": told for what, told in found.items()}
    return [row_of(name, what, found, chosen, how) for what in found]


def points_of(trials: int) -> list[tuple[float, int]]:
    """The learning rate and seed of each trial, in the order of the sweep."""
    rates = RATES if trials % len(RATES) == 0 else RATES[:1]
    return [(rate, seed) for rate in rates for seed in range(trials // len(rates))]


def row_of(name: str, what: str, found: dict[str, list], chosen: Sequence[int], how: How) -> tuple:
    """How long it took, and how many times as long as the sweep."""
    told = found[what]
    if what.startswith("sweep"):
        seconds, accuracies = [each["seconds"] for each in told], told[0]["accuracies"]
        work = [sum(each["parts"].get(part, 0) for part in ("train", "evaluate", "log", "keep")) for each in told]
        more = spread([each / how.trials for each in work], 3)
        same = [accuracies[i] for i in chosen]
        accuracy = f"{100 * statistics.mean(same):.1f} (all: {100 * statistics.mean(accuracies):.1f})"
    else:
        seconds, more = [scaled(each, how.trials) for each in told], spread([marginal(each) for each in told], 3)
        accuracy = f"{100 * statistics.mean(told[0]['accuracies']):.1f}"
    against = [ratios(seconds, [each["seconds"] for each in found[f"sweep, {cache}"]]) for cache in ("cold", "warm")]
    torch, flax = GOALS[name]
    goal = {"PyTorch": torch, "Flax": flax}.get(what.partition(",")[0])
    shown = [] if what.startswith("sweep") else [spread(each) for each in against]
    return name, what, spread(seconds), more, *(shown or ("", "")), goal or "", accuracy


def sweep(variant: str, cache: str, points: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """launch.py with a sweep, in a new folder; with the test accuracies of its trials."""
    with tempfile.TemporaryDirectory() as folder:
        config = f"{HERE / 'sweeps_subjects.py'}:{variant}"
        options = ("--config", config, "--workdir", folder)
        told = process("sweeps_ours.py", "launch", OUT, *options, cache=cache)
        (path,) = Path(folder).glob("*/*/trials.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        of_point = {
            (row["values"]["optimizer.learning_rate"], row["values"]["seed"]): row["test"]["accuracy"] for row in rows
        }
        return told | {"accuracies": [of_point[point] for point in points]}


def best_threads(peer: Callable[..., dict[str, Any]], trials: Sequence[str]) -> int:
    """PyTorch's best number of threads, on two trials each."""
    return min((1, 2), key=lambda count: marginal(peer("torch", trials[:2], "--threads", count)))


def write_digits(path: Path) -> Path:
    """The digits as peers read them: normalised, and split as ours are."""
    import numpy as np

    from research.data import Digits
    from research.data.base import normalise

    loaded, arrays = Digits().load(), {}
    for name in ("train", "test"):
        split = loaded.splits[name]
        arrays[f"{name}_inputs"] = np.asarray(normalise(loaded.normalisation, split.inputs), np.float32)
        arrays[f"{name}_labels"] = split.labels.astype(np.int64)
    np.savez(path, **arrays)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Where the time goes


PARTS = ("import", "plan", "compile", "train", "evaluate", "log", "keep", "report", "rest")


def parts(how: How) -> None:
    """The seconds of a sweep's process by part, cold and warm."""
    rows = []
    for name in how.models:
        for trials in how.counts:
            variant = f"{name},{trials},{how.steps}"
            points = points_of(trials)
            with tempfile.TemporaryDirectory() as cache:
                told = [
                    ("cold", sweep(variant, cache, points)),
                    *(("warm", sweep(variant, cache, points)) for _ in "a"),
                ]
            rows += [(name, trials, state, *cells_of_parts(each)) for state, each in told]
    table("Where the time goes, seconds", ("model", "trials", "", *PARTS, "in all"), rows)


def cells_of_parts(told: dict[str, Any]) -> list[str]:
    """Seconds by part; what the process does besides, such as ending, is among the rest."""
    seconds = dict.fromkeys(PARTS, 0.0) | told["parts"]
    seconds["rest"] += told["seconds"] - sum(seconds.values())
    return [f"{seconds[part]:.2f}" for part in PARTS] + [f"{told['seconds']:.1f}"]


# ---------------------------------------------------------------------------------------------------------------------
# Once compiled


def alone(how: How) -> None:
    """A sweep but for its report, against the single-trial program, both compiled."""
    rows = []
    for name in how.models:
        for trials in how.counts:
            rows.append((name, trials, *cells_alone(f"{name},{trials},{how.steps}", trials, how.rounds)))
    header = ("model", "trials", "one after another, s", "sweep, s", "ratio", "training alone")
    table("Once compiled, reports excluded (goal: 1.7 where a trial uses one core, never below 0.98)", header, rows)


def cells_alone(variant: str, trials: int, rounds: int) -> tuple[str, ...]:
    """Seconds of both, and ratios."""
    count = min(trials, 2 * ALONE)
    with tempfile.TemporaryDirectory() as cache, workers(variant, cache) as (all_at_once, single):
        single("alone 1"), all_at_once("sweep")  # compile
        one, sweep, training = [], [], []
        for _ in range(rounds):
            one.append(single(f"alone {count}")["seconds"] * trials / count)
            told = all_at_once("sweep")
            sweep.append(told["seconds"] - told["parts"].get("compile", 0))
            training.append(told["parts"]["train"] + told["parts"]["evaluate"])
    return spread(one, 2), spread(sweep, 2), spread(ratios(one, sweep), 2), spread(ratios(one, training), 2)


def overhead(how: How) -> None:
    """The sweep against its bare program."""
    rows = []
    for name in how.models:
        for trials in how.counts[1:]:
            variant = f"{name},{trials},{how.steps}"
            with (
                tempfile.TemporaryDirectory() as cache,
                contextlib.closing(Worker(variant, "--cores", cache=cache)) as worker,
            ):
                rows.append((name, trials, *cells_of_overhead(worker, trials, how.rounds)))
    header = ("model", "trials", "bare, s", "training", "and logging", "and planning, keeping", "ms a trial")
    table(
        "A sweep over its bare vectorised program (goal: at most 1.03), compilation and report excluded", header, rows
    )


def cells_of_overhead(worker: Worker, trials: int, rounds: int) -> tuple[str, ...]:
    """Seconds of the bare program, how many times as long more and more of the sweep takes, and what a trial costs."""
    worker("sweep"), worker("bare")
    bare, whole = [], []
    for _ in range(rounds):
        whole.append(worker("sweep")["parts"])
        bare.append(worker("bare")["seconds"])
    training = [parts["train"] for parts in whole]
    logging = [parts["train"] + parts["log"] for parts in whole]
    others = ("compile", "evaluate", "report")
    everything = [sum(seconds for part, seconds in parts.items() if part not in others) for parts in whole]
    cost = [1e3 * (all_of_it - alone) / trials for all_of_it, alone in zip(everything, bare, strict=True)]
    return (
        spread(bare, 2),
        *(spread(ratios(each, bare), 3) for each in (training, logging, everything)),
        spread(cost, 2),
    )


# ---------------------------------------------------------------------------------------------------------------------
# How it grows


def scaling(how: How) -> None:
    """Sweeps of a tiny model: seconds by part, and how much faster than linearly each grows."""
    found = {}
    steps = min(how.steps, 20)
    for trials in how.tiny:
        variant = f"MLP 1x8,{trials},{steps}"
        with tempfile.TemporaryDirectory() as cache:
            sweep(variant, cache, points_of(trials))
            found[trials] = [sweep(variant, cache, points_of(trials)) for _ in range(how.rounds)]
    names = [part for part in PARTS if part != "import"]
    rows = []
    for part in names:
        seconds = {
            trials: statistics.median(each["parts"].get(part, 0.0) for each in told) for trials, told in found.items()
        }
        *_, before, last = how.tiny
        growth = (seconds[last] / max(seconds[before], 1e-9)) / (last / before)
        rows.append((part, *(f"{value:.3f}" for value in seconds.values()), f"{growth:.2f}"))
    header = ("part", *(f"{trials:,} trials" for trials in how.tiny), "growth over linear")
    table(f"Sweeps of MLP 1x8, {steps} steps, compiled before: seconds (goal: growth at most 1)", header, rows)


# ---------------------------------------------------------------------------------------------------------------------
# On a GPU


def gpu(how: How) -> None:
    """256 trials once compiled, where there is a GPU."""
    asked = "import jax; print(jax.default_backend())"  # in a process of its own, which lets go of the GPU
    if subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout.strip() != "gpu":
        print("gpu: left out, for there is none")
        return
    rows = []
    for name in ("MLP 2x64", "ConvNet 8, 16"):
        rows.append((name, 256, *cells_alone(f"{name},256,{how.steps}", 256, how.rounds)))
    header = ("model", "trials", "one after another, s", "sweep, s", "ratio", "training alone")
    table("On a GPU, once compiled, reports excluded (goal: 30)", header, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
