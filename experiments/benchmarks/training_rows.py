"""The rows of `training.py`'s tables: a setting of a framework each, and the process that trains with it.

    row = Row("PyTorch, compiled", "training_peers.py", workload, {"compiled": "default"})
    row.start()                  # its process begins with the first step
    row.begun = row.told()       # what it says of that
    row.told("settle", 1.0), row.told("turn")

What a worker cannot do is kept in `failed`, a line, and the other rows go on.
"""

import contextlib
import functools
import json
import math
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from research import runtime  # noqa: E402

OURS, FLAX, EAGER = "ours", "Flax loop", "PyTorch"
OURS_ONEDNN = f"{OURS}, oneDNN"
TUNED = ", tuned"
WIDTH = 150
"""Columns of a table."""
PATIENCE = {"cpu": 600, "gpu": 150}
"""Seconds that an answer may take."""


class How(NamedTuple):
    """How much is measured."""

    models: tuple[str, ...]
    rounds: int
    seconds: float
    settings: tuple[str, ...]
    gpu: bool
    tiny: bool
    write: Path | None = None


class Failed(Exception):
    """A worker could not do what it was told; the message says why, in a line."""


class Worker:
    """A process that trains as it is told, line by line; what it compiles is kept nowhere."""

    def __init__(self, script: str, *arguments: Any, tuned: bool = False, gpu: bool = False):
        self._folder = tempfile.TemporaryDirectory()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [sys.executable, str(HERE / script), *map(json.dumps, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "bufsize": 0}
        environment = self._environment(tuned=tuned, gpu=gpu)
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        self._patience = PATIENCE["gpu" if gpu else "cpu"]

    def _environment(self, *, tuned: bool, gpu: bool) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "JAX_COMPIL"))}
        compiled = Path(self._folder.name, "compiled")
        kept |= {
            "TRAINING_BEGUN": str(time.time()),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(compiled),
            "TRITON_CACHE_DIR": str(compiled / "triton"),
        }
        if gpu:
            kept |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        return kept | (runtime.ALLOCATOR if tuned else {})

    def tell(self, what: str, *arguments: Any) -> None:
        """Tells what is to be done, and does not wait."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{json.dumps([what, *arguments])}\n".encode())

    def answer(self) -> dict[str, Any]:
        """Waits for the answer to the first line that has none yet. Raises Failed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._patience):
                self._process.kill()
                raise Failed(f"no answer in {self._patience} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the process ended with status {self._process.wait()}: {self._last_words()}")
        told = json.loads(line)
        if "error" in told:
            raise Failed(told["error"])
        return told

    def __call__(self, what: str, *arguments: Any) -> dict[str, Any]:
        """Does something."""
        self.tell(what, *arguments)
        return self.answer()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:150] if lines else ""

    def leave(self) -> None:
        """Lets the process end, and does not wait."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """Ends the process."""
        self.leave()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


class Row:
    """A setting of a framework, its worker, and what is found of it."""

    def __init__(self, name: str, script: str, *arguments: Any, tuned: bool = False, gpu: bool = False):
        self.name = name + (TUNED if tuned else "")
        self._start = functools.partial(Worker, script, *arguments, tuned=tuned, gpu=gpu)
        self.worker: Worker | None = None
        self.begun: dict[str, Any] = {}
        self.times: list[float] = []
        self.threads: int | None = None
        self.bytes: int | None = None
        self.failed = ""

    def start(self) -> None:
        """Starts its process, which begins at once."""
        self.worker = self._start()
        self.worker.tell("begin")

    def told(self, *line: Any) -> dict[str, Any]:
        """The answer to a line, or to one before; nothing where the worker has failed, which is kept."""
        if self.failed:
            return {}
        try:
            return self.worker(*line) if line else self.worker.answer()
        except Failed as error:
            self.failed = str(error)
            return {}

    def close(self) -> None:
        """Ends its process."""
        if self.worker is not None:
            self.worker.close()

    @property
    def is_torch(self) -> bool:
        """Whether it is PyTorch's."""
        return self.name.startswith(EAGER)


def end(rows: list[Row]) -> None:
    """Ends all their processes."""
    for row in rows:
        if row.worker is not None:
            row.worker.leave()
    for row in rows:
        row.close()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and in brackets the least and the most; times of many milliseconds have fewer digits."""
    digits = max(0, digits - max(0, math.floor(math.log10(max(statistics.median(values), 1e-9)))))
    return (
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        if len(values) > 1
        else f"{values[0]:.{digits}f}"
    )
