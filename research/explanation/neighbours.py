"""What an example reminds the network of: the training examples whose features are nearest to its own.

Features are what comes to the last layer, where classes are told apart by planes; so what is near there is taken for
the same (deep nearest neighbours: Papernot and McDaniel, 2018).
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from research.deployment.trained import Trained
from research.explanation.looking import before, in_batches, layers_of, seen_of

MOST = 5_000
"""Training examples that are looked through."""


class Nearest(NamedTuple):
    """For each example its nearest training examples, the nearest first."""

    examples: np.ndarray
    """(batch, count): places in the training split."""
    distances: np.ndarray
    """(batch, count): Euclidean, as shares of the median distance of two training examples."""
    layer: str
    """What the features come to."""
    looked_through: int


def nearest_training(trained: Trained, train: Any, raw: np.ndarray, labels: np.ndarray, count: int = 5) -> Nearest:
    """The training examples whose features are nearest to those of some raw examples."""
    layer = layers_of(trained)[-1].path

    @jax.jit
    def run(parameters, seen):
        found = before(trained, parameters, seen, layer)
        return found.reshape(len(found), -1)

    def features(raw, labels):
        return run(trained.parameters, seen_of(trained, raw, labels))

    looked = np.arange(min(MOST, len(train)))
    known, own = in_batches(features, train, looked), np.asarray(features(raw, labels))
    return Nearest(*nearest(own, known, count), layer, len(looked))


def nearest(own: np.ndarray, known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, distances) of the rows of `known` that are nearest to each row of `own`."""
    own, known = own.astype(np.float64), known.astype(np.float64)
    distances = _distances(own, known)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    some = known[: min(len(known), 500)]
    typical = np.median(_distances(some, some)[np.triu_indices(len(some), 1)]) if len(some) > 1 else 1.0
    return order, np.take_along_axis(distances, order, 1) / (typical or 1.0)


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))
