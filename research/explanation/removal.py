"""What each layer is good for: the accuracy that is left without it, which says how much of the depth is used.

    for row in without_each(trained, train, test, examples): row["layer"], row["how"], row["accuracy"]

A residual block is removed by handing on what came to it, and so is a layer that gives as many numbers as it takes:
what is left is a network that is one block shallower (Veit, Wilber and Belongie, "Residual networks behave like
ensembles of relatively shallow networks", 2016). Any other layer has to give something, and gives always the same: the
mean of its outputs over training examples, feature by feature (mean-ablation). That takes away what it tells of the
example, though not its place in the network; where there is no way around it, nothing of the example is left, which is
found out and told. Nothing is trained again.

Whether a block is residual is found out: with all kernels in it silenced, what comes out still depends on what came in.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.statistics import difference, resample
from research.deployment.trained import Trained
from research.explanation.looking import apply, in_batches, layers_of, seen_of, trunk_of, within
from research.models.base import calls

SAMPLE = 256
"""Training examples that means are of."""
SEEN = 32
"""Of these, examples on which it is seen whether anything of the input comes to the answer."""


class Removable(NamedTuple):
    """A layer, and how it is removed."""

    layer: str
    how: Literal["identity", "mean"]


def removables(trained: Trained) -> tuple[Removable, ...]:
    """Residual blocks, and the layers with a kernel outside of them but for the last, in the order of computation."""
    inside = [call.path for call in layers_of(trained)]
    blocks = [
        call.path
        for call in calls(trained.model, trained.data.spec)
        if call.inputs == call.outputs and any(layer.startswith(f"{call.path}/") for layer in inside)
    ]
    residual: list[str] = []
    for block in sorted(blocks, key=lambda path: -path.count("/")):  # the innermost first
        holds_one = any(other.startswith(f"{block}/") for other in residual)
        if not holds_one and is_residual(trained, block):
            residual.append(block)
    found: dict[str, Removable] = {}
    for call in trunk_of(trained):
        block = next((block for block in residual if call.path.startswith(f"{block}/")), None)
        name = block or call.path
        found.setdefault(name, Removable(name, "identity" if block or call.inputs == call.outputs else "mean"))
    return tuple(found.values())


def is_residual(trained: Trained, block: str) -> bool:
    """Whether what comes out of a block depends on what comes in when all kernels within it are silenced."""
    silent = {
        call.path: lambda inputs, outputs: jnp.zeros_like(outputs)
        for call in layers_of(trained)
        if call.path.startswith(f"{block}/")
    }
    spec = trained.data.spec
    two = jax.random.normal(jax.random.key(0), (2, *spec.shape))
    if spec.tokens is not None:
        two = jax.random.randint(jax.random.key(0), (2, *spec.shape), 0, spec.tokens)
    _, changed = jax.jit(lambda parameters, seen: apply(trained, parameters, seen, features=(block,), edits=silent))(
        trained.parameters, two
    )
    one, other = np.asarray(changed["features"][block])
    return bool(np.abs(one - other).max() > 1e-6)


def means_of(trained: Trained, layers: tuple[str, ...], raw: np.ndarray, labels: np.ndarray) -> dict[str, jax.Array]:
    """(features,): the mean of each layer's outputs over examples and places."""

    @jax.jit
    def run(parameters, seen):
        _, changed = apply(trained, parameters, seen, features=layers)
        return {path: found.reshape(-1, found.shape[-1]).mean(0) for path, found in changed["features"].items()}

    return run(trained.parameters, seen_of(trained, raw, labels)) if layers else {}


def without_each(trained: Trained, train: Any, held_out: Any, examples: np.ndarray) -> list[dict[str, Any]]:
    """The accuracy on some examples of a split without each layer: [{"layer", "how", "accuracy", "difference", ...}].

    The first row is of the whole network; differences are from it, paired, with their 95 % intervals. "cuts": whether
    without the layer nothing of the input comes to the answer, as in a chain of layers, which says nothing of it.
    """
    found = removables(trained)
    few = np.arange(min(SAMPLE, len(train)))
    ablated = tuple(each.layer for each in found if each.how == "mean")
    means = means_of(trained, ablated, train.read(few), np.asarray(train.labels[few]))

    def edit(index: int, each: Removable, is_out: jax.Array):
        def make(inputs, outputs):
            instead = inputs if each.how == "identity" else means[each.layer].astype(outputs.dtype)
            return jnp.where(is_out[index], instead, outputs)

        return make

    @jax.jit
    def logits(parameters, seen, is_out):  # one program, whichever layer is out
        edits = {each.layer: edit(index, each, is_out) for index, each in enumerate(found)}
        return apply(trained, parameters, seen, edits=edits)[0]

    def right(is_out: np.ndarray) -> np.ndarray:
        def of(raw, labels):
            told = logits(trained.parameters, seen_of(trained, raw, labels), is_out)
            return within(trained.data.spec, told, labels).argmax(1) == labels

        return in_batches(of, held_out, examples).astype(np.float64)

    seen = seen_of(trained, train.read(few[:SEEN]), np.asarray(train.labels[few[:SEEN]]))
    outcomes = [right(np.zeros(len(found), bool)), *(right(row) for row in np.eye(len(found), dtype=bool))]
    is_cut = [_is_cut(lambda row=row: logits(trained.parameters, seen, row)) for row in np.eye(len(found), dtype=bool)]
    drawn = resample([each[None] for each in outcomes])
    rows = [{"layer": "", "how": "whole", "accuracy": float(outcomes[0].mean())}]
    for i, each in enumerate(found, start=1):
        value, low, high, p = difference(drawn, i, 0)
        rows.append(
            {
                "layer": each.layer,
                "how": each.how,
                "accuracy": float(outcomes[i].mean()),
                "difference": value,
                "low": low,
                "high": high,
                "p": p,
                "cuts": is_cut[i - 1],
            }
        )
    return rows


def _is_cut(logits: Callable[[], jax.Array]) -> bool:
    """Whether the logits of some examples are all alike."""
    told = np.asarray(logits(), np.float64)
    return bool(np.ptp(told, axis=0).max() <= 1e-5 * (1 + np.abs(told).max()))


def sentence(rows: list[dict[str, Any]]) -> str:
    """How much of the depth is used, by the layers that are not all that leads from the input to the answer."""
    if not rows[1:]:
        return "There is no layer to be removed but the last."
    others = [row for row in rows[1:] if not row.get("cuts")]
    if not others:
        return (
            "Every layer is all that leads from the input to the answer: with one of them giving always the same, "
            "nothing is left to tell examples by, so removal says nothing of how much of the depth is used."
        )
    spared = [row["layer"] for row in others if row["high"] >= 0 and row["difference"] > -0.02]
    worst = min(others, key=lambda row: row["difference"])
    kinds = {row["how"] for row in others}
    what = "layers" if kinds == {"mean"} else "blocks and layers"
    told = f"Without {worst['layer']} it loses most, {-100 * worst['difference']:.1f} points"
    if not spared:
        told += f"; none of {len(others)} {what} can be spared."
    else:
        told += f"; of {len(others)} {what}, {len(spared)} can be spared one at a time: {', '.join(spared)}."
    if count := len(rows) - 1 - len(others):
        told += f" There is no way around {count} other{'s' * (count > 1)}, of which removal says nothing."
    return told
