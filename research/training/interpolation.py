"""The line from where fine-tuning began to where it ended, and how good the networks on it are.

Adapters begin as nothing: on the line their second factor is a share of what it became.

Where the way is straight, the network half way is often better than either end, on other data above all (Wortsman et
al., 2022). What the source has not, such as a new head, is that of the result all along the line.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from research.data.base import Loaded
from research.errors import UserError
from research.models.adapters import B
from research.training import loop
from research.training.state import Parameters, State


def between(source: Parameters, state: State, share: float) -> State:
    """The state whose parameters and model state are (1 - share) of the source's and `share` of those it has.

    source: by stored path, as `sources.fit` gives it. At 0 and 1 they are the ends, to the bit.
    """

    def mixed(result: Parameters) -> Parameters:
        start = {path: jnp.zeros_like(value) for path, value in result.items() if path.endswith(f"/{B}")} | source
        return {path: _mixed(start[path], value, share) if path in start else value for path, value in result.items()}

    trainable, model_state = state.used()
    return dataclasses.replace(state, trainable=mixed(trainable), model_state=mixed(model_state), average=None)


def _mixed(start: Any, end: Any, share: float) -> Any:
    if share in (0, 1) or not jnp.issubdtype(end.dtype, jnp.floating):
        return end if share else jnp.asarray(start)
    return (1 - share) * start + share * end


def curve(
    work: loop.Work, source: Parameters, state: State, shares: Iterable[float], split: str = "validation"
) -> list[dict[str, float]]:
    """Loss and accuracy on a split at points of the line: [{"share", "loss", "accuracy"}, ...]."""
    found = []
    for share in shares:
        figures = loop.report(work, between(source, state, share), split)
        found.append({"share": share, "loss": figures["loss"], "accuracy": figures["accuracy"]})
    return found


def forgetting(work: loop.Work, source: Parameters, state: State, earlier: Loaded) -> list[dict[str, Any]]:
    """Test figures of the source and of the result, on the new data and on that which the source knows.

    [{"data": "new", "before": figures, "after": figures}, {"data": "earlier", ...}]. What the source has not, such as a
    new head, is that of the result in both. Raises UserError as `check_earlier`.
    """
    check_earlier(work.loaded, earlier)
    ends = {"before": between(source, state, 0), "after": between(source, state, 1)}
    return [
        {"data": name, **{end: loop.report(work._replace(loaded=loaded), at, "test") for end, at in ends.items()}}
        for name, loaded in (("new", work.loaded), ("earlier", earlier))
    ]


def check_earlier(loaded: Loaded, earlier: Loaded) -> None:
    """Raises UserError where a network for one set of data cannot be judged on the other."""
    new, old = loaded.spec, earlier.spec
    if (new.shape, new.classes, new.tokens, new.tasks) != (old.shape, old.classes, old.tokens, old.tasks):
        here, there = (f"{spec.shape} and {spec.classes} classes" for spec in (new, old))
        raise UserError(f"finetuning.earlier: its examples are of {there}, those of data of {here}; they must agree")
