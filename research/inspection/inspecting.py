"""Depth, parameters and cost of a function of (parameters, inputs), read off its trace without allocating a number.

    inspection = inspect(apply, parameters, inputs)      # arrays, or jax.ShapeDtypeStruct in their place
    print(inspection)                                    # a table of its layers, and what they come to
    inspection.depth.longest                             # contractions with a parameter from input to output
    inspection.layer("block_03/dense_0").forward.multiply_adds

`apply` may be any pure function: nothing about it is declared. A Flax module takes one call as well:

    inspect_module(module, inputs, train=False)
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from research.errors import UserError, did_you_mean
from research.inspection.costs import Cost, Costs, costs, layer_of, prefixes
from research.inspection.flow import follow
from research.inspection.layers import Layer, block_of, rows_of_layers
from research.inspection.memory import Kept, bytes_of, kept
from research.inspection.program import widest
from research.models.base import unboxed


class Depth(NamedTuple):
    """How deep a network is, in contractions with a parameter on a path from an input to an output."""

    longest: int
    shortest: int
    paths: dict[int, int]
    """{length: how many paths}"""
    with_norms: int
    """Contractions and norms on the path with the most of both."""
    blocks: int
    """Numbered layers that hold layers."""
    operations: int
    """On the longest chain of operations that wait for one another; what only moves numbers is not one."""

    def mean(self) -> float:
        """The mean length of a path."""
        return sum(length * count for length, count in self.paths.items()) / max(sum(self.paths.values()), 1)


class Memory(NamedTuple):
    """Bytes of what a step of training holds."""

    parameters: int
    frozen: int
    """Of the parameters' bytes, those that are not trained."""
    gradients: int
    optimizer: int
    activations: int
    """Kept for the backward pass, if what is cheap is computed again: what a compiler keeps at least."""
    residuals: int
    """What differentiation asks to keep (`jax.vjp`), before a compiler looks at it."""

    @property
    def total(self) -> int:
        """Parameters, gradients, optimizer state and activations."""
        return self.parameters + self.gradients + self.optimizer + self.activations


class Inspection(NamedTuple):
    """What is known of a network before a step of it is run. Costs and activations are those of the whole batch."""

    name: str
    batch: int
    layers: tuple[Layer, ...]
    depth: Depth
    field: tuple[int, ...] | None
    memory: Memory
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(layer.trainable for layer in self.layers)

    @property
    def forward(self) -> Cost:
        """The cost of a forward pass."""
        return sum((layer.forward for layer in self.layers), Cost())

    @property
    def backward(self) -> Cost:
        """The cost of the backward pass: the gradient with respect to what is trained, no more."""
        return sum((layer.backward for layer in self.layers), Cost())

    def layer(self, path: str) -> Layer:
        """The layer at a path. KeyError if there is none."""
        for layer in self.layers:
            if layer.path == path:
                return layer
        raise KeyError(path)

    def by(self, attribute: str) -> dict[Any, list[Layer]]:
        """The layers by their kind or depth."""
        groups: dict[Any, list[Layer]] = {}
        for layer in self.layers:
            groups.setdefault(getattr(layer, attribute), []).append(layer)
        return groups

    def __str__(self) -> str:
        from research.inspection.tables import as_text

        return as_text(self)


# ---------------------------------------------------------------------------------------------------------------------
# Looking


def inspect_module(module: Any, inputs: Any, *, name: str = "", **arguments: Any) -> Inspection:
    """The inspection of a Flax module, or of anything with its `init` and `apply`, on inputs or their shapes.

    arguments: what else its `__call__` is given, such as `train=False`. Its state (running averages) is no parameter.
    """
    init = lambda inputs: unboxed(module.init(jax.random.key(0), inputs, **arguments))  # noqa: E731
    variables = dict(_traced(lambda: jax.eval_shape(init, as_shapes(inputs)), module, inputs))
    parameters = variables.pop("params", {})

    def apply(parameters, inputs, state):
        """What it does to its state goes nowhere, and so costs nothing."""
        variables, key = {"params": parameters, **state}, jax.random.key(0)
        return module.apply(variables, inputs, **arguments, rngs=key, mutable=list(state))[0]

    return inspect(apply, parameters, inputs, constants=(variables,), name=name or type(module).__name__)


