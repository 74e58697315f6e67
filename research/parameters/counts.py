"""How many parameters there are, and where, without allocating one.

shapes = flatten(jax.eval_shape(net.init, key)["params"])
total(shapes)                   == Count(parameters=421642, bytes=1686568)
by_prefix(shapes)["stage_0"]    == Count(parameters=320, bytes=1280)
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from research.parameters.paths import SEPARATOR


class Count(NamedTuple):
    """Numbers of parameters and of the bytes they take."""

    parameters: int
    bytes: int


def total(parameters: Mapping[str, Any]) -> Count:
    """The count of all parameters: arrays, or anything with a shape and a dtype."""
    return _sum(by_path(parameters).values())


def by_path(parameters: Mapping[str, Any]) -> dict[str, Count]:
    """The count of each parameter, {path: Count}."""
    return {path: _count(leaf) for path, leaf in parameters.items()}


def by_prefix(parameters: Mapping[str, Any]) -> dict[str, Count]:
    """The count of all that lies under each layer, {"stage_0": ..., "stage_0/convolution_0": ...}, outer ones first."""
    members: dict[str, list[Count]] = {}
    for path, count in by_path(parameters).items():
        parts = path.split(SEPARATOR)
        for end in range(1, len(parts)):
            members.setdefault(SEPARATOR.join(parts[:end]), []).append(count)
    return {prefix: _sum(counts) for prefix, counts in members.items()}


def _count(leaf: Any) -> Count:
    size = math.prod(leaf.shape)
    return Count(size, size * np.dtype(leaf.dtype).itemsize)


def _sum(counts) -> Count:
    counts = list(counts)
    return Count(sum(c.parameters for c in counts), sum(c.bytes for c in counts))
