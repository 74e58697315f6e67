"""What a network comes to: its size, what it costs, how long it takes, how often it is right.

Nothing is declared. The bytes are those of files that are written alike, the original's too; the multiply-adds are read
off the traced program; and networks take turns while they are timed, so that whatever else a machine does hits all of
them alike.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.analysis import statistics
from research.data import base
from research.data.base import Streamed
from research.deployment.compression.base import Work
from research.deployment.compression.layers import example
from research.deployment.compression.quantization import SCALE, Quantized
from research.deployment.compression.training import plain
from research.deployment.trained import Trained, logits
from research.inspection.costs import Cost, costs
from research.models.base import network
from research.parameters import counts, paths
from research.training import evaluation
from research.training.plan import boundary, make_plan


class Counted(NamedTuple):
    """What there is to store and to compute, of one example."""

    parameters: int
    """Weights, biases and the like; not the scales of whole numbers."""
    nonzeros: int
    multiply_adds: int
    flops: int


def counted(trained: Trained) -> Counted:
    """The parameters and costs of a network, computed from shapes but for its zeros."""
    cost, values = forward_cost(trained), trained.parameters
    if isinstance(trained.model, Quantized):
        variables = jax.eval_shape(network(trained.model.model, trained.data.spec).init, jax.random.key(0))
        parameters = counts.total(paths.flatten(variables["params"])).parameters
        values = {path: array for path, array in values.items() if not path.endswith("_scale")}
    else:
        parameters = counts.total(values).parameters
    nonzeros = sum(_nonzeros(path, values, trained.parameters) for path in values)
    return Counted(parameters, nonzeros, cost.multiply_adds, cost.flops)


def _nonzeros(path: str, values: dict[str, Any], parameters: dict[str, Any]) -> int:
    """How many values of an array are not 0; of two whole numbers in a byte each counts."""
    array = np.asarray(values[path])
    if array.dtype == np.uint8 and f"{path.rpartition('/')[0]}/{SCALE}" in parameters:
        return int(np.count_nonzero(array & 15) + np.count_nonzero(array >> 4))
    return int(np.count_nonzero(array))


def forward_cost(trained: Trained) -> Cost:
    """The cost of the answers for one example."""
    arrays = (dict(trained.parameters), dict(trained.model_state))
    program = jax.make_jaxpr(lambda arrays, inputs: logits(trained, *arrays, inputs))(arrays, example(trained))
    return costs(program, {}).total()


# ---------------------------------------------------------------------------------------------------------------------
# How often it is right


def outcomes(work: Work, networks: Sequence[Trained], split: str) -> list[np.ndarray]:
    """For each network (examples,): 1 where it is right, 0 where it is wrong; of tokens, the share that is right."""
    experiment = dataclasses.replace(plain(work.experiment), precision="float32")
    plan = make_plan(experiment, work.loaded)
    data = evaluation.to_device(plan, work.loaded.splits[split], work.loaded.normalisation)
    found = []
    for trained in networks:
        leaves = boundary(dataclasses.replace(experiment, model=trained.model))
        arrays = (dict(trained.parameters), dict(trained.model_state))
        judged = jax.device_get(evaluation.evaluate_examples(plan, leaves, {}, *arrays, data))
        found.append(judged["correct"] / np.maximum(judged["count"], 1))
    return found


class Judged(NamedTuple):
    """How often a network is right, and what it lost, as shares, each with its interval (95 %, over examples)."""

    accuracy: statistics.Interval
    lost: statistics.Difference


def judge(original: np.ndarray, compressed: np.ndarray) -> Judged:
    """What the outcomes of a network on some examples say, beside those of the one that it was made of."""
    drawn = statistics.resample([original[None], compressed[None]])
    return Judged(statistics.interval(drawn, 1), statistics.difference(drawn, 0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# How long it takes


def latencies(work: Work, networks: Sequence[Trained], split: str, *, batch: int, rounds: int) -> list[float]:
    """Seconds that each network takes for a batch: the median over rounds, in each of which all take their turn."""
    inputs = jnp.asarray(_batch(work, split, batch))
    calls = []
    for trained in networks:
        arrays = jax.device_put((dict(trained.parameters), dict(trained.model_state)))
        compiled = jax.jit(lambda arrays, inputs, trained=trained: logits(trained, *arrays, inputs))
        calls.append(lambda compiled=compiled, arrays=arrays: jax.block_until_ready(compiled(arrays, inputs)))
    times = np.zeros((rounds, len(calls)))
    for call in calls:
        call()
    for turn in range(rounds):
        for index in np.roll(np.arange(len(calls)), turn):
            begun = time.perf_counter()
            calls[index]()
            times[turn, index] = time.perf_counter() - begun
    return np.median(times, axis=0).tolist()


def _batch(work: Work, split: str, count: int) -> np.ndarray:
    """So many examples as the network sees them, over again where the split has fewer."""
    examples = work.loaded.splits[split]
    chosen = np.arange(count) % len(examples)
    raw = examples.read(chosen) if isinstance(examples, Streamed) else examples.inputs[chosen]
    normalisation = evaluation.as_float32(work.loaded.normalisation)
    return base.normalise(base.of_examples(normalisation, work.loaded.spec, examples.labels[chosen]), raw)
