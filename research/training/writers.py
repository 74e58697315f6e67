"""Metrics on their way to disk: a row a log point in `metrics.jsonl`, and event files for TensorBoard on request.

    {"step": 100, "split": "train", "time": 1.52, "loss": 0.25, "accuracy": 0.93}

`time` is in seconds since the run began, without the time between being stopped and resumed. Rows of a step are written
before its checkpoint; a run that resumes from that checkpoint drops the rows past it, so that no step is there twice.
"""

import contextlib
import importlib.util
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.jsonl import explained, read_lines, row, write_atomically

ADDRESS = ("step", "split", "time")
"""What a row has besides metrics."""


class MetricWriter:
    """Appends rows to the metrics.jsonl of a run folder, each in one write, so that they survive the process.

    Raises UserError for a disk that is full and, if event files are wanted, for TensorBoard's package missing.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False):
        if tensorboard:
            check_tensorboard()
        self.path = Path(folder) / "metrics.jsonl"
        self._event_folder = Path(folder) / "tensorboard" if tensorboard else None
        self._events = None
        self._from_step: int | None = None
        with explained(f"write {self.path}"):
            self._file: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            _drop_cut_off_row(self._file)

    def write(self, values: Mapping[str, Any]) -> None:
        """Appends a row: "step", "split", "time" and metrics, any numbers. Raises UserError when the disk is full."""
        line = row(values)
        with explained(f"write {self.path}"):
            _append(self._file, line)
        if self._event_folder is not None:
            self._write_events(values)

    def truncate_after(self, step: int) -> None:
        """Drops the rows past `step`, that of the checkpoint a run resumes from, here and in TensorBoard.

        Raises UserError for a damaged row, by its line.
        """
        if self._events is not None:
            raise ValueError("rows are dropped before the first is written")
        self._from_step = step + 1
        kept = [line for line, values in read_lines(self.path) if values.get("step", 0) <= step]
        content = b"".join(kept)
        if len(content) == os.fstat(self._file).st_size:
            return
        write_atomically(self.path, content)
        with explained(f"write {self.path}"):
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)

    def sync(self) -> None:
        """Returns when all rows are on the disk."""
        with explained(f"write {self.path}"):
            os.fsync(self._file)
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Closes the files. Rows are safe without it, the last events for TensorBoard are not."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write_events(self, values: Mapping[str, Any]) -> None:
        if self._events is None:
            from tensorboardX import SummaryWriter

            with explained(f"write {self._event_folder}"):
                self._events = SummaryWriter(str(self._event_folder), purge_step=self._from_step)
        for name, value in values.items():
            if name not in ADDRESS and isinstance(value, numbers.Real):
                self._events.add_scalar(f"{values['split']}/{name}", float(value), int(values["step"]))


def check_tensorboard() -> None:
    """Raises UserError where event files cannot be written, for want of the package."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("event files for TensorBoard need tensorboardX: pip install 'fathom[tensorboard]'")


def _append(file: int, line: bytes) -> None:
    """Appends the whole line or, on a disk that is full, nothing."""
    written = 0
    try:
        while written < len(line):  # once; more often only where the disk is nearly full
            written += os.write(file, line[written:])
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, os.fstat(file).st_size - written)
        raise


def _drop_cut_off_row(file: int, block: int = 1 << 16) -> None:
    """Cuts off what stands behind the last end of a line, where a crash left half a row: the next would join it."""
    end = os.fstat(file).st_size
    keep = end
    while keep > 0:
        start = max(0, keep - block)
        if (found := os.pread(file, keep - start, start).rfind(b"\n")) >= 0:
            keep = start + found + 1
            break
        keep = start
    if keep < end:
        os.ftruncate(file, keep)
