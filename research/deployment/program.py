"""What can be exported: a pure function of arrays and raw inputs that gives probabilities, and what there is to know.

    program = read_program("runs/digits_cnn")
    likely = jax.jit(program.function)(program.arrays, raw)          # raw as the dataset stores them

A compressed network, in whole numbers say, is read from its folder as a run is from its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.data.base import Description
from research.deployment.trained import Arrays, Trained, probabilities, read_trained


class Program(NamedTuple):
    """A network with its preprocessing."""

    function: Callable[[Arrays, Any], jax.Array]
    """(arrays, raw inputs (batch, *shape)) -> probabilities (batch, classes), or (batch, positions, tokens)."""
    arrays: dict[str, Any]
    """By path; those of the model state with their collection: batch_stats/stem/norm/mean."""
    data: Description
    """What it was trained on."""
    about: dict[str, Any]
    """Where it comes from, as plain data: path, the run's folder; step; sha256."""


def read_program(path: str) -> Program:
    """The network of a run, or a compressed one, by its folder. Raises UserError for one that holds none."""
    if (Path(path) / "network.json").is_file():
        from research.deployment.compression.storage import read_compressed  # few need it

        return program_of(read_compressed(path))
    return program_of(read_trained(path))


def program_of(trained: Trained) -> Program:
    """A trained network, as it is."""
    states = set(trained.model_state)

    def function(arrays: Arrays, raw: Any) -> jax.Array:
        parameters = {path: array for path, array in arrays.items() if path not in states}
        return probabilities(trained, parameters, {path: arrays[path] for path in states}, raw)

    return Program(function, trained.parameters | trained.model_state, trained.data, trained.about)
