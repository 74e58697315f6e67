"""Evaluation of a split: exact sums over every example, the last partial batch included.

The examples are scanned in batches inside one compiled program; positions past the end are masked. Data too large for
memory goes through the same program in blocks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.data.base import Loaded, Normalisation, Split, Streamed, normalise, of_examples
from research.training import metrics
from research.training.experiment import Experiment
from research.training.plan import Plan, replicate, share
from research.training.state import Parameters
from research.training.step import Data, example_keys, outputs
from research.training.tasks import batch_sums, within_task

LEAST_BATCH = 256
"""Examples evaluated at once, at least: evaluation keeps no activations, so there is room."""
STREAMED_CHUNK = 16
"""Steps whose batches are brought to the device together when the data is streamed."""
BLOCK = 8192
"""Streamed examples brought to the device at once."""


def to_device(plan: Plan, split: Split | Streamed, normalisation: Normalisation | None) -> Data:
    """A split as arrays on the plan's devices."""
    inputs = split.read(np.arange(len(split))) if isinstance(split, Streamed) else split.inputs
    return replicate(plan, Data(inputs, split.labels.astype(np.int32), as_float32(normalisation)))


def data_shapes(plan: Plan, experiment: Experiment, loaded: Loaded) -> dict[str, Data]:
    """Shapes and dtypes of what a chunk of training and an evaluation read, for tracing them without data."""
    normalisation = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), as_float32(loaded.normalisation))

    def of(split: str, *leading: int) -> Data:
        examples = loaded.splits[split]
        inputs = jax.ShapeDtypeStruct((*leading, *examples.shape), examples.dtype)
        return Data(inputs, jax.ShapeDtypeStruct(leading, np.int32), normalisation)

    train = (STREAMED_CHUNK, experiment.batch_size) if plan.streamed else (sum(plan.sizes),)
    test = loaded.splits["test"]
    return {"train": of("train", *train), "test": of("test", min(BLOCK, len(test)))}


def as_float32(normalisation: Normalisation | None) -> Normalisation | None:
    """The normalisation as arrays of one dtype, so that no program depends on which numbers they are."""
    if normalisation is None:
        return None
    return Normalisation(*(np.asarray(value, np.float32) for value in normalisation))


def evaluate(
    plan: Plan, experiment: Experiment, frozen: Parameters, used: tuple[Parameters, Parameters], data: Data
) -> dict[str, np.ndarray]:
    """Sums over all examples of `data`: loss (), correct (), count (), confusion (classes, classes).

    Where there are several tasks, those of each as well: digits/loss, ... For an objective of tokens they are sums over
    those, and there is no confusion matrix.
    """
    sums = evaluate_block(plan, experiment, frozen, *used, data, np.int32(data.labels.shape[0]))
    return jax.tree.map(np.asarray, sums)


def evaluate_split(
    plan: Plan, experiment: Experiment, frozen, used, split: Split | Streamed, normalisation: Normalisation | None
) -> dict[str, np.ndarray]:
    """The same of a split on the host, block by block where it is streamed."""
    if not isinstance(split, Streamed):
        return evaluate(plan, experiment, frozen, used, to_device(plan, split, normalisation))
    total: Any = None
    for start in range(0, len(split), BLOCK):
        indices = np.minimum(np.arange(start, start + min(BLOCK, len(split))), len(split) - 1)
        data = replicate(plan, Data(split.read(indices), split.labels[indices], as_float32(normalisation)))
        count = np.int32(min(BLOCK, len(split) - start))
        sums = evaluate_block(plan, experiment, frozen, *used, data, count, np.int32(start))
        sums = jax.tree.map(np.asarray, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return total


@functools.partial(jax.jit, static_argnums=0)
def evaluate_block(
    plan: Plan,
    experiment: Experiment,
    frozen,
    trainable,
    model_state,
    data: Data,
    count: jax.Array,
    first: jax.Array | int = 0,
) -> dict[str, jax.Array]:
    """Sums over the first `count` examples of `data`, which is the part of a split that begins at its example `first`.

    What the objective draws for an example, to mask tokens say, follows from its place in the split alone, so that
    evaluations can be compared, whatever their seed and batch size.
    """
    examples = data.labels.shape[0]
    size = batch_size(plan, experiment, examples)

    def one_batch(start):
        indices = start + jnp.arange(size)
        losses, logits, labels = _judged(plan, experiment, frozen, trainable, model_state, data, indices, first)
        inside = indices < count
        sums = batch_sums(plan.spec, losses, logits, labels, inside)
        if not plan.objective(experiment).of_tokens:
            sums["confusion"] = metrics.confusion(logits, labels, inside, plan.spec.classes)
        return sums

    def add(totals, start):
        return jax.tree.map(jnp.add, totals, one_batch(start)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_batch, 0))
    totals, _ = jax.lax.scan(add, zeros, jnp.arange(0, examples, size))
    return totals


