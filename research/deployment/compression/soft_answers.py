"""An objective: to answer as another network does, softly.

    loss = T^2 * cross-entropy(softmax(teacher / T), softmax(student / T))

At a temperature T above 1 the teacher's answers tell how alike the classes are; T^2 keeps the gradient as large as it
is without one (Hinton et al., 2015, section 2). Teacher and student see the very same augmented example, which alone is
enough to learn from: labels are not needed (Beyer et al., 2022).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from research.deployment.compression.base import Work
from research.deployment.trained import Trained, logits
from research.training.objective import Objective


def has_soft_answers(work: Work) -> bool:
    """Whether a network tells one class an example."""
    return not work.loaded.spec.tasks and not work.experiment.objective.of_tokens


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class SoftAnswers(Objective):
    """The cross-entropy of a student's answers with a teacher's, both softened.

    The teacher's arrays are leaves, so that no program has them for constants.
    """

    takes_probabilities: ClassVar[bool] = True

    temperature: jax.Array
    teacher: Trained

    def prepare(self, keys, inputs, labels, spec):
        answers = logits(self.teacher, self.teacher.parameters, self.teacher.model_state, inputs)
        return inputs, jax.nn.softmax(jax.lax.stop_gradient(answers) / self.temperature)

    def losses(self, logits, labels):
        likely = jax.nn.log_softmax(logits.astype(jnp.float32) / self.temperature)
        return -jnp.square(self.temperature) * jnp.sum(labels * likely, axis=-1)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        arrays = (self.temperature, dict(self.teacher.parameters), dict(self.teacher.model_state))
        return arrays, _Rest(self.teacher)

    @classmethod
    def tree_unflatten(cls, rest: "_Rest", arrays: tuple[Any, ...]) -> "SoftAnswers":
        temperature, parameters, model_state = arrays
        return cls(temperature, rest.teacher._replace(parameters=parameters, model_state=model_state))


class _Rest:
    """What of a teacher is no array: its model and data, compared as the model is."""

    def __init__(self, teacher: Trained):
        self.teacher = teacher._replace(parameters={}, model_state={})

    def __eq__(self, other):
        return isinstance(other, _Rest) and self.teacher.model == other.teacher.model

    def __hash__(self):
        return hash(self.teacher.model)
