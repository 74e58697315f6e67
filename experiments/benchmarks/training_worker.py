"""What the workers of `training.py` have in common: a process that trains as its lines say, and answers each in JSON.

    ["begin"]              makes everything and takes the first step
    ["settle", SECONDS]    finds how many steps last about so long
    ["turn"]               takes these, and tells the milliseconds of each

Whatever a library prints goes to the standard error, and what goes wrong is told in one line, so that a benchmark with
many workers goes on without this one.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGUN = float(os.environ.get("TRAINING_BEGUN", time.time()))  # when the process was started
WARM = 2
"""Steps before those that are timed: other workers had the device in between."""


class Trainer:
    """A network in training. Its child says how to take steps, and perhaps what the device holds."""

    count = 1
    """Steps in a turn."""

    def run(self, count: int) -> None:
        """Takes so many steps and waits for them."""
        raise NotImplementedError

    def parameters(self) -> int:
        """How many there are."""
        raise NotImplementedError

    def begin(self) -> dict[str, Any]:
        """The first step: seconds of the call, and since the process was started."""
        call = self.seconds(1)
        return {"call": call, "from_start": time.time() - BEGUN, "parameters": self.parameters()}

    def seconds(self, count: int) -> float:
        """That so many steps take."""
        begun = time.perf_counter()
        self.run(count)
        return time.perf_counter() - begun

    def settle(self, seconds: float) -> dict[str, Any]:
        """Chooses the number of steps in a turn, by steps that are compiled."""
        self.seconds(WARM)
        taken, count = self.seconds(1), 1
        while taken < seconds / 4:
            count = max(count + 1, min(10 * count, round(count * seconds / 3 / taken)))
            taken = self.seconds(count)
        self.count = max(1, round(seconds * count / taken))
        forget_peak()
        return {"steps": self.count, "ms": 1e3 * taken / count}

    def turn(self) -> dict[str, Any]:
        """Milliseconds a step."""
        self.run(WARM)
        return {"ms": 1e3 * self.seconds(self.count) / self.count}

    def memory(self) -> dict[str, Any]:
        """The most bytes that were held."""
        return {"bytes": peak()}


class OnJax(Trainer):
    """One in JAX, which tells the most that a GPU has held, but from the start on: so it is asked after a step."""

    held: int | None = None

    def begin(self) -> dict[str, Any]:
        import jax

        told = super().begin()
        self.held = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return told

    def memory(self) -> dict[str, Any]:
        return super().memory() if self.held is None else {"bytes": self.held}


def peak() -> int:
    """The most bytes that this process has had in memory since `forget_peak`, or since its start."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def forget_peak() -> None:
    """Forgets what compilation held, where the system lets a process do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def serve(make: Callable[[], Trainer]) -> None:
    """Does what lines say until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trainer = None
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            trainer = trainer or make()
            told = getattr(trainer, what)(*arguments)
        except Exception as error:
            told = {"error": in_a_line(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def in_a_line(error: BaseException, most: int = 200) -> str:
    """What went wrong, briefly: the kind of error and the first two lines of it that say something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:most]
