"""Weights as whole numbers of 8 or 4 bits, each output feature with a scale of its own: symmetric, 0 being 0.

    scale = largest |weight| of the feature / 127         kernel = scale * whole numbers from -127 to 127

So the error of a weight is at most half its scale. With 4 bits the numbers go from -7 to 7, and two lie in a byte.

A layer's product is linear, so the scale of a feature comes after it: `product(inputs, whole numbers) * scale`. Where
the inputs are whole numbers as well, by a scale found by calibration, the product is one of whole numbers; it is
computed in float32, which is exact up to 2^24 and so for sums of 1,040 products, and rounds as float32 does beyond.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018), sections 2 and 3.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from research.config import config, structure
from research.models.altering import Layer, altering
from research.models.base import Altered, AnyModel, Network
from research.parameters import paths

KERNEL, SCALE, INPUT_SCALE = "kernel", "kernel_scale", "input_scale"


def largest(bits: int) -> int:
    """The largest whole number: 127 of 8 bits, 7 of 4. The smallest is its negative."""
    return 2 ** (bits - 1) - 1


def scales(kernel: Array, bits: int) -> Array:
    """(features,): what each output feature of a kernel (..., features) is multiplied by; 1 where all of it is 0.

    Or so near to 0 that a scale could not be told from it.
    """
    most = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    return jnp.where(most > largest(bits) * jnp.finfo(jnp.float32).tiny, most / largest(bits), 1.0)


def quantize(values: Array, scale: Array, bits: int) -> Array:
    """Whole numbers, as int8, nearest to values / scale, halves to even; what is out of range becomes the end of it."""
    return jnp.clip(jnp.round(values / scale), -largest(bits), largest(bits)).astype(jnp.int8)


def dequantize(whole: Array, scale: Array) -> Array:
    """The values that whole numbers stand for, float32."""
    return whole.astype(jnp.float32) * scale


@jax.custom_jvp
def rounded_through(values: Array, scale: Array, most: Array) -> Array:
    """Values as they are after being whole numbers from -most to most, times the scale.

    Its derivative is that of the identity where the values are in range, and 0 beyond (Bengio et al., 2013, "straight
    through"). None goes to the scale.
    """
    return jnp.clip(jnp.round(values / scale), -most, most) * scale


@rounded_through.defjvp
def _straight_through(primals, tangents):
    values, scale, most = primals
    inside = jnp.abs(values) <= most * scale * (1 + 1e-6)  # the largest of a feature is what its scale is made of
    return rounded_through(values, scale, most), jnp.where(inside, tangents[0], 0)


def fake_quantize(kernel: Array, bits: int) -> Array:
    """A kernel as it will be when quantized, for training; the gradient goes straight through."""
    return rounded_through(kernel, jax.lax.stop_gradient(scales(kernel, bits)), jnp.float32(largest(bits)))


# ---------------------------------------------------------------------------------------------------------------------
# Two to a byte


def pack(whole: Array) -> Array:
    """Whole numbers of 4 bits (inputs, features), from -8 to 7, two to a byte: (ceil(inputs / 2), features) uint8."""
    nibbles = jnp.pad(whole, ((0, len(whole) % 2), (0, 0))).astype(jnp.uint8) & 15
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpack(packed: Array, inputs: int) -> Array:
    """What was packed: (inputs, features) int8."""
    nibbles = jnp.stack([packed & 15, packed >> 4], axis=1).reshape(-1, packed.shape[-1])[:inputs]
    return ((nibbles ^ 8).astype(jnp.int8)) - 8


# ---------------------------------------------------------------------------------------------------------------------
# The network


@config
class Quantized(Altered):
    """A model some of whose layers hold whole numbers: kernel (int8, or uint8 of two 4 bits) and kernel_scale.

    Those that have an input_scale as well turn what they are given into whole numbers of 8 bits.
    """

    model: AnyModel = structure(doc="what is quantized")
    bits: tuple[tuple[str, int], ...] = structure(doc="of the weights of each layer that is quantized: 8 or 4")
    inputs: tuple[str, ...] = structure((), "layers whose inputs are quantized too, to 8 bits")

    def alter(self, network: Network) -> Network:
        def init(key):
            variables = network.init(key)
            ranges = dict.fromkeys(self.inputs, jnp.ones(()))
            parameters = quantize_layers(paths.flatten(variables["params"]), dict(self.bits), ranges)
            return {**variables, "params": paths.unflatten(parameters)}

        def apply(variables, inputs, **options):
            with altering(_use_whole_numbers):
                return network.apply(variables, inputs, **options)

        return network._replace(init=init, apply=apply)


def _use_whole_numbers(layer: Layer, inputs: Array) -> Array:
    """What a layer gives whose parameters may be whole numbers."""
    if SCALE not in layer.parameters:
        return layer.call(inputs)
    scale, whole = layer.parameters[SCALE], layer.parameters[KERNEL]
    if whole.dtype == jnp.uint8:
        whole = unpack(whole, inputs.shape[-1])
    if INPUT_SCALE in layer.parameters:
        of_inputs = layer.parameters[INPUT_SCALE]
        inputs, scale = quantize(inputs, of_inputs, 8).astype(jnp.float32), scale * of_inputs
    return layer.with_bias(layer.product(inputs, whole.astype(jnp.float32)) * scale)


def quantize_layers(
    parameters: Mapping[str, Any], bits: Mapping[str, int], ranges: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters as `Quantized` holds them: of each layer in `bits`, whole numbers; the others are as they were.

    ranges: of the layers whose inputs are quantized, the largest absolute value that an input may have.
    """
    found = dict(parameters)
    for layer, count in bits.items():
        kernel = jnp.asarray(parameters[f"{layer}/{KERNEL}"])
        scale = scales(kernel, count)
        whole = quantize(kernel, scale, count)
        found[f"{layer}/{KERNEL}"] = pack(whole) if count == 4 else whole
        found[f"{layer}/{SCALE}"] = scale
    for layer, most in ranges.items():
        found[f"{layer}/{INPUT_SCALE}"] = jnp.float32(most) / largest(8)
    return dict(sorted(found.items()))


@config
class FakeQuantized(Altered):
    """A model that computes as if it were quantized, with the weights it has, which can so be trained."""

    model: AnyModel = structure(doc="what is to be quantized")
    bits: tuple[tuple[str, int], ...] = structure(doc="of the weights of each layer that will be quantized: 8 or 4")
    ranges: tuple[tuple[str, float], ...] = structure((), "largest inputs of the layers whose inputs will be as well")

    def alter(self, network: Network) -> Network:
        bits, ranges = dict(self.bits), dict(self.ranges)

        def as_if(layer: Layer, inputs: Array) -> Array:
            if layer.path not in bits:
                return layer.call(inputs)
            if layer.path in ranges:
                most = largest(8)
                inputs = rounded_through(inputs, jnp.float32(ranges[layer.path]) / most, jnp.float32(most))
            kernel = fake_quantize(layer.parameters[KERNEL], bits[layer.path])
            return layer.with_bias(layer.product(inputs, kernel))

        def apply(variables, inputs, **options):
            with altering(as_if):
                return network.apply(variables, inputs, **options)

        return network._replace(apply=apply)
