"""A sweep's folder as a table, a figure and a page: what each value that was tried came to.

trials = load_trials("runs/depth_sweep")                       # a row a trial: values and figures
trials.groupby("model.convolutions")["validation.accuracy"].max()
draw_sweep("runs/depth_sweep").savefig("sweep.png")
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.errors import UserError
from research.jsonl import folders_holding, read_json, read_rows

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRIAL, BEST = "#9db8cf", "#0b6fb8"
COLUMNS = ("trial", "status", "steps", "best_step", "seconds")
PANELS = 6
"""Fields that are drawn, at most."""
TRIALS_SHOWN = 50


def find_sweep(folder: Path | str) -> Path:
    """The newest sweep at or below a folder. Raises UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = folders_holding("trials.jsonl", folder)
    if not found:
        raise UserError(f"{folder}: no sweep with a trial that is done, for no folder in it holds a trials.jsonl")
    return max(found, key=lambda path: path.name)


def load_trials(folder: Path | str) -> "pandas.DataFrame":
    """A row for each trial that is done of the newest sweep in `folder`, in the order of its space.

    Columns: those of COLUMNS, the values by path ("optimizer.learning_rate"), and figures of the best evaluation
    ("validation.accuracy") and of the test split at it ("test.accuracy"); NaN for a trial without any. Raises UserError
    as `find_sweep` does.
    """
    import pandas

    rows = []
    for told in read_rows(find_sweep(folder) / "trials.jsonl"):
        row = {name: told.get(name) for name in COLUMNS} | told["values"]
        for split in ("validation", "test"):
            row |= {f"{split}.{name}": value for name, value in (told[split] or {}).items()}
        rows.append(row)
    return pandas.DataFrame(rows)


def swept_paths(trials: "pandas.DataFrame") -> list[str]:
    """The fields that differ between trials, in the order of the space, seeds last."""
    about = {*COLUMNS, *(name for name in trials if name.startswith(("validation.", "test.")))}
    differ = [name for name in trials if name not in about and trials[name].astype(str).nunique() > 1]
    return sorted(differ, key=lambda name: name.endswith("seed"))


def draw_sweep(folder: Path | str, metric: str = "validation.accuracy") -> "Figure":
    """A panel for each swept field: every trial at its value, and the best at each.

    Raises UserError as `load_trials` does, and where no trial has such a metric.
    """
    from matplotlib.figure import Figure

    trials = load_trials(folder)
    if metric not in trials or not trials[metric].notna().any():
        raise UserError(f"{find_sweep(folder)}: no trial has {metric}")
    paths = swept_paths(trials)[:PANELS] or ["trial"]
    columns = min(3, len(paths))
    lines = -(-len(paths) // columns)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 0.6 + 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, path in zip(panels, paths, strict=False):
        _draw_field(axes, trials, path, metric)
    for axes in panels[len(paths) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(metric.replace(".", " "))
    return figure


def _draw_field(axes: "Axes", trials: "pandas.DataFrame", path: str, metric: str) -> None:
    known = trials[trials[metric].notna()]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known[path])
    names = list(dict.fromkeys(known[path].astype(str)))
    places = known[path].astype(float) if numeric else known[path].astype(str).map(names.index)
    axes.scatter(places, known[metric], s=14, color=TRIAL, linewidths=0, label="a trial")
    best = known[metric].groupby(places).agg("min" if metric.endswith("loss") else "max").sort_index()
    axes.plot(best.index, best.to_numpy(), "o-", color=BEST, markersize=4, linewidth=1.4, label="the best")
    if numeric:
        values = sorted(set(places))
        is_log = values[0] > 0 and values[-1] / values[0] >= 8
        axes.set_xscale("log" if is_log else "linear")
        if len(values) > 6 or any(value % 1 for value in values):  # they might stand too close for their labels
            low, high = values[0], values[-1]
            values = [low * (high / low) ** i if is_log else low + (high - low) * i for i in (0, 1 / 3, 2 / 3, 1)]
        axes.set_xticks(values, [f"{value:.2g}" if value % 1 else f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
    if not numeric:
        axes.set_xticks(range(len(names)), [name if len(name) <= 14 else f"{name[:13]}…" for name in names])
    axes.set_xlabel(path)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="best")


# ---------------------------------------------------------------------------------------------------------------------
# A page

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1a1c20 }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } p { margin: .3rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e6e8eb; white-space: nowrap }
th { color: #555; border-bottom: 2px solid #c9ccd1 } .wide { overflow-x: auto } img { max-width: 100% }
"""


def report(folder: Path | str) -> str:
    """A page about the newest sweep in `folder`, with its figure and best trials, that needs nothing else."""
    path = find_sweep(folder)
    trials, paths = load_trials(path), swept_paths(load_trials(path))
    summary = read_json(path / "summary.json") if (path / "summary.json").exists() else {}
    metric = summary.get("select", "validation/accuracy").replace("/", ".")
    ordered = trials.sort_values(metric, ascending=metric.endswith("loss"), na_position="last")
    figures = [name for name in ("validation.accuracy", "test.accuracy", "validation.loss") if name in trials]
    name = html.escape(str(summary.get("name") or path.parent.name))
    done = (
        f"{len(trials):,} of {summary['trials']:,} trials are done" if summary else f"{len(trials):,} trials are done"
    )
    bad = int((trials["status"] == "not finite").sum())
    image = io.BytesIO()
    draw_sweep(path, metric).savefig(image, dpi=130, format="png")
    picture = base64.b64encode(image.getvalue()).decode()
    told = f"{done}{f'; {bad} were not finite' if bad else ''}. Best by {metric.replace('.', ' ')}."
    table = _table(ordered.head(TRIALS_SHOWN), ["trial", *paths, *figures, "best_step", "status"])
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>\n'
        f"<h1>{name}</h1><p>{told}</p>\n"
        f'<img alt="each swept field against {metric}" src="data:image/png;base64,{picture}">\n'
        f"<h2>The best {min(TRIALS_SHOWN, len(trials))} trials</h2>"
        f'<div class="wide">{table}</div>\n'
        "</html>\n"
    )


def _table(trials: "pandas.DataFrame", names: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = (
        "".join(f"<td>{html.escape(_cell(name, row[name]))}</td>" for name in names) for _, row in trials.iterrows()
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(name: str, value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
