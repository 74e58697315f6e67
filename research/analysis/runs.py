"""Runs as tables: one of runs, one of their metrics, joined by the column `run`.

    runs, metrics = load_runs("runs"), load_metrics("runs")
    wide = runs[runs["config.model.depth"] > 4]
    metrics[metrics["split"] == "validation"].pivot(index="step", columns="run", values="accuracy").plot()

A column is called by the path of its value: `config.optimizer.learning_rate`, `inspection.parameters.total`,
`summary.test.accuracy`. Where a config has a kind, it stands under the path itself: `config.optimizer` is "AdamW".
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.errors import UserError
from research.jsonl import folders_holding, read_json, read_rows

if TYPE_CHECKING:
    import pandas

PARTS = ("config", "inspection", "summary")


def load_runs(folder: Path | str) -> "pandas.DataFrame":
    """A row for each run in `folder`, at any depth, by path: columns `run` (its path), `name`, and those of PARTS.

    What a run has not (yet), such as the summary of one that is under way, is NaN. A run that cannot be read is left
    out, with a warning. Raises UserError where there is no such folder, and where no run is in it.
    """
    import pandas

    rows = []
    for run in find_runs(folder):
        try:
            rows.append(_describe(run))
        except UserError as error:
            _warn_of(run, error)
    return pandas.DataFrame(rows if rows else None, columns=None if rows else ["run", "name"])


def load_metrics(folder: Path | str) -> "pandas.DataFrame":
    """The metric rows of each run in `folder`, or of the one run that `folder` is, in the order they were written.

    Columns: `run` (as in `load_runs`), `step`, `split`, `time` (seconds since the run began), and each metric; NaN
    where a row has no such metric. A run whose rows are damaged is left out, with a warning, unless it is the only one
    asked for. Raises UserError as `load_runs` does.
    """
    import pandas

    rows = []
    for run in find_runs(folder):
        try:
            found = read_rows(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
        except UserError as error:
            if run == Path(folder):
                raise
            _warn_of(run, error)
        else:
            rows.extend({"run": str(run), **values} for values in found)
    return pandas.DataFrame(rows if rows else None, columns=None if rows else ["run", "step", "split", "time"])


def find_runs(folder: Path | str) -> list[Path]:
    """The folders with a config.json at or below `folder`. Raises UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = folders_holding("config.json", folder)
    if not found:
        raise UserError(f"{folder}: no runs in it, for no folder in it holds a config.json")
    return found


def _describe(run: Path) -> dict[str, Any]:
    parts = {part: read_json(run / f"{part}.json") for part in PARTS if (run / f"{part}.json").exists()}
    if not isinstance(parts["config"], dict) or "kind" not in parts["config"]:
        raise UserError(f"{run / 'config.json'}: not the config of a run, for it says no kind")
    columns = {}
    for part, content in parts.items():
        columns.update(flatten(content, part))
    return {"run": str(run), "name": run.absolute().parent.name, **columns}


def flatten(value: Any, path: str) -> dict[str, Any]:
    """Path to value of what a JSON file holds. A list of configs is flattened too; any other becomes a tuple."""
    if isinstance(value, dict):
        if value.keys() in ({"dtype"}, {"object"}):  # how a config's JSON names a dtype and a function
            return {path: next(iter(value.values()))}
        columns = {path: _class_name(value["kind"])} if "kind" in value else {}
        for key, item in value.items():
            columns.update({} if key == "kind" else flatten(item, f"{path}.{key}"))
        return columns
    if isinstance(value, list):
        are_configs = path.startswith("config.") and all(isinstance(item, dict) and "kind" in item for item in value)
        if value and are_configs:
            return {k: v for i, item in enumerate(value) for k, v in flatten(item, f"{path}.{i}").items()}
        return {path: tuple(value)}
    return {path: value}


def _class_name(kind: Any) -> Any:
    """Of "package.module:Outer.Inner", the last name."""
    return kind.rpartition(":")[2].rpartition(".")[2] if isinstance(kind, str) else kind


def _warn_of(run: Path, error: UserError) -> None:
    warnings.warn(f"run {run} is left out: {error}", stacklevel=3)
