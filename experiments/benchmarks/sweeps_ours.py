"""The trials of `sweeps_subjects` with this codebase, and where the time goes; `sweeps.py` starts this file.

    sweeps_ours.py launch OUT ARGUMENTS...      launch.py, watched
    sweeps_ours.py alone OUT VARIANT            trials one after another by the compiled program of a single trial
    sweeps_ours.py rounds VARIANT [--cores]     waits for lines and does what they say, over and over:
        sweep       the whole sweep but for its report       bare        its vectorised program alone
        alone N     N trials one after another

What came of it is JSON: in the file OUT, or a line for each line that was read.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
BEGUN = float(os.environ.get("SWEEPS_BEGUN", time.time()))  # when the process was started

PARTS = {
    "research.sweeps.run:make_plan": "plan",
    "research.sweeps.display:show": "plan",
    "research.sweeps.rounds:_pack": "plan",
    "research.sweeps.run:_folder": "plan",
    "research.sweeps.run:_write_start": "keep",
    "concurrent.futures:Future.result": "compile",
    "concurrent.futures:ThreadPoolExecutor.shutdown": "compile",
    "research.sweeps.fit:Pack.advance": "train",
    "research.sweeps.fit:Pack._log": "log",
    "research.sweeps.fit:Pack._evaluate": "evaluate",
    "research.sweeps.fit:Pack.finish": "evaluate",
    "research.sweeps.ledger:Ledger.__init__": "keep",
    "research.sweeps.ledger:Ledger.left": "keep",
    "research.sweeps.ledger:Ledger.close": "keep",
    "research.sweeps.rounds:record": "keep",
    "research.sweeps.run:summarise": "report",
    "research.sweeps.run:report": "report",
}
"""What the time of a function is spent on."""


class Stopwatch:
    """Seconds of the main thread by part; what is done within another part counts for itself alone."""

    def __init__(self, part: str = "rest"):
        self.seconds: dict[str, float] = defaultdict(float)
        self._open, self._since = [part], time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Counts for this part."""
        self._turn()
        self._open.append(part)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watch(self, place: str, part: str) -> None:
        """Counts the calls of a function, "module:name", for a part."""
        module, _, name = place.partition(":")
        owner = importlib.import_module(module)
        *owners, name = name.split(".")
        for each in owners:
            owner = getattr(owner, each)
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments, **named):
            if threading.current_thread() is not threading.main_thread():
                return function(*arguments, **named)
            with self.within(part):
                return function(*arguments, **named)

        setattr(owner, name, watched)

    def taken(self) -> dict[str, float]:
        """The seconds since the last time, by part."""
        self._turn()
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def main(arguments: Sequence[str]) -> None:
    """Does what the first argument says."""
    what, *rest = arguments
    {"launch": launch, "alone": alone, "rounds": rounds}[what](*rest)


def launch(out: str, *arguments: str) -> None:
    """launch.py with a sweep, and its seconds by part."""
    import launch as command

    watch, load = Stopwatch("import"), command._load

    def load_and_watch(*given):
        loaded = load(*given)
        for place, part in PARTS.items():
            watch.watch(place, part)
        watch._turn()
        watch._open[0] = "rest"
        return loaded

    command._load = load_and_watch
    before = time.time() - BEGUN
    status = command.main(["launch.py", *arguments])
    if status:
        sys.exit(status)
    seconds = watch.taken()
    seconds["import"] += before
    Path(out).write_text(json.dumps({"parts": seconds}))


