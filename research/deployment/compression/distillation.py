"""Distillation: a smaller network learns to answer as the trained one does, softly.

    loss = T^2 * cross-entropy(softmax(teacher / T), softmax(student / T))

At a temperature T above 1 the teacher's answers tell how alike the classes are; T^2 keeps the gradient as large as it
is without one (Hinton et al., 2015, section 2). Teacher and student see the very same augmented example, which alone is
enough to learn from: labels are not needed (Beyer et al., 2022).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from research.config import config, leaf, structure
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.training import train_anew
from research.deployment.trained import Trained, logits
from research.errors import UserError
from research.inspection.matching import Budget, match_config, size
from research.models.base import Model
from research.training.duration import Duration
from research.training.objective import Objective

FIELDS = ("width", "features")
"""What makes a model smaller, where no field is named."""


@config
class Distillation(Method):
    """A smaller model of the same family, found by its FLOPs, learns from the trained one."""

    flops: float = leaf(0.25, "FLOPs of the student, as a share of the teacher's", within="(0, 1)")
    field: str = structure("", "of the model, what is made smaller; width or features if empty")
    temperature: float = leaf(4.0, "what logits are divided by, for soft answers", within="(0, inf)")
    duration: Duration | None = structure(None, "how long the student is trained; as long as the run was if None")

    def does(self) -> str:
        return f"distilled, {100 * self.flops:.3g} % FLOPs"

    def unsuited(self, work: Work) -> Iterator[str]:
        if work.loaded.spec.tasks or work.experiment.objective.of_tokens:
            yield "does not tell one class an example, which is what is distilled"
            return
        try:
            self.student(work)
        except UserError as error:
            yield from (f"has no smaller student: {problem}" for problem in error.problems)

    def student(self, work: Work) -> Model:
        """The smaller model. Raises UserError where no value of the field makes one."""
        model, spec = work.trained.model, work.trained.data.spec
        known = [name for name in ((self.field,) if self.field else FIELDS) if hasattr(model, name.partition(".")[0])]
        if not isinstance(model, Model) or not known:
            raise UserError(f"{type(model).__name__} has no field {self.field or ' or '.join(FIELDS)}; name another")
        wanted = Budget("FLOPs", max(1.0, self.flops * size(model, spec, "FLOPs")))
        return match_config(model, lambda it: size(it, spec, "FLOPs"), wanted, field=known[0], within=0.25)

    def compress(self, work: Work) -> Compressed:
        student, teacher = self.student(work), work.trained
        duration = self.duration or work.experiment.duration
        objective = SoftAnswers(temperature=jnp.float32(self.temperature), teacher=teacher)
        parameters, model_state = train_anew(work, student, objective, duration)
        network = teacher._replace(model=student, parameters=parameters, model_state=model_state)
        return Compressed(network, {"student": str(student)})


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
