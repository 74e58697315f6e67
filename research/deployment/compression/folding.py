"""Batch norms folded into the layers before them, which is exact: in use both are linear.

    kernel' = kernel * g        bias' = (bias - mean) * g + bias of the norm        g = scale / sqrt(variance + 1e-5)

The model becomes that without norms, where it has a field `norm` that says so; any other network is left as it is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from research.config import is_config
from research.deployment.compression.features import shapes
from research.deployment.compression.layers import example
from research.deployment.trained import Trained, logits
from research.errors import UserError
from research.models.altering import Layer, altering

EPSILON = 1e-5
"""That of the batch norms of our models."""


def folded(trained: Trained) -> Trained:
    """The network without batch norms, if its model can be without them; else as it is."""
    model = trained.model
    if not is_config(model) or getattr(model, "norm", None) != "batch":
        return trained
    without = dataclasses.replace(model, norm=None)
    parameters, model_state = fold(trained.parameters, trained.model_state, norms_after(trained))
    try:
        wanted = shapes(without, trained.data.spec)
    except UserError:
        return trained
    if {path: np.shape(array) for path, array in {**parameters, **model_state}.items()} != wanted:
        return trained
    return trained._replace(model=without, parameters=parameters, model_state=model_state)


def norms_after(trained: Trained) -> dict[str, str]:
    """{norm: layer} for each batch norm that is given just what one dense layer or convolution gives."""
    made: list[tuple[Array, str]] = []
    found: dict[str, str] = {}

    def see(layer: Layer, inputs: Array) -> Array:
        if f"batch_stats/{layer.path}/var" in trained.model_state:
            found.update((layer.path, maker) for outputs, maker in made if outputs is inputs)
        outputs = layer.call(inputs)
        if layer.kind != "other":
            made.append((outputs, layer.path))
        return outputs

    with altering(see):
        arrays = (dict(trained.parameters), dict(trained.model_state))
        jax.eval_shape(lambda arrays, inputs: logits(trained, *arrays, inputs), arrays, example(trained))
    return found


def fold(
    parameters: Mapping[str, Any], model_state: Mapping[str, Any], norms: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and model state without these norms, {norm: the layer before it}."""
    new, new_state = dict(parameters), dict(model_state)
    for norm, layer in norms.items():
        mean, variance = (new_state.pop(f"batch_stats/{norm}/{name}") for name in ("mean", "var"))
        scale, shift = new.pop(f"{norm}/scale"), new.pop(f"{norm}/bias")
        gain = scale / np.sqrt(variance + np.float32(EPSILON))
        new[f"{layer}/kernel"] = new[f"{layer}/kernel"] * gain
        new[f"{layer}/bias"] = (new.get(f"{layer}/bias", np.float32(0)) - mean) * gain + shift
    return dict(sorted(new.items())), new_state
