"""Metrics are sums and counts on the device, and become means on the host.

Sums of batches can be added, whatever their sizes, and a masked example counts for nothing; so a split evaluated with a
partial last batch is exact. Everything that a classification report tells is in the confusion matrix.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Int32


def batch_sums(
    losses: Float[Array, "batch *positions"],
    logits: Float[Array, "batch *positions classes"],
    labels: Array,
    mask: Bool[Array, "batch"],
) -> dict[str, Array]:
    """{"loss": float32, "correct": int32, "count": int32}: sums over the examples that `mask` lets through.

    Labels are integers (batch,) or probabilities (batch, classes), of which the likeliest class counts. What is masked
    may be anything, NaN included. With integers (batch, positions), there being a loss for each position, the sums are
    over positions, and those that are negative do not count.
    """
    labels = _classes(labels)
    mask = mask.reshape(-1, *[1] * (labels.ndim - 1)) & (labels >= 0)
    correct = (jnp.argmax(logits, axis=-1) == labels) & mask
    return {
        "loss": jnp.sum(jnp.where(mask, losses, 0), dtype=jnp.float32),
        "correct": jnp.sum(correct, dtype=jnp.int32),
        "count": jnp.sum(mask, dtype=jnp.int32),
    }


def confusion(
    logits: Float[Array, "batch classes"], labels: Array, mask: Bool[Array, "batch"], classes: int
) -> Int32[Array, "classes classes"]:
    """How many examples of each class (row) were taken for each class (column)."""
    zeros = jnp.zeros((classes, classes), jnp.int32)
    return zeros.at[_classes(labels), jnp.argmax(logits, axis=-1)].add(mask.astype(jnp.int32))


def _classes(labels):
    return labels if jnp.issubdtype(labels.dtype, jnp.integer) else jnp.argmax(labels, axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# On the host


def by_task(sums: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sums of all examples, as "", and of each task, by its name, of {"loss", ..., "digits/loss", ...}."""
    prefixes = [name.removesuffix("count") for name in sums if name.rpartition("/")[2] == "count"]
    return {
        prefix.removesuffix("/"): {name: sums[f"{prefix}{name}"] for name in ("loss", "correct", "count")}
        for prefix in prefixes
    }


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """{"loss", "accuracy"} of sums, and where these are of tasks as well "digits/loss", ...; NaN of no examples."""
    found = {}
    for task, own in by_task(sums).items():
        prefix, count = f"{task}/" if task else "", float(own["count"])
        for name, total in (("loss", own["loss"]), ("accuracy", own["correct"])):
            found[f"{prefix}{name}"] = float(total) / count if count else float("nan")
    return found


class ClassReport(NamedTuple):
    """How one class was told from the others; `support` is the number of its examples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Mistake(NamedTuple):
    """How often examples of one class were taken for another."""

    label: str
    predicted: str
    count: int


class Report(NamedTuple):
    """The figures of a split. Macro ones are plain means over all classes; `mistakes` has the most frequent first."""

    count: int
    loss: float
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    classes: tuple[ClassReport, ...]
    mistakes: tuple[Mistake, ...]


def report(
    confusion: Int[np.ndarray, "classes classes"], loss_sum: ArrayLike, names: Sequence[str], *, most: int = 10
) -> Report:
    """The report of a confusion matrix (rows: true classes) and a sum of losses, with the `most` frequent mistakes.

    What would be divided by 0, as the precision of a class that was never predicted, is 0, as in scikit-learn; so is
    every figure of a class without examples, and it counts in the macro means. Of no examples at all, loss and accuracy
    are NaN.
    """
    confusion = np.asarray(confusion, np.int64)
    hits, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    count = int(support.sum())
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    return Report(
        count=count,
        loss=float(loss_sum) / count if count else float("nan"),
        accuracy=int(hits.sum()) / count if count else float("nan"),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        classes=tuple(map(ClassReport, names, *columns)),
        mistakes=_mistakes(confusion, names, most),
    )


def of_language(loss: float, unit: str) -> dict[str, float]:
    """What a mean cross-entropy of tokens, in nats, is called elsewhere: {"perplexity", "bits_per_byte"}.

    unit: what a token is, "byte" or "token". The perplexity is how many equally likely tokens are as hard to choose of.
    """
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"perplexity": perplexity, f"bits_per_{unit}": loss / math.log(2)}


def _ratio(part, whole):
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _mistakes(confusion, names, most):
    off_diagonal = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    order = np.argsort(-off_diagonal, axis=None, kind="stable")[:most]
    cells = ((int(cell) // len(confusion), int(cell) % len(confusion)) for cell in order)
    return tuple(Mistake(names[i], names[j], int(confusion[i, j])) for i, j in cells if off_diagonal[i, j] > 0)
