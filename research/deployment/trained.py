"""A trained network as it is put to use: a pure function, its arrays by path, and what its inputs are.

    network = read_trained("runs/digits_cnn")
    outputs = logits(network, network.parameters, network.model_state, inputs)
    likely = probabilities(network, network.parameters, network.model_state, raw)

Equal blocks are unrolled, so that each parameter has a path and an array of its own. The arrays are arguments of the
functions: what changes them, to compress them say, hands in others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.config import is_config
from research.data import base
from research.data.base import Description
from research.models.base import AnyModel, network, stacks
from research.parameters import paths
from research.training import evaluation, folder, sources

Arrays = Mapping[str, Any]
"""By path: {"block_03/dense/kernel": ...}; of the model state with its collection, batch_stats/stem/norm/mean."""


class Trained(NamedTuple):
    """A network and what was learned."""

    model: AnyModel
    """With unrolled blocks."""
    data: Description
    """What it was trained on."""
    parameters: dict[str, Any]
    model_state: dict[str, Any]
    about: dict[str, Any]
    """Where it comes from, as plain data: path, step, sha256."""


def read_trained(path: str) -> Trained:
    """The best checkpoint of a run, averaged where it keeps averages and with its adapters merged. Raises UserError."""
    weights = sources.read_run(path)
    data = base.from_description(folder.open_run(path).read_json("data.json"))
    return Trained(unrolled(weights.model), data, weights.parameters, weights.model_state, weights.about)


def unrolled(model: AnyModel) -> AnyModel:
    """The same network with no blocks stacked."""
    return dataclasses.replace(model, scan=False) if is_config(model) and stacks(model) else model


def logits(trained: Trained, parameters: Arrays, model_state: Arrays, inputs: Any) -> jax.Array:
    """Logits (batch, classes), or of tokens (batch, positions, tokens), of inputs as the network sees them."""
    variables = {"params": paths.unflatten(parameters), **paths.unflatten(model_state)}
    return network(trained.model, trained.data.spec).apply(variables, inputs, train=False)[0]


def probabilities(trained: Trained, parameters: Arrays, model_state: Arrays, raw: Any) -> jax.Array:
    """Probabilities (batch, classes) of inputs as the dataset stores them; those of each task add up to 1."""
    spec, normalisation = trained.data.spec, evaluation.as_float32(trained.data.normalisation)
    found = []
    for classes in spec.blocks().values() or [slice(0, spec.classes)]:
        labels = jnp.full(raw.shape[0], classes.start)
        seen = base.normalise(base.of_examples(normalisation, spec, labels), raw)
        found.append(jax.nn.softmax(logits(trained, parameters, model_state, seen)[..., classes]))
    return jnp.concatenate(found, axis=-1)
