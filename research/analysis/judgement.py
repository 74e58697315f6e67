"""Is it good enough? What a network's probabilities on a split come to, as figures with names and with intervals.

    judged = judge(probabilities, labels, names, {"rotation_15": turned})
    judged["figures"]["worst_class_accuracy"]                 # 0.91
    judged["figures"]["robustness/rotation_15/accuracy"]      # 0.95
    judged["intervals"]["accuracy"]                           # [0.962, 0.987], in 95 of 100 cases

All of it is plain data: a flat dict of figures that anything can be decided by, and what a page shows beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.analysis.calibration import brier, calibration, surprise
from research.analysis.statistics import Resampled, difference, interval, resample
from research.analysis.words import p_value
from research.errors import UserError, did_you_mean

MOST_SHOWN = 12
"""Of the examples that are shown."""
HARDLY = 0.05
"""A p-value below which a difference is told from chance."""


def figure(figures: Mapping[str, float], name: str) -> float:
    """The figure of a name. Raises UserError, with the nearest name, where there is none."""
    if name not in figures:
        raise UserError(f"no figure '{name}'{did_you_mean(name, figures)}")
    return figures[name]


FIGURES = ("nll", "brier", "ece", "worst_class_accuracy", "macro_precision", "macro_recall", "macro_f1")
"""What is told of all examples together, besides the accuracy."""


def judge(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    changed: Mapping[str, np.ndarray] | None = None,
    tasks: Mapping[str, slice] | None = None,
) -> dict[str, Any]:
    """What probabilities (examples, classes) come to against labels (examples,).

    changed: the probabilities of the same examples, made harder, by what was done to them.
    tasks: which of the classes are whose, where there are several tasks; those of other tasks have probability 0.
    Gives {"figures", "intervals", "classes", "confusion", "reliability", "hardest", "confidently_wrong"}.
    """
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    confusion = confusion_matrix(labels, probabilities.argmax(1), len(names))
    classes = _classes(confusion, right, labels, names)
    present = [row for row in classes if row["examples"]]
    losses, scores = surprise(probabilities, labels), brier(probabilities, labels)
    calibrated = calibration(probabilities, labels)
    figures = {
        "accuracy": float(right.mean()),
        "nll": float(losses.mean()),
        "brier": float(scores.mean()),
        "ece": calibrated.ece,
        "worst_class_accuracy": min(row["recall"] for row in present),
        "macro_precision": float(np.mean([row["precision"] for row in present])),
        "macro_recall": float(np.mean([row["recall"] for row in present])),
        "macro_f1": float(np.mean([row["f1"] for row in present])),
    }
    drawn = resample([right[None]])
    intervals = {
        "accuracy": interval(drawn, 0),
        **{name: _interval_of_mean(values) for name, values in (("nll", losses), ("brier", scores))},
        "ece": _interval_of_ece(calibrated.gaps),
        "worst_class_accuracy": min((row["recall"], row["low"], row["high"]) for row in present),
    }
    for task, block in (tasks or {}).items():
        own = (labels >= block.start) & (labels < block.stop)
        if own.any():
            figures[f"{task}/accuracy"] = float(right[own].mean())
            intervals[f"{task}/accuracy"] = interval(resample([right[own][None]]), 0)
    for row in present:
        figures[f"class/{row['name']}/accuracy"] = row["recall"]
        intervals[f"class/{row['name']}/accuracy"] = (row["recall"], row["low"], row["high"])
    figures_of_changes, intervals_of_changes = _robustness(changed or {}, labels)
    return {
        "figures": figures | figures_of_changes,
        "intervals": {name: list(found)[1:3] for name, found in (intervals | intervals_of_changes).items()},
        "classes": classes,
        "confusion": confusion.tolist(),
        "reliability": [each._asdict() for each in calibrated.bins],
        "hardest": _examples(probabilities, labels, names, np.argsort(-losses, kind="stable")),
        "confidently_wrong": _examples(probabilities, labels, names, _confidently_wrong(probabilities, labels)),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes): how many examples of each class, a row, were taken for each, a column."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _classes(confusion: np.ndarray, right: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Precision, recall with its interval, and F1 of each class; what would be divided by 0 is 0."""
    hits, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    rows = []
    for i, name in enumerate(names):
        low, high = (interval(resample([right[labels == i][None]]), 0)[1:]) if support[i] else (0.0, 1.0)
        rows.append(
            {
                "name": str(name),
                "examples": int(support[i]),
                "precision": float(hits[i] / predicted[i]) if predicted[i] else 0.0,
                "recall": float(hits[i] / support[i]) if support[i] else 0.0,
                "f1": float(2 * hits[i] / (support[i] + predicted[i])) if support[i] + predicted[i] else 0.0,
                "low": low,
                "high": high,
            }
        )
    return rows


def _interval_of_mean(values: np.ndarray) -> tuple[float, float, float]:
    return tuple(interval(resample([values[None]], right_or_wrong=False), 0))


