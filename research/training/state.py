"""What a step changes, all of it and nothing else: the state, which is donated to every step.

Parameters are flat dicts from path to array. What is frozen is no part of the state: it is an argument of its own,
never donated, never written.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Parameters = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state of one run after `step` steps."""

    step: jax.Array
    """() uint32, steps taken."""
    trainable: Parameters
    """The parameters that are trained, float32."""
    model_state: Parameters
    """The model's other collections, "batch_stats/..." being running statistics."""
    optimizer_state: Any
    """Optax's, for `trainable` alone."""
    average: dict[str, Parameters] | None
    """Running averages of `trainable` and `model_state`, or None if none are kept."""
    skipped: jax.Array
    """() uint32, steps skipped because their loss or gradient was not finite."""
    skipped_in_row: jax.Array
    """() uint32, how many of them the last steps were."""

    def used(self) -> tuple[Parameters, Parameters]:
        """The trainable parameters and model state to evaluate with: the averages where they are kept."""
        if self.average is None:
            return self.trainable, self.model_state
        return self.average["trainable"], self.average["model_state"]


def as_flat(tree: Any) -> dict[str, Any]:
    """A pytree as {path: leaf}, the form that a checkpoint stores: {"trainable/head/kernel": ..., "step": ...}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def from_flat(arrays: dict[str, Any], template: Any) -> Any:
    """The pytree of `template`'s structure from what `as_flat` gave of it."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(template)
    keys = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(arrays[key]) for key in keys])
