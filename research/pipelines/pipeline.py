"""A pipeline: stages that follow one another, what each has to come to, and what to change where it does not.

    Pipeline(
        glyphs=Train(Experiment(data=Glyphs(size=8), model=MODEL)),
        digits=Train(
            Experiment(
                data=Digits(),
                model=MODEL,
                finetuning=Finetuning(source=Result("glyphs"), partition=linear_probe(new_head=False)),
            ),
            gate="accuracy >= 97 %, at most 1e6 parameters",
            otherwise=(change("finetuning.partition", last_blocks(2)), change("finetuning.partition", full())),
        ),
    )

A stage whose gate does not hold is run again with the first change of `otherwise`, then with the second as well, and so
on. Where none is left the pipeline ends: what comes after a stage is only for what was good enough. `Result` stands for
what came of an earlier stage, wherever training can begin with weights.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from research.config import config, edge, leaf, override, structure, validate
from research.deployment.compression import Compression, Method
from research.errors import UserError, did_you_mean
from research.pipelines.gates import Condition, read_gate
from research.sweeps.spaces import Part
from research.sweeps.sweep import Sweep
from research.training.experiment import Experiment
from research.training.finetuning import Source


@config
class Result(Source):
    """What came of an earlier stage of the pipeline, as what training begins with."""

    stage: str = structure("", "the name of the stage")

    def __init__(self, stage: str = ""):
        object.__setattr__(self, "stage", stage)

    def read(self):
        raise UserError(f"the result of the stage '{self.stage}' is there in a pipeline alone")


@config
class Change:
    """What to change in a stage whose gate does not hold; see `change`."""

    paths: tuple[str, ...] = structure((), "fields of the stage's experiment or sweep")
    values: tuple[Part, ...] | tuple[Any, ...] = structure((), "what to set them to")

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.paths) != len(self.values):
            yield "values", f"{len(self.values)} of them for {len(self.paths)} paths"

    def __str__(self) -> str:
        return ", ".join(f"{path} {_short(value)}" for path, value in zip(self.paths, self.values, strict=True))


def change(path: str, value: Any, *more: Any) -> Change:
    """A field's new value, or those of several: change("duration", epochs(40), "batch_size", 128)."""
    if len(more) % 2:
        raise UserError("change: takes a path and a value, and then more of such pairs")
    flat = (path, value, *more)
    return Change(paths=flat[::2], values=flat[1::2])


def _short(value: Any) -> str:
    text = str(value) if not dataclasses.is_dataclass(value) or type(value).__str__ is not object.__str__ else ""
    return text if text and len(text) <= 60 else type(value).__name__


class Stage:
    """Base of the configs of stages. Each has a name and a gate."""

    name: str
    gate: str

    def needs(self) -> tuple[str, ...]:
        """The names of the stages whose results it is about."""
        raise NotImplementedError


@config
class Train(Stage):
    """An experiment, or a sweep of which the best trial is then trained as an experiment."""

    work: Experiment | Sweep = structure(doc="what is trained")
    gate: str = structure("", "what has to hold of the result: accuracy >= 0.97 on test, at most 1e6 parameters")
    otherwise: tuple[Change, ...] = structure((), "what to change, one after the other, while the gate does not hold")
    name: str = structure("", "what it is called; its keyword in Pipeline(...)")

    def __init__(self, work: Experiment | Sweep, gate: str = "", otherwise: tuple[Change, ...] = (), name: str = ""):
        for field, value in (("work", work), ("gate", gate), ("otherwise", otherwise), ("name", name)):
            object.__setattr__(self, field, value)
        self.__post_init__()

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _gate_problems(self.gate)
        if self.otherwise and not self.gate:
            yield "otherwise", "changes what does not hold, and there is no gate"
        work = self.work
        for number, each in enumerate(self.otherwise):
            try:
                work = changed(work, each)
            except UserError as error:
                yield from ((f"otherwise.{number}", problem) for problem in error.problems)
                return

    def needs(self) -> tuple[str, ...]:
        works = [self.work]
        for each in self.otherwise:
            works.append(changed(works[-1], each))
        return tuple(dict.fromkeys(result.stage for work in works for result in results_in(work)))