def inspect(
    function: Callable[..., Any],
    parameters: Any,
    inputs: Any,
    *,
    constants: Sequence[Any] = (),
    loss: Callable[..., Any] | None = None,
    frozen: Collection[str] = (),
    stacks: Mapping[str, int | range] | None = None,
    optimizer_bytes: Mapping[str, int] | None = None,
    padding: bool = True,
    name: str = "",
) -> Inspection:
    """The inspection of `function(parameters, inputs, *constants)`.

    parameters, inputs, constants: trees of arrays, or of anything with a shape and a dtype in their place; the first
        axis of the inputs is the batch.
    loss: `loss(parameters, inputs, *constants)`, what training takes the gradient of; the outputs' if None.
    frozen: the paths of parameters that are not trained; those that are no floating-point numbers never are.
    stacks: which layers hold several equal blocks stacked, as `parameters.views` wants it: they get rows of their own.
    optimizer_bytes: the bytes of optimizer state for each trained parameter, by path.
    padding: whether products with padding count, as they do in the literature.

    Raises UserError for a function that cannot be traced on these shapes, for what is frozen and not there, and for
    parameters of the same path.
    """
    name = name or getattr(function, "__name__", type(function).__name__)
    given = _given(as_shapes(parameters), as_shapes(inputs), as_shapes(tuple(constants)), frozen, name)
    names = dict(enumerate(given.names))
    program = given.trace(function)
    count = len(given.names)
    flow = follow(program, names, range(count, count + len(jax.tree.leaves(given.inputs))))
    forward = costs(program, names, layers=given.layers, padding=padding)
    backward = _backward(given, function, loss, program, forward, padding)
    by_path, optimizer_bytes = given.by_path, optimizer_bytes or {}
    read = widest(program.jaxpr, prefixes(given.layers))
    rows = rows_of_layers(
        by_path, flow, read, forward, backward.costs, backward.activations, given.frozen, stacks or {}, optimizer_bytes
    )
    total = sum(map(bytes_of, by_path.values()))
    gradients = sum(bytes_of(by_path[path]) for path in given.trained)
    return Inspection(
        name=name,
        batch=next((leaf.shape[0] for leaf in jax.tree.leaves(given.inputs) if leaf.shape), 1),
        layers=tuple(rows),
        depth=Depth(
            longest=max(flow.paths, default=0),
            shortest=min(flow.paths, default=0),
            paths=flow.paths,
            with_norms=flow.with_norms,
            blocks=len({block for row in rows if row.parameters and (block := block_of(row.path))}),
            operations=flow.operations,
        ),
        field=flow.field and flow.field.size(),
        memory=Memory(
            parameters=total,
            frozen=total - gradients,
            gradients=gradients,
            optimizer=sum(optimizer_bytes.values()),
            activations=sum(array.bytes for array in backward.activations),
            residuals=backward.residuals,
        ),
        notes=tuple(dict.fromkeys((*flow.notes, *forward.notes, *backward.costs.notes))),
    )


