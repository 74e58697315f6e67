"""Layers that compute in another way than the model says: with other weights, on other inputs, or in another form.

    def rounded(layer, inputs):
        return layer.call(jnp.round(inputs))

    with altering(rounded):
        module.apply(variables, inputs)

No model is edited: Flax hands every call of a layer to an interceptor. So a dense layer may hold two factors in the
place of its kernel, or whole numbers and what they are multiplied by: only the function here looks for the kernel.

A config derived from `Altered` is the model that it holds, altered so, with parameters of its own under the same paths:
it goes wherever a model goes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import flax.linen as nn
from jax import Array

from research.models.layers import Convolution

Kind = Literal["dense", "convolution", "other"]
"""What a layer does with its kernel: a product of features (a kernel of two axes), a window, or anything else."""


class Layer(NamedTuple):
    """A layer that has parameters, as it is called."""

    path: str
    kind: Kind
    parameters: Mapping[str, Any]
    """By name; nested where it holds other layers."""
    call: Callable[[Array], Array]
    """What it gives for inputs, as the model says."""
    product: Callable[[Array, Array], Array]
    """(inputs, kernel) -> outputs without a bias; of dense layers and convolutions."""

    def with_bias(self, outputs: Array) -> Array:
        """Outputs of the product and the bias, where the layer has one."""
        return outputs + self.parameters["bias"] if "bias" in self.parameters else outputs


def altering(alter: Callable[[Layer, Array], Array]) -> AbstractContextManager:
    """Within it, `alter` gives the outputs of each layer that has parameters of its own and is given an array.

    It is called in the order in which the network uses its layers. Not while parameters are made, and not by what
    `Layer.product` calls.
    """

    def intercept(call, args, kwargs, context):
        module = context.module
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        if (
            context.method_name != "__call__"
            or not module.path
            or module.is_initializing()
            or not hasattr(inputs, "ndim")
        ):
            return call(*args, **kwargs)
        parameters, kind = module.variables.get("params", {}), kind_of(module)
        if kind == "other" and all(isinstance(value, Mapping) for value in parameters.values()):
            return call(*args, **kwargs)
        name = None if args else next(iter(kwargs))

        def as_it_is(inputs: Array) -> Array:
            return call(inputs, *args[1:], **kwargs) if name is None else call(**{**kwargs, name: inputs})

        def product(inputs: Array, kernel: Array) -> Array:
            bare = module.clone(use_bias=False, parent=None)
            return bare.apply({"params": {"kernel": kernel}}, inputs)

        return alter(Layer("/".join(module.path), kind, parameters, as_it_is, product), inputs)

    return nn.intercept_methods(intercept)


def kind_of(module: nn.Module) -> Kind:
    """What a layer does with its kernel."""
    match module:
        case nn.Dense():
            return "dense"
        case nn.Conv() | Convolution():
            return "convolution"
    return "other"