@config
class Compress(Stage):
    """Smaller networks of what came of an earlier stage, of which one goes on: the least that is good enough."""

    of: str = structure("", "the name of the stage whose result is compressed")
    methods: tuple[Method, ...] = structure(
        (), "what is tried, each by itself: those of research.deployment.compression"
    )
    budget: float = leaf(0.003, "accuracy that may be lost, as a share: 0.003 is 0.3 points", within="[0, 1]")
    split: Literal["validation", "test"] = structure("validation", "whose examples decide what was lost")
    gate: str = structure("", "what has to hold of a network that goes on: at most 100e3 bytes, accuracy >= 0.97")
    least: Literal["bytes", "multiply_adds", "milliseconds"] = structure(
        "bytes", "of the networks that are good enough, the one with the least of this goes on"
    )
    name: str = structure("", "what it is called; its keyword in Pipeline(...)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _gate_problems(self.gate)
        try:
            yield from self.compression("run").problems()
        except UserError as error:
            yield from (("methods", problem) for problem in error.problems)

    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def compression(self, run: str) -> Compression:
        """What is done with the run that came of the earlier stage."""
        return Compression(run=run, methods=self.methods, budget=self.budget, split=self.split, name=self.name)


@config
class Export(Stage):
    """What came of an earlier stage in the forms that others take, proven to be what was evaluated."""

    of: str = structure("", "the name of the stage whose result is exported")
    gate: str = structure("", "what has to hold of what is exported: at most 1e6 bytes")
    name: str = structure("", "what it is called; its keyword in Pipeline(...)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _gate_problems(self.gate)

    def needs(self) -> tuple[str, ...]:
        return (self.of,)


def changed(work: Any, change: Change) -> Any:
    """The experiment or sweep with a change. Raises UserError for a field that is not there, or a wrong value."""
    for path, value in zip(change.paths, change.values, strict=True):
        work = override(work, path, value)
    return validate(work)


def _gate_problems(gate: str) -> Iterator[tuple[str, str]]:
    try:
        read_gate(gate)
    except UserError as error:
        yield from (("gate", problem) for problem in error.problems)


@config
class Pipeline:
    """Stages from data to what is deployed: Pipeline(pretrain=Train(...), finetune=Train(...), ...)."""

    stages: tuple[Stage, ...] = structure((), "the stages, each with its name")
    name: str = edge("", "what the pipeline is called; the config file's name if empty")

    def __init__(self, stages: tuple[Stage, ...] = (), name: str = "", **named: Stage):
        wrong = {key: type(stage).__name__ for key, stage in named.items() if not isinstance(stage, Stage)}
        if wrong:
            raise UserError(*(f"stages: {key} is {kind}; say {key}=Train({kind}(...))" for key, kind in wrong.items()))
        renamed = (dataclasses.replace(stage, name=key) for key, stage in named.items())
        object.__setattr__(self, "stages", (*stages, *renamed))
        object.__setattr__(self, "name", name)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.stages:
            yield "stages", "there are none; say Pipeline(pretrain=Train(...), ...)"
        names: list[str] = []
        for number, stage in enumerate(self.stages):
            where = f"stages.{number}"
            if not stage.name.isidentifier():
                yield f"{where}.name", f"'{stage.name}' is no name of a stage; letters, digits and _ make one"
            elif stage.name in names:
                yield f"{where}.name", f"there is a stage '{stage.name}' already"
            try:
                needed = stage.needs()
            except UserError:  # of its own, and told there
                needed = ()
            for other in needed:
                if other not in names:
                    yield where, f"no stage '{other}' comes before it{did_you_mean(other, names)}"
            names.append(stage.name)


def results_in(tree: Any) -> Iterator[Result]:
    """The `Result`s in a config."""
    if isinstance(tree, Result):
        yield tree
    elif isinstance(tree, tuple):
        for item in tree:
            yield from results_in(item)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from results_in(getattr(tree, field.name))


def resolved(tree: Any, sources: dict[str, Source]) -> Any:
    """The config with the sources of stages in the place of their `Result`s."""
    if isinstance(tree, Result):
        return sources[tree.stage]
    if isinstance(tree, tuple):
        return tuple(resolved(item, sources) for item in tree)
    if next(results_in(tree), None) is None:
        return tree
    fields = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    return dataclasses.replace(tree, **{name: resolved(value, sources) for name, value in fields.items()})


def gate_of(stage: Stage) -> tuple[Condition, ...]:
    """The conditions of a stage's gate; a budget of accuracy is one of them."""
    if isinstance(stage, Compress):
        return (*read_gate(stage.gate), Condition("lost", "<=", stage.budget, None))
    return read_gate(stage.gate)
