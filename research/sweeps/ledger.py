"""What is known of a sweep's trials, on the disk: what came of those that are done, and how far others are.

    ledger = Ledger(folder)
    left = ledger.left(trials, about)           # those that are not done, here or in another sweep of the same name
    ledger.metrics.write(row)
    ledger.record(rows, examples)               # once some trials are done
    ledger.take_saved(trials)                   # checkpoints of those that are under way

A trial is known by its fingerprint. Tables are appended to, so that a sweep of many trials costs each of them the same.
"""

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import UserError
from research.jsonl import read_json, read_rows, row, sync, write_atomically
from research.sweeps.sweep import Trial, came_to_end
from research.training.checkpoints import Checkpoint, Checkpoints
from research.training.folder import RunFolder
from research.training.writers import MetricWriter

TABLE, METRICS, EXAMPLES = "trials.jsonl", "metrics.jsonl", "examples"


class Ledger:
    """The tables of a sweep's folder, which this process has locked."""

    def __init__(self, folder: RunFolder, tests_all: bool = True):
        """tests_all: whether a trial is wanted with its test figures alone."""
        self.folder, self._tests_all = folder, tests_all
        self.done: dict[str, dict[str, Any]] = {}
        """The rows of trials that are done, by fingerprint."""
        self._siblings: dict[str, tuple[Path, dict[str, Any]]] | None = None
        """Rows of other sweeps of the same name, with the folder, by fingerprint."""
        for told in _rows(folder.path):
            if told["status"] != "failed":  # it may have been mended
                self.done[told["fingerprint"]] = told
        self._write_table()
        self._under_way = dict(self._saved())
        steps = {index: saved.about["step"] for saved in self._under_way.values() for index in saved.about["trials"]}
        finished = {told["trial"] for told in self.done.values()}
        metrics = folder.path / METRICS
        if metrics.exists():  # what was written since the last checkpoint will be written again
            kept = (r for r in read_rows(metrics) if r["trial"] in finished or r["step"] <= steps.get(r["trial"], -1))
            write_atomically(metrics, b"".join(map(row, kept)))
        self.metrics = MetricWriter(folder.path)

    def close(self) -> None:
        """Puts the trials in order, and closes the tables."""
        self.metrics.close()
        self._write_table()

    def _write_table(self) -> None:
        rows = sorted(self.done.values(), key=lambda told: told["trial"])
        write_atomically(self.folder.path / TABLE, b"".join(map(row, rows)))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------------------
    # What is done

    def left(self, trials: Sequence[Trial], about: Callable[[Trial], dict[str, Any]]) -> list[Trial]:
        """The trials that are not done. What other sweeps of the same name know of them is copied.

        about: what a trial is to this sweep (`plain.about`); to another it may be something else.
        """
        missing = {trial.fingerprint: trial for trial in trials if trial.fingerprint not in self.done}
        known = self._of_siblings() if missing else {}
        taken: dict[Path, dict[int, Trial]] = {}
        for mark in missing.keys() & known.keys():
            folder, told = known[mark]
            taken.setdefault(folder, {})[told["trial"]] = missing[mark]
        for folder in sorted(taken):
            self._adopt(folder, taken[folder], known, about)
        return [trial for trial in trials if trial.fingerprint not in self.done]

    def _of_siblings(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        if self._siblings is None:
            own = self.folder.path
            others = sorted((path.parent for path in own.parent.glob(f"*/{TABLE}")), reverse=True)
            self._siblings = {}
            for other in others:
                if other.resolve() != own.resolve():
                    for told in _rows(other):
                        is_wanted = told["test"] is not None or not (self._tests_all and came_to_end(told))
                        if told["status"] not in ("failed", "left early") and is_wanted:
                            self._siblings.setdefault(told["fingerprint"], (other, told))
        return self._siblings

    def _adopt(
        self, folder: Path, trials: Mapping[int, Trial], known: Mapping[str, Any], about: Callable[[Trial], dict]
    ) -> None:
        """Copies what another sweep knows of some trials, by their numbers there."""
        if (folder / METRICS).exists():
            for told in read_rows(folder / METRICS):
                if told["trial"] in trials:
                    self.metrics.write(told | {"trial": trials[told["trial"]].index})
        for path in sorted((folder / EXAMPLES).glob("*.npz")):
            with np.load(path) as arrays:
                chosen = [i for i, number in enumerate(arrays["trials"]) if int(number) in trials]
                if chosen:
                    numbers = np.array([trials[int(arrays["trials"][i])].index for i in chosen])
                    self._write_examples({name: arrays[name][chosen] for name in arrays} | {"trials": numbers})
        self.record([known[t.fingerprint][1] | {"trial": t.index} | about(t) for t in trials.values()], None)

    def record(self, rows: Sequence[dict[str, Any]], examples: Mapping[str, np.ndarray] | None) -> None:
        """Notes what came of some trials; what they made of the test examples and their metrics are kept first."""
        if examples is not None:
            self._write_examples(examples)
        self.metrics.sync()
        self.done |= {told["fingerprint"]: told for told in rows}
        path = self.folder.path / TABLE
        try:
            with open(path, "ab") as file:
                file.write(b"".join(map(row, rows)))
                file.flush()
            sync(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    def _write_examples(self, examples: Mapping[str, np.ndarray]) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **examples)
        folder = self.folder.path / EXAMPLES
        folder.mkdir(exist_ok=True)
        name = hashlib.sha256(np.ascontiguousarray(examples["trials"]).tobytes()).hexdigest()[:12]
        write_atomically(folder / f"{name}.npz", content.getvalue())

    # ------------------------------------------------------------------------------------------------------------------
    # What is under way

    def checkpoints_of(self, trials: Iterable[Trial]) -> Path:
        """Where these trials are saved while they are under way."""
        marks = "".join(trial.fingerprint for trial in trials)
        return self.folder.checkpoints / hashlib.sha256(marks.encode()).hexdigest()[:12]

    def forget(self, trials: Collection[int]) -> None:
        """Drops the metrics of trials that begin again."""
        self.metrics.close()
        path = self.folder.path / METRICS
        write_atomically(path, b"".join(row(told) for told in read_rows(path) if told["trial"] not in trials))
        self.metrics = MetricWriter(self.folder.path)

    def _saved(self) -> Iterable[tuple[Path, Checkpoint]]:
        if not self.folder.checkpoints.is_dir():
            return
        for folder in sorted(self.folder.checkpoints.iterdir()):
            with Checkpoints(folder) as checkpoints:
                try:
                    saved = checkpoints.restore_latest()
                except UserError:  # damaged: they begin again
                    continue
            if saved is not None:
                yield folder, saved

    def take_saved(self, trials: Mapping[str, Trial]) -> list[tuple[Path, Checkpoint]]:
        """The checkpoints of packs all of whose trials are among these, by fingerprint; each is given once."""
        taken = []
        for folder, saved in list(self._under_way.items()):
            if all(lane["fingerprint"] in trials for lane in saved.about["lanes"]):
                taken.append((folder, self._under_way.pop(folder)))
        return taken


def _rows(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / TABLE) if (folder / TABLE).exists() else []


def read_decision(folder: RunFolder, name: str) -> list[str] | None:
    """The fingerprints of the trials that stay after a rung, if that was decided."""
    path = folder.path / "rungs.json"
    return read_json(path).get(name) if path.exists() else None


def write_decision(folder: RunFolder, name: str, stay: Sequence[str]) -> None:
    """Keeps which trials stay after a rung, before any leaves."""
    path = folder.path / "rungs.json"
    known = read_json(path) if path.exists() else {}
    folder.write_json("rungs.json", known | {name: list(stay)})
