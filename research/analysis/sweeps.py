"""A sweep's folder, read: the trials that are done, the programs they ran, and how each did on each test example.

    trials = load_trials("runs/depth_sweep")                       # a row a trial: values and figures
    trials.groupby("model.convolutions")["validation.accuracy"].max()

A sweep first searches: trials over its whole space, of which each program's best values are chosen by validation. Then
it judges: these values are trained again on seeds that had no say in the choice. `stage` tells the two apart.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from research.errors import UserError
from research.jsonl import folders_holding, read_json, read_rows

if TYPE_CHECKING:
    import pandas

COLUMNS = ("trial", "stage", "program", "of", "status", "steps", "best_step", "seconds")
SPLITS = ("validation", "test", "train")
BITS = "bits_per_"
"""With what the name of the figure begins that only language models have."""


class SweepFolder(NamedTuple):
    """What a sweep's folder holds, but for metrics and examples."""

    path: Path
    name: str
    select: str
    """What its best trial is best at: "validation/accuracy" or "validation/loss"."""
    rows: list[dict[str, Any]]
    """Of trials.jsonl, with `stage` and `program` in each."""
    programs: list[dict[str, Any]]
    """Of its plan; empty if the folder has no sweep.json."""
    base: dict[str, Any] | None
    """The config that trials have in common."""
    shape: tuple[int, ...] | None
    """Of an example."""
    planned: int | None
    """Trials that the search is to have."""
    reason: str
    """How it ended; "" if it is under way or was killed."""
    token: str = ""
    """Of language models what a token is, "byte": their losses are then told in bits for each."""

    @property
    def measure(self) -> str:
        """What networks are judged by: "accuracy" or "loss"."""
        return self.select.rpartition("/")[2]

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.measure == "loss" else 1

    @property
    def loss(self) -> str:
        """What losses are called: "loss", or "bits per byte"."""
        return f"bits per {self.token}" if self.token else "loss"

    @property
    def judged_by(self) -> str:
        """What networks are judged by, as it is called."""
        return self.loss if self.measure == "loss" else self.measure

    def in_unit(self, loss: Any) -> Any:
        """A loss, or an array of some, in the unit that it is told in."""
        return loss / math.log(2) if self.token else loss


def find_sweep(folder: Path | str) -> Path:
    """The newest sweep at or below a folder. Raises UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = folders_holding("trials.jsonl", folder)
    if not found:
        raise UserError(f"{folder}: no sweep with a trial that is done, for no folder in it holds a trials.jsonl")
    return max(found, key=lambda path: path.name)


def read_sweep(folder: Path | str) -> SweepFolder:
    """The newest sweep in `folder`. Raises UserError as `find_sweep`, and for a file that is damaged."""
    path = find_sweep(folder)
    told = read_json(path / "sweep.json") if (path / "sweep.json").exists() else {}
    summary = read_json(path / "summary.json") if (path / "summary.json").exists() else {}
    plan, sweep = told.get("plan") or {}, told.get("sweep") or {}
    programs = plan.get("programs") or []
    rows = _rows(path, programs)
    return SweepFolder(
        path=path,
        name=str(summary.get("name") or plan.get("name") or path.absolute().parent.name),
        select=plan.get("select") or summary.get("select") or "validation/accuracy",
        rows=rows,
        programs=programs,
        base=plan.get("base") or sweep.get("base"),
        shape=tuple(told["data"]["shape"]) if told.get("data") else None,
        planned=sum(len(program["trials"]) for program in programs) or summary.get("trials"),
        reason=summary.get("reason", ""),
        token=next((name.removeprefix(BITS) for row in rows for name in row.get("test") or () if BITS in name), ""),
    )


def _rows(path: Path, programs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The trials, each once, in the order of their indices; what older folders leave out is filled in."""
    known = {trial["fingerprint"]: i for i, program in enumerate(programs) for trial in program["trials"]}
    rows = {}
    for told in read_rows(path / "trials.jsonl"):
        row = {"stage": "search", "of": None, **told}
        if row.get("program") is None:
            row["program"] = known.get(told.get("fingerprint"))
        rows[row["trial"]] = row
    return [rows[index] for index in sorted(rows)]