def _judged(plan: Plan, experiment: Experiment, frozen, trainable, model_state, data: Data, indices, first):
    """Losses, logits and labels of some examples of `data`; logits of other tasks than an example's are no choice."""
    batch = share(plan, {"inputs": data.inputs[indices], "labels": data.labels[indices]})
    keys, objective = example_keys(jax.random.key(0), first + indices), plan.objective(experiment)
    if plan.given is not None:
        inputs, labels = batch["inputs"], batch["labels"]
    else:
        inputs = normalise(of_examples(data.normalisation, plan.spec, batch["labels"]), batch["inputs"])
        inputs, labels = objective.prepare(keys, inputs, batch["labels"], plan.spec)
    logits, _ = outputs(plan, experiment, frozen, trainable, model_state, inputs, train=False)
    return objective.losses(logits, labels), within_task(plan.spec, logits, labels), labels


@functools.partial(jax.jit, static_argnums=0)
def evaluate_examples(
    plan: Plan, experiment: Experiment, frozen, trainable, model_state, data: Data, first: jax.Array | int = 0
) -> dict[str, jax.Array]:
    """The same for each example by itself: {"loss": float32, "correct": int32, "count": int32}, (examples,) each.

    Of a sequence of tokens they are sums over those that count; of other examples the count is 1.
    """
    examples = data.labels.shape[0]
    size = batch_size(plan, experiment, examples)

    def one_batch(start):
        judged = _judged(plan, experiment, frozen, trainable, model_state, data, start + jnp.arange(size), first)
        alone = [array[:, None] for array in judged]
        return jax.vmap(metrics.batch_sums, (0, 0, 0, None))(*alone, jnp.ones(1, bool))

    batches = jax.lax.map(one_batch, jnp.arange(0, examples, size))
    return jax.tree.map(lambda column: column.reshape(-1)[:examples], batches)


def batch_size(plan: Plan, experiment: Experiment, examples: int) -> int:
    """Examples evaluated at once: a multiple of the devices, in batches about equally full."""
    devices = 1 if plan.mesh is None else plan.mesh.size
    most = min(max(experiment.batch_size, LEAST_BATCH), examples)
    size = -(-examples // -(-examples // most))
    return -(-size // devices) * devices


@functools.partial(jax.jit, static_argnums=0)
def probabilities(plan: Plan, experiment: Experiment, frozen, trainable, model_state, inputs, normalisation):
    """Class probabilities (batch, classes) of inputs as stored; those of each task add up to 1.

    Of a language model, (batch, positions, tokens).
    """

    def of(classes: slice) -> jax.Array:
        """As if the inputs were of the task that these classes are of."""
        labels = jnp.full(len(inputs), classes.start)
        seen = normalise(of_examples(normalisation, plan.spec, labels), inputs)
        logits, _ = outputs(plan, experiment, frozen, trainable, model_state, seen, train=False)
        return jax.nn.softmax(logits[..., classes])

    blocks = plan.spec.blocks().values() or [slice(0, plan.spec.classes)]
    return jnp.concatenate([of(classes) for classes in blocks], axis=-1)