def _interval_of_ece(gaps: np.ndarray) -> tuple[float, float, float]:
    """Of the expected calibration error. Redrawn errors are too large, by the chance that is in each bin twice; so the
    interval is the draws mirrored about the error that was found (the basic bootstrap; Davison and Hinkley, 1997)."""
    found = np.abs(gaps.mean(1)).sum()
    filled = gaps[np.any(gaps != 0, axis=1)]
    if not len(filled):
        return float(found), 0.0, 0.0
    drawn = np.abs(resample([row[None] for row in filled], right_or_wrong=False).by_examples).sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(found), float(max(0.0, 2 * found - high)), float(np.clip(2 * found - low, found, 1.0))


def interval_of_ratio(totals: np.ndarray, counts: np.ndarray) -> list[float]:
    """Between which values a sum of totals over a sum of counts is, examples (examples,) being drawn anew."""
    drawn = resample([totals[None], counts[None]], right_or_wrong=False).by_examples
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12), [0.025, 0.975])
    return [float(low), float(high)]


def _robustness(changed: Mapping[str, np.ndarray], labels: np.ndarray):
    """Figures and intervals of examples made harder, and the mean and the least of their accuracies."""
    figures: dict[str, float] = {}
    intervals: dict[str, Any] = {}
    if not changed:
        return figures, intervals
    outcomes = [(found.argmax(1) == labels).astype(np.float64) for found in changed.values()]
    drawn = resample([each[None] for each in outcomes])
    for i, name in enumerate(changed):
        figures[f"robustness/{name}/accuracy"] = float(outcomes[i].mean())
        intervals[f"robustness/{name}/accuracy"] = interval(drawn, i)
    mean = np.mean(outcomes, axis=0)
    figures["robustness/mean_accuracy"] = float(mean.mean())
    intervals["robustness/mean_accuracy"] = interval(resample([mean[None]]), 0)
    figures["robustness/least_accuracy"] = min(float(each.mean()) for each in outcomes)
    return figures, intervals


def _confidently_wrong(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Positions of the examples that are wrong, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]


def _examples(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], order: np.ndarray) -> list[dict]:
    return [
        {
            "example": int(i),
            "label": str(names[labels[i]]),
            "predicted": str(names[probabilities[i].argmax()]),
            "probability": float(probabilities[i].max()),
            "probability_of_label": float(probabilities[i, labels[i]]),
        }
        for i in order[:MOST_SHOWN]
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Two networks


class Pair(NamedTuple):
    """Two networks on the same examples."""

    difference: float
    """Of their accuracies, the first less the second."""
    low: float
    high: float
    p: float
    """Of no difference, by McNemar's exact test."""
    only_first: int
    """Examples that the first alone gets right."""
    only_second: int
    both: int
    neither: int


def compare(first: np.ndarray, second: np.ndarray) -> Pair:
    """Two networks' outcomes (examples,), true where an answer is right.

    Only examples on which they disagree tell anything: were the networks equally good, each such example would be
    either's with probability one half, so that p is that of a fair coin (McNemar, 1947). The interval draws the
    examples anew, the same ones for both.
    """
    from scipy import special

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    fewer, parted = min(only_first, only_second), only_first + only_second
    p = min(1.0, 2 * float(special.bdtr(fewer, parted, 0.5))) if parted else 1.0
    drawn: Resampled = resample([first[None].astype(float), second[None].astype(float)])
    value, low, high, _ = difference(drawn, 0, 1)
    both = int((first & second).sum())
    return Pair(value, low, high, p, only_first, only_second, both, len(first) - both - parted)


def compare_shares(one: np.ndarray, two: np.ndarray, first: str, second: str) -> dict[str, Any]:
    """Two networks' shares of right answers (examples,), as of the tokens of sequences, paired by bootstrap."""
    value, low, high, p = difference(resample([one[None], two[None]]), 0, 1)
    by = f"by {abs(100 * value):.1f} points (95 % interval {span(low, high)}; {p_value(p)})"
    told = f"{'better' if value > 0 else 'worse'} than" if p < HARDLY else "not to be told from"
    return {"sentence": f"{first} is {told} {second}: {by}.", "difference": value, "low": low, "high": high, "p": p}


def sentence(pair: Pair, first: str, second: str) -> str:
    """What a comparison comes to."""
    examples = pair.only_first + pair.only_second + pair.both + pair.neither
    parted = (
        f"{pair.only_first:,} of {examples:,} examples are right with the first alone and {pair.only_second:,} with "
        f"the second alone; McNemar {p_value(pair.p)}"
    )
    by = f"by {abs(100 * pair.difference):.1f} points (95 % interval {span(pair.low, pair.high)})"
    if pair.p >= HARDLY:
        return f"{first} cannot be told from {second}: they differ {by}, and {parted}."
    return f"{first} is {'better' if pair.difference > 0 else 'worse'} than {second} {by}: {parted}."


def span(low: float, high: float) -> str:
    """The interval of a difference, in points and signed."""
    return f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
