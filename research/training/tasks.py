"""Several tasks on one trunk: each has its data, its head, its objective and its weight.

    Experiment(
        data=Tasks(
            letters=Task(Glyphs(alphabet="letters", size=8)),
            digits=Task(Digits(), objective=CrossEntropy(label_smoothing=0.1), weight=0.5),
        ),
        model=ConvNet(features=(16, 32)),
    )

The tasks are one set of data, whose classes are those of all tasks one after the other: so a label says whose it is,
and everything that knows of data, models and steps goes on as with one task. The model's last layer is a head for each,
head/letters and head/digits (`models.heads`), and examples are seen as their task has them normalised.

A step takes a batch of each task, the one that it would take alone, and what is minimised is the sum of weight times
mean loss. The weights are leaves: they can be swept, and none of them is a program of its own, as shares of a batch
would be. An epoch goes once through the largest task; smaller ones come round more often. Batch norms see a step's
examples of all tasks together.

Metrics are those over the examples of all tasks, and of each, as digits/accuracy, which can be what selects the best.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from research.config import config, leaf, structure
from research.data.base import SPLITS, Dataset, Loaded, Normalisation, Split, Streamed
from research.errors import UserError
from research.models.heads import HEAD
from research.spec import Spec
from research.training import metrics
from research.training.objective import CrossEntropy, Objective, makes_targets


@config
class Task:
    """What is learned beside other tasks."""

    data: Dataset = structure(doc="the examples, and how they are split")
    objective: Objective = structure(CrossEntropy(), "what is minimised of its examples' losses")
    weight: float = leaf(1.0, "what its loss is multiplied by in the sum over all tasks", within="[0, inf)")
    name: str = structure("", "what it is called; its keyword in Tasks(...)")

    def __init__(
        self,
        data: Dataset,
        objective: Objective = CrossEntropy(),  # noqa: B008 (frozen)
        weight: float = 1.0,
        name: str = "",
    ):
        for field, value in (("data", data), ("objective", objective), ("weight", weight), ("name", name)):
            object.__setattr__(self, field, value)
        self.__post_init__()

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.data, Tasks):
            yield "data", "is tasks again; name them all side by side"
        if self.objective.of_tokens or makes_targets(self.objective):
            kind = type(self.objective).__name__
            yield "objective", f"{kind} makes its targets of the examples; tasks take one of labels, as CrossEntropy"
        if not re.fullmatch(r"[A-Za-z_]\w*", self.name):
            yield "name", f"'{self.name}' is no name of a task; letters, digits and _ make one"


@config
class Tasks(Dataset):
    """Data of several tasks, each of which has a head of its own: Tasks(letters=Task(...), digits=Task(...))."""

    tasks: tuple[Task, ...] = structure((), "the tasks, each with its name")

    def __init__(self, tasks: tuple[Task, ...] = (), **named: Task):
        wrong = {name: type(task).__name__ for name, task in named.items() if not isinstance(task, Task)}
        if wrong:
            raise UserError(*(f"tasks: {name} is {kind}; say {name}=Task({kind}(...))" for name, kind in wrong.items()))
        renamed = (dataclasses.replace(task, name=name) for name, task in named.items())
        object.__setattr__(self, "tasks", (*tasks, *renamed))

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [task.name for task in self.tasks]
        if not self.tasks:
            yield "tasks", "there are none; say Tasks(letters=Task(...), digits=Task(...))"
        elif all(task.weight == 0 for task in self.tasks):
            yield "tasks", "all have the weight 0, so there is nothing to learn"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "tasks", f"{names.count(name)} are called '{name}'"

    def load(self) -> Loaded:
        """The data of all tasks as one. Raises UserError with all that is wrong with any, or between them."""
        loaded, problems = {}, []
        for task in self.tasks:
            try:
                loaded[task.name] = task.data.load()
            except UserError as error:
                problems += [f"{task.name}: {problem}" for problem in error.problems]
        if problems:
            raise UserError(*problems)
        return join(loaded)

    def source(self) -> "Tasks":
        """The weights change no example."""
        tasks = (dataclasses.replace(task, data=task.data.source(), weight=1.0) for task in self.tasks)
        return dataclasses.replace(self, tasks=tuple(tasks))


# ---------------------------------------------------------------------------------------------------------------------
# One set of data


def join(loaded: Mapping[str, Loaded]) -> Loaded:
    """The data of tasks by name as one. Raises UserError with all that they differ in and may not."""
    if problems := list(_misfits(loaded)):
        raise UserError(*problems)
    parts = list(loaded.values())
    first = parts[0]
    tasks = tuple((name, data.spec.classes) for name, data in loaded.items())
    names = tuple(f"{task}/{name}" for task, data in loaded.items() for name in data.spec.names)
    spec = Spec(first.spec.shape, len(names), names, first.spec.tokens, tasks)
    scales = [1.0 if data.normalisation is None else data.normalisation.scale for data in parts]
    dtypes = {data.splits[split].dtype for data in parts for split in SPLITS}
    common = scales[0] if len(set(scales)) == len(dtypes) == 1 else None
    splits = {
        split: Split(
            np.concatenate([_scaled(data.splits[split].inputs, data, common) for data in parts]),
            np.concatenate([data.splits[split].labels + block.start for data, block in _in_blocks(parts, spec)]),
        )
        for split in SPLITS
    }
    normalisation = None
    if first.normalisation is not None:
        means, deviations = (np.stack([data.normalisation[i] for data in parts]) for i in (1, 2))
        normalisation = Normalisation(1.0 if common is None else common, means, deviations)
    backgrounds = {data.background for data in parts}
    whites = {_white(data, common) for data in parts}
    return Loaded(
        spec,
        splits,
        normalisation,
        first.kind,
        background=first.background if len(backgrounds) == 1 else None,
        maximum=whites.pop() if len(whites) == 1 else None,
    )


def _misfits(loaded: Mapping[str, Loaded]) -> Iterator[str]:
    (first, model), *_ = loaded.items()
    for name, data in loaded.items():
        spec, there = data.spec, model.spec
        if spec.shape != there.shape:
            yield f"tasks: examples of {name} are {_by(spec)}, those of {first} {_by(there)}; one trunk needs one shape"
        if (spec.tokens, data.kind) != (there.tokens, model.kind):
            yield f"tasks: examples of {name} are {_what(data)}, those of {first} {_what(model)}"
        if any(isinstance(split, Streamed) for split in data.splits.values()):
            yield f"tasks: examples of {name} are read from the disk in every step; those of tasks must fit in memory"
        elif min(split.labels.min() for split in data.splits.values()) < 0:
            yield f"tasks: examples of {name} have no labels"


def _by(spec: Spec) -> str:
    return "x".join(map(str, spec.shape))


def _what(data: Loaded) -> str:
    return f"of the kind {data.kind}" + ("" if data.spec.tokens is None else f", of {data.spec.tokens} tokens")


def _in_blocks(parts: list[Loaded], spec: Spec) -> Iterator[tuple[Loaded, slice]]:
    return zip(parts, spec.blocks().values(), strict=True)


def _scaled(inputs: np.ndarray, data: Loaded, common: float | None) -> np.ndarray:
    """Raw inputs as they are where all tasks have `common` scale and dtype, or else on the scale of 1."""
    if common is not None or data.normalisation is None:
        return inputs
    return inputs.astype(np.float32) * np.float32(data.normalisation.scale)


def _white(data: Loaded, common: float | None) -> float | None:
    """The value of white in what `_scaled` gives, where the examples are pictures."""
    if data.maximum is None or common is not None:
        return data.maximum
    return data.maximum * data.normalisation.scale


# ---------------------------------------------------------------------------------------------------------------------
# What is minimised


@dataclasses.dataclass(frozen=True)
class OfTasks(Objective):
    """The sum over tasks of weight times mean loss. Labels are those of all tasks."""

    tasks: tuple[Task, ...]
    spec: Spec

    def losses(self, logits, labels):
        """Each example's by the objective of its own task, on the logits of that task's head; without its weight."""
        found = jnp.zeros(len(labels))
        for index, (task, block) in enumerate(zip(self.tasks, self.spec.blocks().values(), strict=True)):
            own = jnp.clip(labels - block.start, 0, block.stop - block.start - 1)
            losses = task.objective.losses(logits[:, block], own)
            found = jnp.where(self.spec.task_of(labels) == index, losses, found)
        return found

    def mean(self, losses, labels):
        """The sum over tasks of weight times mean loss; a batch has as many examples of each."""
        weights = jnp.stack([jnp.asarray(task.weight, jnp.float32) for task in self.tasks])
        return len(self.tasks) * jnp.mean(weights[self.spec.task_of(labels)] * losses)

    def penalty(self, parameters, decayed):
        """The sum over tasks of weight times its penalty, which is about the trunk and its own head."""
        total = 0.0
        for task in self.tasks:
            others = tuple(f"{HEAD}/{other.name}/" for other in self.tasks if other.name != task.name)
            own = {path: value for path, value in parameters.items() if not path.startswith(others)}
            total += task.weight * task.objective.penalty(own, decayed)
        return total


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def within_task(spec: Spec, logits: Array, labels: Array) -> Array:
    """Logits (batch, classes) with those of other tasks' heads, where there are any, at minus infinity."""
    if not spec.tasks:
        return logits
    of_class = spec.task_of(np.arange(spec.classes))
    return jnp.where(of_class == spec.task_of(labels)[:, None], logits, -jnp.inf)


def batch_sums(spec: Spec, losses: Array, logits: Array, labels: Array, mask: Array) -> dict[str, Array]:
    """`metrics.batch_sums`, and where there are several tasks that of each: {"loss", ..., "digits/loss", ...}."""
    sums = metrics.batch_sums(losses, logits, labels, mask)
    for index, (task, _) in enumerate(spec.tasks):
        own = metrics.batch_sums(losses, logits, labels, mask & (spec.task_of(labels) == index))
        sums |= {f"{task}/{name}": value for name, value in own.items()}
    return sums