# ---------------------------------------------------------------------------------------------------------------------
# Trials


def load_trials(folder: Path | str) -> "pandas.DataFrame":
    """A row for each trial that is done of the newest sweep in `folder`, in the order of its space, then of judgement.

    Columns: those of COLUMNS, the values by path ("optimizer.learning_rate"), and figures of the best evaluation
    ("validation.accuracy"), of the test split and of the training split at it ("test.accuracy", "train.loss"); NaN for
    a trial without any. Raises UserError as `find_sweep` does.
    """
    return trials_of(read_sweep(folder))


def trials_of(sweep: SweepFolder) -> "pandas.DataFrame":
    """What `load_trials` tells."""
    import pandas

    rows = []
    for told in sweep.rows:
        row = {name: told.get(name) for name in COLUMNS} | told["values"]
        for split in SPLITS:
            row |= {f"{split}.{name}": value for name, value in (told.get(split) or {}).items()}
        rows.append(row)
    return pandas.DataFrame(rows)


def swept_paths(trials: "pandas.DataFrame") -> list[str]:
    """The fields that differ between trials, in the order of the space, seeds last."""
    about = {*COLUMNS, *(name for name in trials if name.startswith(tuple(f"{split}." for split in SPLITS)))}
    differ = [name for name in trials if name not in about and trials[name].astype(str).nunique() > 1]
    return sorted(differ, key=is_seed)


def is_seed(path: str) -> bool:
    """Whether a field is a seed: "seed", "data_seed"."""
    return path.endswith("seed")


def setting(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values but for its seeds."""
    return {path: value for path, value in values.items() if not is_seed(path)}


def outcomes(sweep: SweepFolder, trials: Iterable[int], what: str) -> dict[int, np.ndarray]:
    """For each of some trials, "correct" or "losses" of every test example at its best evaluation (examples,).

    Trials whose examples are not kept are left out.
    """
    wanted, found = set(trials), {}
    for file in sorted(sweep.path.glob("examples/*.npz")):
        try:
            with np.load(file) as arrays:
                here = {int(trial): i for i, trial in enumerate(arrays["trials"]) if int(trial) in wanted}
                if here:
                    kept = arrays[what]
                    found |= {trial: kept[i] for trial, i in here.items()}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{file}: damaged or cut off ({error})") from error
    return found


def metrics_of(sweep: SweepFolder, trials: Iterable[int], split: str, metric: str) -> dict[int, list[tuple]]:
    """For each of some trials, (step, value) of a metric, in order."""
    wanted: dict[int, list[tuple]] = {trial: [] for trial in trials}
    file = sweep.path / "metrics.jsonl"
    for row in read_rows(file) if file.exists() else ():
        if row["trial"] in wanted and row.get("split") == split and metric in row:
            wanted[row["trial"]].append((row["step"], row[metric]))
    return {trial: sorted(points) for trial, points in wanted.items() if points}


# ---------------------------------------------------------------------------------------------------------------------
# Words


def short(path: str, paths: Iterable[str]) -> str:
    """The last name of a path, with as much before it as tells it from the others."""
    names = path.split(".")
    for count in range(1, len(names)):
        end = ".".join(names[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in paths) == 1:
            return end
    return path


def is_numeric(text: str) -> bool:
    """Whether a value as typed is a number, or some: "16", "1e-3", "(8 16)"."""
    words = [word for word in re.split(r"[\s,()\[\]]+", text) if word and word != "..."]
    return bool(words) and all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word, re.I) for word in words)


def si(number: float) -> str:
    """Three digits and a prefix of the SI: 4.09 G, 7,162."""
    if abs(number) < 10_000:
        return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.3g}"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * factor:
            return f"{number / factor:.3g} {prefix}"
    raise AssertionError


def plain(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else str(value)
