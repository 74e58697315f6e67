"""Models or layers side by side: what each has, what it costs, and how long it takes.

    compare([Subject(name="dense", layer=nn.Dense(64)), Subject(name="3x3", layer=nn.Conv(64, (3, 3)))], (32, 32, 64))

A subject's layer is a model's config, a Flax module, or a pure function (parameters, inputs) whose parameters are told
by name and shape. Whatever it is, its figures are read off its trace, and only what is timed is ever computed.
"""

import inspect as signatures
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from research.config import config, edge, structure
from research.errors import UserError
from research.inspection.inspecting import Inspection, inspect
from research.models.base import AnyModel, Model, network
from research.spec import Spec

TERMS_SHOWN = 5
"""Of a formula with more terms equal ones are put together; if more are left, the sum alone is told."""


@config
class Subject:
    """A model or a layer that is compared. What is not said here is what the comparison says for all."""

    layer: AnyModel | Callable[..., Any] = structure(
        doc="a model's config, a Flax module, or a function (parameters, inputs)"
    )
    name: str = edge("", "what it is called; its kind if empty")
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = structure(
        (), "of a function: the name and shape of each, as (('kernel', (3, 3, 64, 64)), ('bias', (64,)))"
    )
    inputs: tuple[int, ...] | None = structure(None, "shape of one example, without the batch")
    classes: int | None = structure(None, "logits of a model; a layer has none", within="[1, inf)")
    tokens: int | None = structure(None, "how many there are, if inputs are tokens", within="[1, inf)")
    timed: bool = structure(True, "whether it is small enough to be run")

    def __str__(self) -> str:
        """What it is called."""
        kind = self.layer if hasattr(self.layer, "__name__") else type(self.layer)
        return self.name or kind.__name__


class Time(NamedTuple):
    """Seconds of a call: the median of several, and the quartiles below and above it."""

    median: float
    low: float
    high: float


class Compared(NamedTuple):
    """A subject with its inspection, which is that of one example, and its time for a batch, if it was timed."""

    name: str
    inspection: Inspection
    formula: str
    """Its parameters as they follow from the sizes: "3*3*64*64 + 64"; "" if that is too long to be told."""
    time: Time | None = None

    def figures(self) -> dict[str, Any]:
        """All that is known, as plain data: counts, bytes, and costs in multiply-adds and FLOPs of one example."""
        found = self.inspection
        return {
            "name": self.name,
            "parameters": found.parameters,
            "formula": self.formula,
            "bytes": found.memory.parameters,
            "depth": found.depth.longest,
            "receptive_field": found.field and list(found.field),
            "multiply_adds": found.forward.multiply_adds,
            "flops": found.forward.flops,
            "backward_flops": found.backward.flops,
            "bytes_moved": found.forward.moved,
            "activation_bytes": found.memory.activations,
            "seconds": self.time and self.time._asdict(),
            "notes": list(found.notes),
        }


def compare(
    subjects: Sequence[Subject],
    inputs: Sequence[int] = (),
    *,
    classes: int | None = None,
    tokens: int | None = None,
    batch: int = 8,
    rounds: int = 0,
) -> list[Compared]:
    """Inspects each subject on one example, and times it on a batch if there are rounds.

    inputs, classes, tokens: for the subjects that say nothing else.
    rounds: how often each is called, all taking turns; 0 leaves time out.
    Raises UserError for a subject that cannot be traced on its inputs.
    """
    programs = [_program(subject, tuple(inputs), classes, tokens) for subject in subjects]
    found = [_inspected(subject, program) for subject, program in zip(subjects, programs, strict=True)]
    if rounds:
        timed = [i for i, subject in enumerate(subjects) if subject.timed]
        taken = times([_call(programs[i], batch) for i in timed], rounds)
        for i, seconds in zip(timed, taken, strict=True):
            found[i] = found[i]._replace(time=seconds)
    return found


def times(calls: Sequence[Callable[[], Any]], rounds: int) -> list[Time]:
    """The seconds of each call. All take turns, so that what else the machine does befalls all alike."""
    for call in calls:
        jax.block_until_ready(call())  # compile
    taken = [[_seconds(call) for call in calls] for _ in range(rounds)]
    return [_time(own) for own in zip(*taken, strict=True)]


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def _time(seconds: Sequence[float]) -> Time:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return Time(median, low, high)


# ---------------------------------------------------------------------------------------------------------------------
# Whatever it is, as functions


class _Program(NamedTuple):
    init: Callable[[Array], tuple[Any, Any]]
    """key -> parameters, and what else it is applied to"""
    apply: Callable[[Any, Any, Any], Any]
    """parameters, inputs, what else -> outputs"""
    shape: tuple[int, ...]
    tokens: int | None
    stacks: Mapping[str, int | range]

    def inputs(self, batch: int) -> jax.ShapeDtypeStruct:
        dtype = jnp.float32 if self.tokens is None else jnp.int32
        return jax.ShapeDtypeStruct((batch, *self.shape), dtype)