class Alone:
    """The program of a single trial, compiled once and called again with other leaves."""

    def __init__(self, variant: str):
        from sweeps_subjects import get_config

        from research.sweeps.sweep import trials
        from research.training import evaluation
        from research.training.plan import make_plan

        self.trials = trials(get_config(variant))
        experiment = self.trials[0].experiment
        self.loaded = experiment.data.load()
        self.plan = make_plan(experiment, self.loaded)
        self.splits = {
            name: evaluation.to_device(self.plan, split, self.loaded.normalisation)
            for name, split in self.loaded.splits.items()
        }

    def run(self, index: int) -> float:
        """Trains a trial and judges it on all three splits, as a sweep does; returns its test accuracy."""
        from research.training import evaluation, loop, step
        from research.training.plan import boundary, milestones, replicate

        experiment = self.trials[index].experiment
        leaves = replicate(self.plan, boundary(experiment))
        state, frozen = step.initial_state(self.plan, leaves)
        log_every, _ = milestones(experiment, self.plan)
        ends = [*range(log_every, self.plan.steps, log_every), self.plan.steps]
        for first in range(0, len(ends), loop.WINDOWS):
            start = ends[first - 1] if first else 0
            windows = loop.lengths(start, ends[first : first + loop.WINDOWS])
            state, _ = step.train_chunk(self.plan, leaves, frozen, state, self.splits["train"], windows)
        sums = {
            name: evaluation.evaluate(self.plan, leaves, frozen, state.used(), data)
            for name, data in self.splits.items()
        }
        return float(sums["test"]["correct"] / sums["test"]["count"])


def alone(out: str, variant: str, trials: str) -> None:
    """Some trials one after another in a process of their own: when each was done, and its accuracy."""
    from research import runtime

    runtime.remember_programs()
    runtime.tune()
    subject = Alone(variant)
    ready, done, accuracies = time.time() - BEGUN, [], []
    for index in map(int, trials.split(",")):
        accuracies.append(subject.run(index))
        done.append(time.time() - BEGUN)
    Path(out).write_text(json.dumps({"ready": ready, "done": done, "accuracies": accuracies}))


# ---------------------------------------------------------------------------------------------------------------------
# Over and over


def rounds(variant: str, *flags: str) -> None:
    """Reads what to do from lines, and answers each with a line."""
    from research import runtime

    runtime.remember_programs()
    runtime.tune()
    if "--cores" in flags:
        runtime.use_all_cores()
    does = {"sweep": functools.cache(Whole), "bare": functools.cache(Whole), "alone": functools.cache(Alone)}
    for line in sys.stdin:
        what, *numbers = line.split()
        subject = does[what](variant) if what == "alone" else does["sweep"](variant)
        begun = time.perf_counter()
        if what == "alone":
            count = int(numbers[0]) if numbers else len(subject.trials)
            told: Any = {"accuracies": [subject.run(index) for index in range(count)]}
        else:
            told = getattr(subject, what)()
        print(json.dumps({"seconds": time.perf_counter() - begun, **told}), flush=True)


class Whole:
    """A sweep, run again and again as if it were new, in silence and without its report; and what it computed."""

    def __init__(self, variant: str):
        from sweeps_subjects import get_config

        from research.sweeps import lanes, run

        self.config, self._watch, self._calls = get_config(variant), Stopwatch(), []
        run.report = lambda path: ""
        self._advance = lanes.advance
        lanes.advance = self._noted
        for place, part in PARTS.items():
            self._watch.watch(place, part)

    def _noted(self, layout: Any, frozen: Any, states: Any, data: Any, windows: Any) -> Any:
        self._calls.append((layout, data, windows))
        return self._advance(layout, frozen, states, data, windows)

    def sweep(self) -> dict[str, Any]:
        """Runs it, and returns its seconds by part, the steps of its packs, and the accuracies of its trials."""
        from research.jsonl import read_rows
        from research.sweeps import run

        self._calls.clear()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            self._watch.taken()
            begun = time.perf_counter()
            summary = run.run(self.config, workdir=folder)
            parts, seconds = self._watch.taken(), time.perf_counter() - begun
            rows = read_rows(Path(summary["folder"], "trials.jsonl"))
        steps = sum(int(windows.sum()) for _, _, windows in self._calls)
        return {
            "parts": parts,
            "seconds": seconds,
            "steps": steps,
            "accuracies": [row["test"]["accuracy"] for row in rows],
        }

    def bare(self) -> dict[str, Any]:
        """Begins and advances the lanes that the sweep had, with the same windows, and nothing else."""
        import jax

        from research.sweeps import lanes

        before, states, frozen, steps = None, None, None, 0
        for layout, data, windows in self._calls:
            if layout is not before:
                jax.block_until_ready(states)
                frozen, states = lanes.begin(layout)
                before = layout
            states, _ = self._advance(layout, frozen, states, data, windows)
            steps += int(windows.sum())
        jax.block_until_ready(states)
        return {"steps": steps}


if __name__ == "__main__":
    main(sys.argv[1:])
