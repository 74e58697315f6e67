"""Distillation: a smaller network of the same family learns from nothing to answer as the trained one does."""

from collections.abc import Iterator

import jax.numpy as jnp

from research.config import config, leaf, structure
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.soft_answers import SoftAnswers, has_soft_answers
from research.deployment.compression.training import train_anew
from research.errors import UserError
from research.inspection.matching import Budget, match_config, size
from research.models.base import Model
from research.training.duration import Duration

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
        if not has_soft_answers(work):
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
        objective = SoftAnswers(jnp.float32(self.temperature), teacher)
        parameters, model_state = train_anew(work, student, objective, duration)
        network = teacher._replace(model=student, parameters=parameters, model_state=model_state)
        return Compressed(network, {"student": str(student)})
