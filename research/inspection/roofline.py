"""The least time that a device needs: it must compute all FLOPs and move all bytes, at best both at once.

    least_seconds(inspection, Rates(flops=175e9, bandwidth=20e9))       a step of training
    measure_rates()                                                     of the device that is here

A layer whose arithmetic intensity, FLOPs for each byte moved, lies below `flops / bandwidth` waits for memory; above,
for arithmetic. Williams, Waterman and Patterson, "Roofline" (2009).
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.inspection.costs import Cost
from research.inspection.inspecting import Inspection

MATRIX = 1024
"""Rows of the square matrices that are multiplied to see how fast it goes."""
VECTOR = 1 << 25
"""Numbers that are copied, which is more than a cache holds."""
ROUNDS = 7


class Rates(NamedTuple):
    """What a device can do in a second: floating-point operations, and bytes read or written."""

    flops: float
    bandwidth: float


def seconds(cost: Cost, rates: Rates) -> float:
    """The least time for a cost."""
    return max(cost.flops / rates.flops, cost.moved / rates.bandwidth)


def least_seconds(inspection: Inspection, rates: Rates) -> float:
    """The least time for the forward and backward pass of the whole batch, layer after layer."""
    return sum(seconds(layer.forward, rates) + seconds(layer.backward, rates) for layer in inspection.layers)


def as_json(inspection: Inspection, rates: Rates) -> dict[str, Any]:
    """The rates, and the least time of a step with them."""
    return {"rates": rates._asdict(), "least_seconds": least_seconds(inspection, rates)}


def intensity(cost: Cost) -> float:
    """FLOPs for each byte moved; infinite where nothing is."""
    return cost.flops / cost.moved if cost.moved else float("inf")


def measure_rates() -> Rates:
    """The rates of the default device in float32: of the best of some matrix products, and of copies."""
    matrix, vector = jnp.ones((MATRIX, MATRIX)), jnp.ones(VECTOR)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    return Rates(2 * MATRIX**3 / _best(product, matrix), 2 * vector.nbytes / _best(copy, vector))


def _best(function, argument) -> float:
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times)
