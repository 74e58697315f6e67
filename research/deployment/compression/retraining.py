"""How a network is trained on after something was taken from it.

On the labels, as the run was; or, at a temperature, on what the network that it was made of answers, softened by it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from research.config import config, leaf, structure
from research.deployment.compression.base import Work
from research.deployment.compression.soft_answers import SoftAnswers, has_soft_answers
from research.deployment.compression.training import Arrays, fine_tune
from research.models.base import AnyModel
from research.training.duration import Duration, epochs


@config
class Retraining:
    """Training after compression, with AdamW, at a rate that falls to 0."""

    duration: Duration = structure(epochs(10), "how long")
    learning_rate: float = leaf(1e-3, "at its beginning", within="(0, inf)")
    temperature: float | None = leaf(
        None, "softens the original's answers, which are then learned; labels are, if None", within="(0, inf)"
    )

    def unsuited(self, work: Work) -> Iterator[str]:
        """Why a network cannot be trained so."""
        if self.temperature is not None and not has_soft_answers(work):
            yield "does not tell one class an example, whose answer could be softened; set temperature to None"

    def train(
        self, work: Work, model: AnyModel, parameters: Mapping[str, Any], model_state: Mapping[str, Any]
    ) -> tuple[Arrays, Arrays]:
        """Parameters and model state of a model, trained from these."""
        objective = None
        if self.temperature is not None:
            objective = SoftAnswers(jnp.float32(self.temperature), work.trained)
        how = {"duration": self.duration, "learning_rate": self.learning_rate, "objective": objective}
        return fine_tune(work, model, parameters, model_state, **how)
