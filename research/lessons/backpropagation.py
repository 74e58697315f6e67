"""Backpropagation, shown: the hand-derived gradient against two others, and what it learns from digits.

`load_digits`, `order`, `fit` and `accuracy` are the smallest training there can be; other lessons use them, too.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from research.config import config, leaf, structure
from research.data import Digits
from research.data.base import normalise
from research.data.order import shuffled
from research.lessons.base import Lesson, Section
from research.ops import backpropagation as bp
from research.ops.backpropagation import Layers


@config
class Backpropagation(Lesson):
    """A multilayer network trained on digits by gradients derived by hand."""

    hidden: tuple[int, ...] = structure((32, 32), "features of the hidden layers", within="[1, inf)")
    learning_rate: float = leaf(0.3, "how far a step of gradient descent goes", within="(0, inf)")
    batch_size: int = structure(32, "examples in each step", within="[1, 1257]")
    epochs: int = structure(40, "times that every example is learned from", within="[1, inf)")
    seed: int = leaf(0, "decides the initial parameters and the order of the examples")

    def sections(self) -> Iterator[Section]:
        digits = load_digits()
        yield gradient_section(self, digits)
        yield training_section(self, digits)


# ---------------------------------------------------------------------------------------------------------------------
# The smallest training there can be


class Digits64(NamedTuple):
    """Digits as rows of 64 normalised numbers, (examples, 64), with targets (examples, 10) that are 0 or 1."""

    inputs: Array
    targets: Array
    test_inputs: Array
    test_targets: Array


def load_digits() -> Digits64:
    """The training and test splits of `research.data.Digits`."""
    loaded = Digits().load()
    arrays = []
    for split in (loaded.splits["train"], loaded.splits["test"]):
        inputs = normalise(loaded.normalisation, split.inputs).reshape(len(split), -1)
        arrays += [jnp.asarray(inputs), jnp.eye(loaded.spec.classes)[split.labels]]
    return Digits64(*arrays)


def order(digits: Digits64, seed: int, *, batch_size: int, steps: int) -> np.ndarray:
    """Which training examples make the batch of each step, (steps, batch_size): each once an epoch, then anew."""
    examples = len(digits.inputs)
    epoch, place = np.divmod(np.arange(steps * batch_size, dtype=np.uint32), np.uint32(examples))
    return shuffled(np.uint32(seed), epoch, place, examples=examples).reshape(steps, batch_size)


def fit(
    gradients: Callable[[Layers, Array, Array], tuple[Array, Layers]],
    layers: Layers,
    digits: Digits64,
    chosen: Array | np.ndarray,
    learning_rate: float | Array,
) -> tuple[Layers, Array]:
    """The layers after gradient descent, a step for each batch of examples, and the loss of each step, (steps,).

    chosen: (steps, batch), from `order`.
    gradients(layers, inputs, targets) -> (loss, gradients) is all that it knows of network and loss.
    """

    def step(layers, batch):
        loss, slopes = gradients(layers, digits.inputs[batch], digits.targets[batch])
        return bp.descend(layers, slopes, learning_rate), loss

    return jax.lax.scan(step, layers, chosen)


def accuracy(scores: Array, targets: Array) -> Array:
    """The share of examples whose largest score is that of their class."""
    return jnp.mean(jnp.argmax(scores, axis=1) == jnp.argmax(targets, axis=1))


# ---------------------------------------------------------------------------------------------------------------------
# Sections


def gradient_section(lesson: Backpropagation, digits: Digits64) -> Section:
    """Every number of the gradient, against automatic differentiation and against differences."""
    activation, kind = "tanh", "cross_entropy"
    layers = bp.initial(jax.random.key(np.uint32(lesson.seed)), (64, *lesson.hidden, 10), activation)
    inputs, targets = digits.inputs[: lesson.batch_size], digits.targets[: lesson.batch_size]

    def loss(layers, inputs, targets):
        return bp.loss(bp.forward(layers, inputs, activation)[1], targets, kind)

    def by_hand(*problem):
        return bp.loss_and_gradients(*problem, activation, kind)[1]

    problem = layers, inputs, targets
    ours, jaxs = jax.jit(lambda problem: (by_hand(*problem), jax.grad(loss)(*problem)))(problem)
    with jax.enable_x64(True):  # in float32, the rounding of the loss would drown the differences
        exact = jax.tree.map(lambda array: jnp.asarray(np.asarray(array), jnp.float64), problem)
        exacts = jax.jit(lambda problem: (by_hand(*problem), finite_differences(loss, *problem)))(exact)
    rows = []
    for number, gradients in enumerate(zip(ours, jaxs, *exacts, strict=True), start=1):
        for name in bp.Layer._fields:
            here, by_jax, here_exact, difference = (np.asarray(getattr(layer, name)) for layer in gradients)
            largest = np.abs(here).max()
            rows.append(
                {
                    "gradient of": f"layer {number} {name}",
                    "shape": " x ".join(map(str, here.shape)),
                    "largest": largest,
                    "off jax.grad": np.abs(here - by_jax).max() / largest,
                    "off differences": np.abs(here_exact - difference).max() / largest,
                }
            )
    return Section(
        "One gradient, three ways",
        """
        Backpropagation is the chain rule, applied from the loss backwards. With d the derivative of the loss by what a
        layer puts out before its activation, the layer's kernel has the gradient inputs^T d, its bias the sum of d over
        the batch, and the layer before is handed (d kernel^T) * slope. The derivation stands in
        research/ops/backpropagation.py.

        Below, the largest error relative to the largest gradient: of float32 against jax.grad, and of float64 against
        the difference that moving each single parameter by 0.00001 makes to the loss. The first is rounding; the second
        is as good as such differences can be.
        """,
        rows,
    )


def finite_differences(
    loss: Callable[[Layers, Array, Array], Array], layers: Layers, inputs: Array, targets: Array, by: float = 1e-5
) -> Layers:
    """The gradient from the definition: how much the loss differs if one parameter is moved, and then the next."""
    point, unflatten = ravel_pytree(layers)

    def slope(index):
        ahead, behind = (loss(unflatten(point.at[index].add(move)), inputs, targets) for move in (by, -by))
        return (ahead - behind) / (2 * by)

    return unflatten(jax.lax.map(slope, jnp.arange(point.size), batch_size=64))


def training_section(lesson: Backpropagation, digits: Digits64) -> Section:
    """Three activations and two losses on digits, by the hand-derived gradient alone."""
    rows, curves = [], {}
    sizes = "-".join(map(str, (64, *lesson.hidden, 10)))
    rate = lesson.learning_rate
    for activation, kind, learning_rate in (
        ("relu", "cross_entropy", rate),
        ("tanh", "cross_entropy", rate),
        ("sigmoid", "cross_entropy", rate),
        ("sigmoid", "squared_error", rate),
        ("sigmoid", "squared_error", 10 * rate),
    ):
        began = time.monotonic()
        losses, right = train(lesson, digits, activation, kind, learning_rate)
        label = f"{activation}, {kind.replace('_', ' ')}"
        curves[f"{label}, rate {learning_rate:g}"] = losses
        rows.append(
            {
                "hidden layers, loss": label,
                "rate": learning_rate,
                "first loss": losses[0],
                "last loss": losses[-1],
                "test accuracy": f"{100 * right:.1f} %",
                "seconds": f"{time.monotonic() - began:.1f}",
            }
        )
    return Section(
        "It learns",
        f"""
        The network {sizes} on 1,257 digits, {lesson.epochs} epochs of plain gradient descent in batches of
        {lesson.batch_size}; the loss is the mean of an epoch, and the accuracy that of the 360 digits kept for the
        test; the seconds are mostly those of compiling. The squared error multiplies the error of an output by the
        sigmoid's slope, which is close to 0 where the output is sure and wrong: at the same rate it learns far slower
        than cross-entropy.
        """,
        rows,
        draw_losses(curves),
    )


def train(
    lesson: Backpropagation, digits: Digits64, activation: bp.Activation, kind: bp.Loss, learning_rate: float
) -> tuple[np.ndarray, float]:
    """The mean loss of each epoch, and the accuracy on the test split in the end."""
    layers = bp.initial(jax.random.key(np.uint32(lesson.seed)), (64, *lesson.hidden, 10), activation)
    steps = lesson.epochs * len(digits.inputs) // lesson.batch_size
    chosen = order(digits, lesson.seed, batch_size=lesson.batch_size, steps=steps)
    losses, right = _train(layers, digits, chosen, np.float32(learning_rate), activation, kind)
    by_epoch = [part.mean() for part in np.array_split(np.asarray(losses), lesson.epochs)]
    return np.array(by_epoch), float(right)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _train(layers, digits, chosen, learning_rate, activation, kind):
    def gradients(*batch):
        return bp.loss_and_gradients(*batch, activation, kind)

    layers, losses = fit(gradients, layers, digits, chosen, learning_rate)
    return losses, accuracy(bp.forward(layers, digits.test_inputs, activation)[1], digits.test_targets)


def draw_losses(curves: dict[str, np.ndarray]):
    """The loss of each training, relative to where it began, so that losses of different kinds can be compared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (label, losses), color in zip(curves.items(), COLORS, strict=True):
        axes.plot(range(1, len(losses) + 1), losses / losses[0], color=color, label=label)
    axes.set(xlabel="epoch", ylabel="training loss / that of the first epoch", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


COLORS = ("#0b6fb8", "#1b9e77", "#8a8f98", "#d95f02", "#7b3294")