def _program(subject: Subject, inputs: tuple[int, ...], classes: int | None, tokens: int | None) -> _Program:
    name, layer = str(subject), subject.layer
    shape = inputs if subject.inputs is None else subject.inputs
    tokens = tokens if subject.tokens is None else subject.tokens
    if not shape:
        raise UserError(f"{name}: which shape has an example? say inputs=(height, width, features)")
    if isinstance(layer, Model) or subject.classes is not None:
        classes = classes if subject.classes is None else subject.classes
        if classes is None:
            raise UserError(
                f"{name}: how many classes is it to tell apart? say Subject(classes=10), or Comparison(classes=10)"
            )
        return _of_network(layer, Spec(shape, classes, (), tokens), shape, tokens)
    if isinstance(layer, type):
        raise UserError(f"{name}: {layer.__name__} is a class; give an instance, {layer.__name__}(...)")
    if hasattr(layer, "init") and hasattr(layer, "apply"):
        return _of_module(layer, shape, tokens)
    if not callable(layer):
        raise UserError(f"{name}: {layer!r} is no model's config, Flax module or function")
    return _of_function(layer, dict(subject.parameters), shape, tokens)


def _of_network(model: AnyModel, spec: Spec, shape: tuple[int, ...], tokens: int | None) -> _Program:
    net = network(model, spec)

    def init(key):
        state = dict(net.init(key))
        return state.pop("params"), state

    def apply(parameters, inputs, state):
        return net.apply({"params": parameters, **state}, inputs, train=False)[0]

    return _Program(init, apply, shape, tokens, net.stacks)


def _of_module(module: Any, shape: tuple[int, ...], tokens: int | None) -> _Program:
    accepted = signatures.signature(type(module).__call__).parameters
    modes = {"train": False, "deterministic": True}
    mode = next(({name: value} for name, value in modes.items() if name in accepted), {})

    def init(key):
        zeros = jnp.zeros((1, *shape), jnp.float32 if tokens is None else jnp.int32)
        state = dict(module.init(key, zeros, **mode))
        return state.pop("params", {}), state

    def apply(parameters, inputs, state):
        return module.apply({"params": parameters, **state}, inputs, **mode)

    return _Program(init, apply, shape, tokens, {})


def _of_function(function: Callable, parameters: dict[str, tuple[int, ...]], shape, tokens) -> _Program:
    def init(key):
        keys = jax.random.split(key, max(len(parameters), 1))
        scaled = {
            name: jax.random.normal(own, size) / math.sqrt(max(math.prod(size[:-1]), 1))
            for own, (name, size) in zip(keys, parameters.items(), strict=False)
        }
        return scaled, {}

    return _Program(init, lambda parameters, inputs, _: function(parameters, inputs), shape, tokens, {})


# ---------------------------------------------------------------------------------------------------------------------
# Looking, and running


def _inspected(subject: Subject, program: _Program) -> Compared:
    name = str(subject)
    try:
        parameters, state = jax.eval_shape(program.init, jax.random.key(0))
    except UserError as error:
        raise UserError(*(f"{name}: {problem}" for problem in error.problems)) from error
    except Exception as error:  # whatever a user's layer may raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{name} cannot be made for inputs {program.shape}: {type(error).__name__}: {reason}"
        ) from error
    found = inspect(program.apply, parameters, program.inputs(1), constants=(state,), stacks=program.stacks, name=name)
    return Compared(name, found, formula(found))


def formula(inspection: Inspection) -> str:
    """The number of parameters as it follows from the sizes of all layers; where it is long, equal terms together."""
    every = [term for layer in inspection.layers if layer.formula for term in layer.formula.split(" + ")]
    if len(every) <= TERMS_SHOWN:
        return " + ".join(every)
    terms = Counter(every)
    if len(terms) > TERMS_SHOWN:
        return ""
    return " + ".join(term if count == 1 else f"{count}({term})" for term, count in terms.items())


def _call(program: _Program, batch: int) -> Callable[[], Any]:
    """A call of the jitted program on random inputs; the first one compiles."""
    keys = jax.random.split(jax.random.key(0), 2)
    parameters, state = jax.jit(program.init)(keys[0])
    shape = program.inputs(batch)
    if program.tokens is None:
        inputs = jax.random.normal(keys[1], shape.shape)
    else:
        inputs = jax.random.randint(keys[1], shape.shape, 0, program.tokens)
    run = jax.jit(program.apply)
    return lambda: run(parameters, inputs, state)
