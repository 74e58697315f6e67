"""Pictures of a run: how it learned, where it learned, and what it still takes for something else.

figure = draw_run("runs/digits_cnn/20260101-120000-3fa9c1")
figure.savefig("run.png")
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.analysis.runs import find_runs, load_metrics
from research.errors import UserError
from research.jsonl import read_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, HELD_OUT = "#8a8f98", "#0b6fb8"
LAYERS_SHOWN = 8


def draw_run(folder: Path | str) -> "Figure":
    """The newest run in `folder`, or the run that it is, as one figure: loss, accuracy, updates by layer, mistakes.

    A language model has its perplexity in place of mistakes.
    The ratio of a layer's update to its parameters says how fast it learns: about 1e-3 is usual, far less is idle.
    Raises UserError where there is no run, or one without metrics.
    """
    from matplotlib.figure import Figure

    run = find_runs(folder)[-1]
    metrics = load_metrics(run)
    if metrics.empty:
        raise UserError(f"{run}: no metrics have been logged yet")
    train, held_out = (metrics[metrics["split"] == split] for split in ("train", "validation"))
    summary = read_json(run / "summary.json") if (run / "summary.json").exists() else {}
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    (loss, accuracy), (ratio, mistakes) = figure.subplots(2, 2)
    figure.suptitle(_title(run, summary), x=0.01, ha="left", fontweight="bold")
    _draw_loss(loss, train, held_out)
    _draw_error(accuracy, train, held_out, summary)
    _draw_ratio(ratio, train)
    if "perplexity" in metrics:
        _draw_perplexity(mistakes, train, held_out)
    else:
        _draw_mistakes(mistakes, summary)
    for axes in (loss, accuracy, ratio):
        axes.set_xlabel("step")
    for axes in (loss, accuracy, ratio, mistakes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_ha("left")
        axes.title.set_position((0, 1))
    return figure


def _title(run: Path, summary: dict[str, Any]) -> str:
    test = summary.get("test", {})
    figures = f": test accuracy {100 * test['accuracy']:.2f} %" if test else ""
    for name, value in test.items():
        if name.startswith("bits_per_"):
            figures = f": {value:.3f} {name.replace('_', ' ')} of test"
    return f"{run.absolute().parent.name}{figures}"


def _draw_loss(axes: "Axes", train: "pandas.DataFrame", held_out: "pandas.DataFrame") -> None:
    axes.plot(train["step"], train["loss"], color=TRAIN, label="training batches")
    axes.plot(held_out["step"], held_out["loss"], color=HELD_OUT, marker=".", label="validation")
    axes.set(title="Loss", yscale="log")
    axes.legend(frameon=False)


def _draw_error(axes: "Axes", train: "pandas.DataFrame", held_out: "pandas.DataFrame", summary: dict) -> None:
    axes.plot(train["step"], 100 * (1 - train["accuracy"]), color=TRAIN, label="training batches")
    axes.plot(held_out["step"], 100 * (1 - held_out["accuracy"]), color=HELD_OUT, marker=".", label="validation")
    best = summary.get("best", {}).get("step")
    if best is not None:
        axes.axvline(best, color=HELD_OUT, linewidth=0.8, linestyle=":", label=f"best checkpoint, step {best:,}")
    axes.set(title="Wrong answers, %", ylim=(0, min(100, 300 * (1 - train["accuracy"]).median() + 5)))
    axes.legend(frameon=False)


def _draw_ratio(axes: "Axes", train: "pandas.DataFrame") -> None:
    layers = [name.removeprefix("update_norm/") for name in train.columns if name.startswith("update_norm/")]
    layers = [layer for layer in layers if "norm" not in layer.rpartition("/")[2]] or layers
    shown = layers[:: -(-len(layers) // LAYERS_SHOWN)] if layers else []
    typical = []
    for index, layer in enumerate(shown):
        share = train[f"update_norm/{layer}"] / train[f"parameter_norm/{layer}"]
        typical.append(share.median())
        axes.plot(train["step"], share, color=_from_blue_to_orange(index, len(shown)), linewidth=1, label=layer)
    axes.set(title="Update / parameters, by layer", yscale="log")
    if shown:
        axes.set_ylim(bottom=min(typical) / 100)  # a schedule that ends at nothing would fill the picture
        axes.legend(frameon=False, fontsize="x-small", ncols=2)


def _from_blue_to_orange(index: int, count: int) -> tuple[float, ...]:
    from matplotlib import colormaps

    return colormaps["plasma"](0.85 * index / max(1, count - 1))


def _draw_perplexity(axes: "Axes", train: "pandas.DataFrame", held_out: "pandas.DataFrame") -> None:
    axes.plot(train["step"], train["perplexity"], color=TRAIN, label="training batches")
    axes.plot(held_out["step"], held_out["perplexity"], color=HELD_OUT, marker=".", label="validation")
    axes.set(title="Perplexity", yscale="log", xlabel="step")
    axes.legend(frameon=False)


def _draw_mistakes(axes: "Axes", summary: dict[str, Any]) -> None:
    """The classes by F1, the worst on top, and the most frequent mistakes in words."""
    axes.set_title("Test split, F1 of each class")
    classes = sorted(summary.get("test", {}).get("classes", []), key=lambda row: -row["f1"])[-12:]
    if not classes:
        axes.text(0.02, 0.9, "not tested yet: the run has not come to its end", transform=axes.transAxes, va="top")
        return
    lowest = min(row["f1"] for row in classes)
    axes.barh([row["name"] for row in classes], [row["f1"] for row in classes], color=HELD_OUT, height=0.6)
    axes.set_xlim(max(0, lowest - max(0.02, 0.3 * (1 - lowest))), 1)
    for mistake in summary["test"].get("mistakes", [])[:1]:
        text = f"most often: {mistake['label']} taken for {mistake['predicted']}, {mistake['count']} x"
        axes.set_xlabel(text)