class _Given(NamedTuple):
    """What a function is looked at with: shapes, and the parameters by path."""

    name: str
    by_path: dict[str, Any]
    tree: Any
    """The structure of the parameters, whose leaves are those of `by_path` in order."""
    trained: list[str]
    frozen: list[str]
    inputs: Any
    constants: tuple[Any, ...]

    @property
    def names(self) -> list[str]:
        """The paths of the parameters as the traced programs have them for operands."""
        return [*sorted(self.trained), *sorted(self.frozen)]

    @property
    def layers(self) -> list[str]:
        """The layers of the parameters."""
        return list(map(layer_of, self.by_path))

    def on_paths(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function of (trained, frozen, inputs, constants), with parameters by path."""

        def call(trained, frozen, inputs, constants):
            values = {**trained, **frozen}
            return function(jax.tree.unflatten(self.tree, [values[path] for path in self.by_path]), inputs, *constants)

        return call

    def trace(self, function: Callable[..., Any], how: Callable = lambda function: function) -> ClosedJaxpr:
        """The program of a function of (parameters, inputs, *constants), or of what `how` makes of that by path."""
        parts = ({path: self.by_path[path] for path in paths} for paths in (self.trained, self.frozen))
        traced = how(self.on_paths(function))
        return _traced(lambda: jax.make_jaxpr(traced)(*parts, self.inputs, self.constants), self.name, self.inputs)


def _given(parameters: Any, inputs: Any, constants: tuple[Any, ...], frozen: Collection[str], name: str) -> _Given:
    """Raises UserError for what is frozen and not there, and for parameters of the same path."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(parameters)
    by_path = {_path(keys): leaf for keys, leaf in leaves}
    if len(by_path) < len(leaves):
        twice = next(path for path, count in Counter(_path(keys) for keys, _ in leaves).items() if count > 1)
        raise UserError(f"{len(leaves) - len(by_path) + 1} parameters are called '{twice}'")
    if unknown := [path for path in frozen if path not in by_path]:
        raise UserError(*(f"frozen: no parameter '{path}'{did_you_mean(path, by_path)}" for path in unknown))
    trained = {path: leaf for path, leaf in by_path.items() if path not in frozen and _is_floating(leaf)}
    return _Given(name, by_path, tree, list(trained), [p for p in by_path if p not in trained], inputs, constants)


class _Backward(NamedTuple):
    """What training needs beyond the forward pass."""

    costs: Costs
    activations: Sequence[Kept] = ()
    residuals: int = 0


def _backward(given: _Given, function, loss, program: ClosedJaxpr, forward: Costs, padding: bool) -> _Backward:
    """The gradient of the loss, or of the outputs without one, with respect to what is trained: its cost beyond that of
    the values, and what is kept for it. Where there is no gradient, a note says why."""
    if not given.trained:
        return _Backward(Costs({}, ()))
    values = given.trace(loss) if loss else program
    if not any(map(_is_floating, values.out_avals)):
        return _Backward(Costs({}, ("nothing that comes out is a floating-point number: there is no backward pass",)))
    try:
        both = given.trace(loss or function, _values_gradient_residuals)
    except UserError as error:
        if loss:
            raise
        reason = str(error.__cause__).strip().splitlines()[0]
        return _Backward(Costs({}, (f"no gradient can be taken, and no backward pass is counted: {reason}",)))
    names = dict(enumerate(given.names))
    plain = costs(values, names, layers=given.layers, padding=padding) if loss else forward
    goals = [None] * len(values.out_avals) + sorted(given.trained)
    whole = costs(both, names, layers=given.layers, goals=goals, padding=padding)
    beyond, notes = _difference(whole.by_layer, plain.by_layer), whole.notes
    if any(cost.multiply_adds < 0 for cost in beyond.values()):
        notes += (
            "training computes once what each turn of a loop repeats in evaluation: less than nothing is backward's",
        )
    asked = range(len(goals), len(both.jaxpr.outvars))
    activations = kept(both, asked, prefixes(given.layers))
    return _Backward(Costs(beyond, notes), activations, sum(map(bytes_of, _computed(both, asked))))


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def as_shapes(tree: Any) -> Any:
    """A tree of shapes and dtypes in the place of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def _traced(trace: Callable[[], Any], what: Any, inputs: Any) -> Any:
    try:
        return trace()
    except UserError:
        raise
    except Exception as error:  # whatever a user's function may raise
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(as_shapes(inputs)))
        name = what if isinstance(what, str) else type(what).__name__
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{name} cannot be traced on inputs {shapes}: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from error


def _path(keys: Sequence[Any]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys)


def _values_gradient_residuals(function):
    """(values, gradient with respect to the first argument, what is kept from the forward for the backward pass).

    The gradient is that of all floating-point numbers among the values.
    """

    def split(outputs):
        leaves = jax.tree.leaves(outputs)
        floating = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
        return [x for x, yes in zip(leaves, floating, strict=True) if yes], [
            x for x, yes in zip(leaves, floating, strict=True) if not yes
        ]

    def call(trained, *others):
        values, pull_back, rest = jax.vjp(lambda trained: split(function(trained, *others)), trained, has_aux=True)
        return (values, rest), pull_back([jnp.ones_like(x) for x in values])[0], jax.tree.leaves(pull_back)

    return call


def _computed(program: ClosedJaxpr, results: Iterable[int]) -> list[Any]:
    """Those of a program's results that are no arguments and no constants, each once."""
    arguments = {*program.jaxpr.invars, *program.jaxpr.constvars}
    variables = (program.jaxpr.outvars[i] for i in results)
    return [v.aval for v in dict.fromkeys(v for v in variables if isinstance(v, Var)) if v not in arguments]


def _difference(a: Mapping[str, Cost], b: Mapping[str, Cost]) -> dict[str, Cost]:
    return {layer: a.get(layer, Cost()) - b.get(layer, Cost()) for layer in dict.fromkeys((*a, *b))}
