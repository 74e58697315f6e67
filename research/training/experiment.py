"""An experiment: everything that decides what one run computes, as one config.

    Experiment(data=Digits(), model=ConvNet(features=(16, 32)), duration=epochs(20))

Its fields are read by `training.plan` (what is fixed before the first step) and by `training.step` (what a step does).
"""

from collections.abc import Iterator
from typing import Literal

from research.config import config, edge, leaf, structure
from research.data.augmentation import Augmentation
from research.data.base import Dataset
from research.errors import did_you_mean
from research.models.base import AnyModel
from research.models.bert import BERT
from research.parameters.partition import Partition
from research.training.duration import Duration, epochs, steps
from research.training.finetuning import Finetuning
from research.training.objective import CrossEntropy, NextToken, Objective
from research.training.optimizers import AdamW, Optimizer
from research.training.schedules import Constant, Schedule
from research.training.tasks import Task, Tasks


@config
class EarlyStopping:
    """Stop when the metric that selects the best checkpoint has not improved for some evaluations."""

    patience: int = structure(5, "evaluations without an improvement before the run stops", within="[1, inf)")


@config
class Experiment:
    """One training run, from the data to the metric that selects its best checkpoint."""

    data: Dataset = structure(doc="the examples, and how they are split")
    model: AnyModel = structure(doc="the network: a config of research.models, or any Flax module")
    name: str = edge("", "what the run is called; the config file's name if empty")
    seed: int = leaf(0, "of the initial parameters, dropout and augmentation")
    data_seed: int = leaf(0, "of the order of the examples; apart from `seed`, so that trials can share one stream")
    augmentation: Augmentation | None = structure(None, "random changes to the training examples")
    objective: Objective = structure(CrossEntropy(), "what is minimised")
    optimizer: Optimizer = structure(AdamW(), "turns gradients into updates")
    schedule: Schedule = structure(Constant(), "the learning rate over time, as a multiple of the optimizer's")
    partition: Partition = structure(Partition(), "which parameters are trained")
    finetuning: Finetuning | None = structure(None, "what to begin with, and what of it to train")
    duration: Duration = structure(epochs(10), "how long to train: steps, epochs or examples")
    batch_size: int = structure(64, "examples in a step", within="[1, inf)")
    accumulate: int = structure(
        1, "parts that a batch is cut into, one after the other, to save memory", within="[1, inf)"
    )
    clip: float | None = leaf(None, "largest global norm of the gradient", within="(0, inf)")
    average: float | None = leaf(
        None,
        "decay of the running average of the parameters, which is then what is evaluated and kept",
        within="[0, 1)",
    )
    precision: Literal["float32", "bfloat16"] = structure("float32", "of the computation; parameters stay float32")
    early_stopping: EarlyStopping | None = structure(None, "stop when validation stops improving")
    select: str = structure(
        "validation/accuracy",
        "what the best checkpoint is best at: validation/accuracy or /loss, or a task's, validation/digits/accuracy",
    )
    evaluate_every: Duration = structure(epochs(1), "how often to evaluate, and to save a checkpoint")
    log_every: Duration = edge(steps(100), "how often to write a row of training metrics")
    norms: Literal["none", "layers", "activations"] = structure(
        "layers", "norms logged for each layer: of gradients, updates and parameters; with 'activations', of those too"
    )
    patience_nonfinite: int = structure(
        10, "steps in a row with a non-finite loss or gradient before the run stops", within="[1, inf)"
    )
    devices: int | None = structure(
        None, "devices that share each batch; all that divide it if None", within="[1, inf)"
    )
    tensorboard: bool = edge(False, "also write TensorBoard event files")

    @property
    def rules(self) -> Partition:
        """The partition that holds: that of fine-tuning, where there is any."""
        return self.partition if self.finetuning is None else self.finetuning.rules

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of the data, where there are several."""
        return self.data.tasks if isinstance(self.data, Tasks) else ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong between fields."""
        kinds = [f"{task}{kind}" for task in ("", *(f"{t.name}/" for t in self.tasks)) for kind in ("accuracy", "loss")]
        selects = [f"validation/{kind}" for kind in kinds]
        if self.select not in selects:
            yield "select", f"no metric '{self.select}'{did_you_mean(self.select, selects)}"
        if self.tasks and self.objective != CrossEntropy():
            yield "objective", "each task has its own; say it there, Task(..., objective=...)"
        if self.batch_size % self.accumulate:
            yield "accumulate", f"{self.accumulate} does not divide batch_size, which is {self.batch_size}"
        if self.devices and (self.batch_size // self.accumulate) % self.devices:
            part = "batch_size" if self.accumulate == 1 else "batch_size / accumulate"
            yield "devices", f"{self.devices} does not divide {part}, which is {self.batch_size // self.accumulate}"
        mixes = self.augmentation is not None and self.augmentation.mixup is not None
        if mixes and self.tasks:
            yield "augmentation.mixup", "would mix examples of different tasks, which have no classes in common"
        elif mixes and not self.objective.takes_probabilities:
            kind = type(self.objective).__name__
            yield "augmentation.mixup", f"makes probabilities of labels, and the objective {kind} takes classes alone"
        if isinstance(self.objective, NextToken) and isinstance(self.model, BERT):
            yield "objective", "BERT sees the next token before it is to tell it; use MaskedToken, or the model GPT"
        yield from self._said_twice()
        if self.duration.unit == "percent":
            yield "duration", "a percentage of what? say steps, epochs or examples"

    def _said_twice(self) -> Iterator[tuple[str, str]]:
        """What the partition says, and something else does too."""
        where = "partition"
        if self.finetuning is not None:
            where = "finetuning.partition"
            if self.partition != Partition():
                yield "partition", "fine-tuning has one too; say there which parameters are trained"
            if self.finetuning.stay_close is not None and self.finetuning.source is None:
                yield "finetuning.stay_close", "to what? there is no source"
            for field in ("interpolate", "earlier"):
                if getattr(self.finetuning, field) is not None and self.finetuning.source is None:
                    yield f"finetuning.{field}", "is about the source and the result, and there is no source"
        for i, rule in enumerate(self.rules.rules):
            if rule.clip is not None and self.clip is not None:
                yield f"{where}.rules.{i}.clip", f"clipping is said twice, by {rule} and by the experiment's clip"
            if rule.optimizer is not None and rule.learning_rate is not None:
                both = "as a multiple, and by its own optimizer"
                yield f"{where}.rules.{i}.learning_rate", f"{rule} says its learning rate twice, {both}"
