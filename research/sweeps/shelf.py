"""What the trials of a sweep have in common and is made once: data, above all, and what training begins with."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

from research.data.base import Dataset, Loaded
from research.errors import UserError
from research.training import sources
from research.training.experiment import Experiment
from research.training.plan import Plan

T = TypeVar("T")


class Shelf:
    """Things by their keys, each made when it is first asked for; a UserError, too, is kept and raised again."""

    def __init__(self):
        self._things: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave when it was called for this key first."""
        if key not in self._things:
            try:
                self._things[key] = make()
            except UserError as error:
                self._things[key] = error
        thing = self._things[key]
        if isinstance(thing, UserError):
            raise thing
        return thing

    def load(self, data: Dataset) -> Loaded:
        """The data of a config. Raises UserError as its `load` does."""
        return self.once(data.source(), data.load)

    def weights(self, experiment: Experiment) -> sources.Weights | None:
        """What the source of an experiment holds; None where it begins with new values. Raises UserError."""
        source = None if experiment.finetuning is None else experiment.finetuning.source
        return None if source is None else self.once(source, source.read)

    def beginning(self, plan: Plan, experiment: Experiment) -> dict[str, np.ndarray] | None:
        """What the trials of a program begin with, for `step.initial_state`. Raises UserError where it does not fit."""
        weights = self.weights(experiment)
        if weights is None:
            return None
        key = ("beginning", jax.tree.structure(experiment))
        return self.once(key, lambda: sources.fit(plan, experiment, weights).arrays)
