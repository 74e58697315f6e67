"""Depth, parameters and cost of a function of (parameters, inputs), read off its trace without allocating a number.

    inspection = inspect(apply, parameters, inputs)      # arrays, or jax.ShapeDtypeStruct in their place
    print(inspection)                                    # a table of its layers, and what they come to
    inspection.depth.longest                             # contractions with a parameter from input to output
    inspection.layer("block_03/dense_0").forward.multiply_adds

`apply` may be any pure function: nothing about it is declared. A Flax module takes one call as well:

    inspect_module(module, inputs, train=False)
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from research.errors import UserError, did_you_mean
from research.inspection.costs import Cost, Costs, costs, layer_of
from research.inspection.flow import Flow, Node, Parameter, Use, follow
from research.inspection.memory import bytes_of, kept
from research.parameters.paths import views


class Layer(NamedTuple):
    """A layer: what has parameters of its own, or computes something in a name scope of its own."""

    path: str
    kind: str
    """dense, convolution, depthwise, attention, embedding, recurrent, norm, scale, bias, head; without parameters,
    "products" of data with data, or "elementwise"; "unused" if data does not meet the parameters, else "other"."""
    input: tuple[int, ...] | None
    """The shape of an example as it comes in, without the batch."""
    output: tuple[int, ...] | None
    weights: int
    biases: int
    formula: str
    """The number of parameters as it follows from the sizes of the layer: "3*3*16*32 + 32"."""
    bytes: int
    trainable: int
    """How many of the parameters are trained."""
    depth: int
    """Contractions on the longest path from the input to here, this one included."""
    field: tuple[int, ...] | None
    """Positions of the input that an output in the midst hangs on, along each axis."""
    forward: Cost
    backward: Cost
    optimizer_bytes: int
    activation_bytes: int
    """Of what is kept of its outputs for the backward pass."""

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases


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
    from flax.core import meta

    init = lambda inputs: meta.unbox(module.init(jax.random.key(0), inputs, **arguments))  # noqa: E731
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
    parameters, inputs, constants = as_shapes(parameters), as_shapes(inputs), as_shapes(tuple(constants))
    leaves, tree = jax.tree_util.tree_flatten_with_path(parameters)
    by_path = {_path(keys): leaf for keys, leaf in leaves}
    if len(by_path) < len(leaves):
        twice = next(path for path, count in Counter(_path(keys) for keys, _ in leaves).items() if count > 1)
        raise UserError(f"{len(leaves) - len(by_path) + 1} parameters are called '{twice}'")
    if unknown := [path for path in frozen if path not in by_path]:
        raise UserError(*(f"frozen: no parameter '{path}'{did_you_mean(path, by_path)}" for path in unknown))
    name = name or getattr(function, "__name__", type(function).__name__)
    batch = next((leaf.shape[0] for leaf in jax.tree.leaves(inputs) if leaf.shape), 1)
    trained = [p for p, leaf in by_path.items() if p not in frozen and jnp.issubdtype(leaf.dtype, jnp.inexact)]
    frozen = by_path.keys() - set(trained)

    def on_paths(function):
        """The same function of (trained, frozen, inputs, constants), with parameters by path."""

        def call(trained, frozen, inputs, constants):
            given = {**trained, **frozen}
            return function(jax.tree.unflatten(tree, [given[path] for path in by_path]), inputs, *constants)

        return call

    arguments = ({p: by_path[p] for p in trained}, {p: by_path[p] for p in frozen}, inputs, constants)
    names = [*sorted(trained), *sorted(frozen)]
    layers = _scopes(by_path)

    def trace(function):
        return _traced(lambda: jax.make_jaxpr(function)(*arguments), name, inputs)

    program = trace(on_paths(function))
    flow = follow(program, dict(enumerate(names)), range(len(names), len(names) + len(jax.tree.leaves(inputs))))
    forward = costs(program, dict(enumerate(names)), layers=layers, padding=padding)

    backward, activations, residuals = Costs({}, ()), [], 0
    differentiated = trace(on_paths(loss)) if loss and trained else program
    both = None
    if trained and not any(jnp.issubdtype(array.dtype, jnp.inexact) for array in differentiated.out_avals):
        backward = Costs({}, ("nothing that comes out is a floating-point number: there is no backward pass",))
    elif trained:
        try:
            both = trace(_values_gradient_residuals(on_paths(loss or function)))
        except UserError as error:
            if loss:
                raise
            reason = str(error.__cause__).strip().splitlines()[0]
            backward = Costs({}, (f"no gradient can be taken, and no backward pass is counted: {reason}",))
    if both is not None:
        plain = costs(differentiated, dict(enumerate(names)), layers=layers, padding=padding) if loss else forward
        goals = [None] * len(differentiated.out_avals) + sorted(trained)
        whole = costs(both, dict(enumerate(names)), layers=layers, goals=goals, padding=padding)
        backward = Costs(_difference(whole.by_layer, plain.by_layer), whole.notes)
        if any(cost.multiply_adds < 0 for cost in backward.by_layer.values()):
            note = (
                "training computes once what each turn of a loop repeats in evaluation: less than nothing is backward's"
            )
            backward = backward._replace(notes=(*backward.notes, note))
        asked = range(len(goals), len(both.jaxpr.outvars))
        activations = kept(both, asked, _prefixes(layers))
        residuals = sum(map(bytes_of, _computed(both, asked)))
    rows = _layers(by_path, flow, forward, backward, activations, set(frozen), stacks or {}, optimizer_bytes or {})
    total = sum(map(bytes_of, by_path.values()))
    gradients = sum(bytes_of(by_path[path]) for path in trained)
    return Inspection(
        name=name,
        batch=batch,
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
            optimizer=sum((optimizer_bytes or {}).values()),
            activations=sum(array.bytes for array in activations),
            residuals=residuals,
        ),
        notes=tuple(dict.fromkeys((*flow.notes, *forward.notes, *backward.notes))),
    )


def as_shapes(tree: Any) -> Any:
    """A tree of shapes and dtypes in the place of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def block_of(path: str) -> str | None:
    """The innermost numbered layer around a layer, "stage_0/block_1" of "stage_0/block_1/norm_0", if there is one."""
    around = path.rpartition("/")[0]
    while around and not re.search(r"(\d+|\[\d+\])$", around):
        around = around.rpartition("/")[0]
    return around or None


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


def _scopes(paths: Collection[str]) -> list[str]:
    return [layer_of(path) for path in paths]


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


def _prefixes(layers: Collection[str]) -> set[str]:
    parts = [layer.split("/") for layer in layers]
    return {"/".join(names[:end]) for names in parts for end in range(1, len(names) + 1)}


def _difference(a: Mapping[str, Cost], b: Mapping[str, Cost]) -> dict[str, Cost]:
    return {layer: a.get(layer, Cost()) - b.get(layer, Cost()) for layer in dict.fromkeys((*a, *b))}


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def _layers(by_path, flow: Flow, forward: Costs, backward: Costs, activations, frozen, stacks, optimizer_bytes):
    """A row for each layer, in the order in which data meets them, then those that data does not meet."""
    flow = _settled(flow, by_path, {view.leaf for view in views(by_path, stacks).values() if view.index is not None})
    names = _Names(by_path, flow, stacks)
    members: dict[str, list[Parameter]] = {}
    for parameter in names.parameters:
        members.setdefault(layer_of(names.path(parameter)), []).append(parameter)
    kept_by: dict[str, int] = {}
    for array in activations:
        kept_by[array.layer] = kept_by.get(array.layer, 0) + array.bytes
    ahead, back = names.spread(forward.by_layer), names.spread(backward.by_layer)
    keeps = names.spread({layer: Cost(moved=count) for layer, count in kept_by.items()})

    rows = {path: _layer(path, own, by_path, flow, frozen, optimizer_bytes, names) for path, own in members.items()}
    for path in dict.fromkeys((*ahead, *back, *keeps)):
        if path not in rows:
            products = ahead.get(path, Cost()).multiply_adds or back.get(path, Cost()).multiply_adds
            kind = "products" if products else "elementwise"
            empty = Layer(path, kind, None, None, 0, 0, "", 0, 0, 0, None, Cost(), Cost(), 0, 0)
            rows = _inserted(rows, path, empty)
    return [
        row._replace(
            forward=ahead.get(path, Cost()),
            backward=back.get(path, Cost()),
            activation_bytes=keeps.get(path, Cost()).moved,
        )
        for path, row in rows.items()
    ]


def _settled(flow: Flow, by_path: Mapping[str, Any], stacked: Collection[str]) -> Flow:
    """With slices told apart of those parameters alone that loops take slice by slice along their first axis.

    Others were cut or turned before; of these it is not known which slice was which, and a use is that of them all.
    """
    met: dict[str, set[int]] = {}
    for parameter in flow.order:
        if parameter.index is not None:
            met.setdefault(parameter.path, set()).add(parameter.index)

    def settle(parameters: Iterable[Parameter]) -> dict[Parameter, None]:
        found: dict[Parameter, None] = {}
        for parameter in parameters:
            path, shape = parameter.path, by_path[parameter.path].shape
            if path in met and met[path] == set(range(shape[0])):
                found[parameter] = None
            else:
                blocks = range(shape[0]) if path in stacked else [None]
                found |= dict.fromkeys(Parameter(path, block) for block in blocks)
        return found

    uses: dict[Parameter, list[Use]] = {}
    for parameter, several in flow.uses.items():
        for one in settle([parameter]):
            uses.setdefault(one, []).extend(several)
    nodes = [node._replace(parameters=frozenset(settle(node.parameters))) for node in flow.nodes]
    return flow._replace(nodes=nodes, uses=uses, order=list(settle(flow.order)))


class _Names:
    """The paths of parameters and layers, of which stacked ones have one for each of their blocks."""

    def __init__(self, by_path: Mapping[str, Any], flow: Flow, stacks: Mapping[str, int | range]):
        self.views = {(view.leaf, view.index): path for path, view in views(by_path, stacks).items()}
        self.stacks = {name: blocks if isinstance(blocks, range) else range(blocks) for name, blocks in stacks.items()}
        sliced = {parameter.path for parameter in flow.order if parameter.index is not None}
        met = dict.fromkeys(p for p in flow.order if p.index is not None or p.path not in sliced)
        found = {p.path for p in met}
        for path, leaf in by_path.items():
            if path not in found:
                depth = leaf.shape[0] if (path, 0) in self.views else None
                met |= dict.fromkeys(Parameter(path, i) for i in ([None] if depth is None else range(depth)))
        self.parameters = list(met)
        self.sliced: dict[str, int] = {}
        """Layers that a loop slices without being told as stacks, and into how many."""
        for path in sliced:
            if (path, 0) not in self.views:
                self.sliced[layer_of(path)] = by_path[path].shape[0]

    def path(self, parameter: Parameter) -> str:
        """The path of a parameter; of a slice that has no name, the layer's and its number: "dense[3]/kernel"."""
        if (name := self.views.get(parameter)) is not None or parameter.index is None:
            return name or parameter.path
        layer, slash, name = parameter.path.rpartition("/")
        return f"{layer}[{parameter.index}]/{name}" if slash else f"{name}[{parameter.index}]"

    def of_layer(self, layer: str) -> list[str]:
        """The layers that one stands for."""
        for stack, blocks in self.stacks.items():
            if layer == stack or layer.startswith(stack + "/"):
                digits = max(2, len(str(blocks.stop - 1)))
                return [f"{stack}_{block:0{digits}d}{layer.removeprefix(stack)}" for block in blocks]
        return [f"{layer}[{i}]" for i in range(self.sliced[layer])] if layer in self.sliced else [layer]

    def spread(self, by_layer: Mapping[str, Cost]) -> dict[str, Cost]:
        """What was counted for a layer, shared out among those it stands for; the first gets what is over."""
        found: dict[str, Cost] = {}
        for layer, cost in by_layer.items():
            first, *others = self.of_layer(layer)
            share = Cost(*(number // (1 + len(others)) for number in cost))
            found |= {first: cost - share * len(others)} | dict.fromkeys(others, share)
        return {layer: cost for layer, cost in found.items() if any(cost)}


def _inserted(rows: dict[str, Layer], path: str, row: Layer) -> dict[str, Layer]:
    """With a row before the first of the layers within it; at the end if there are none."""
    before = next((other for other in rows if path and other.startswith(path + "/")), None)
    new: dict[str, Layer] = {}
    for other, old in rows.items():
        if other == before:
            new[path] = row._replace(depth=old.depth)
        new[other] = old
    new.setdefault(path, row)
    return new


def _layer(path, own: list[Parameter], by_path, flow: Flow, frozen, optimizer_bytes, names: _Names) -> Layer:
    """The row of a layer with parameters, its costs still empty."""
    node_at = next((i for i, node in enumerate(flow.nodes) if node.parameters & set(own)), None)
    node = None if node_at is None else flow.nodes[node_at]
    uses = [(parameter, use) for parameter in own for use in flow.uses.get(parameter, ())]
    shapes = {p: by_path[p.path].shape[0 if p.index is None else 1 :] for p in own}
    sizes = {p: math.prod(shape) for p, shape in shapes.items()}
    are_biases = {p for p in own if _is_bias(p, flow)}
    has_positions = any(sum(size > 1 for size in shapes[p]) > 1 for p in own if p not in are_biases)
    kind = _kind(node_at, [use for _, use in uses], flow, has_positions)
    share = {p: 1 if p.index is None else by_path[p.path].shape[0] for p in own}
    before, after, depth, field = None, None, 0, None
    if node is not None and kind != "embedding":
        before, after, depth, field = node.input[1:], node.output[1:], node.depth, node.field
    elif uses:
        first, last = uses[0][1], uses[-1][1]
        before, after, depth, field = last.input[1:], last.output[1:], first.depth, last.field
        if first.kind == "embedding":
            before, after = first.input[1:-1], first.output[1:]  # look-ups of single numbers
    return Layer(
        path=path,
        kind=kind,
        input=before,
        output=after,
        weights=sum(size for p, size in sizes.items() if p not in are_biases),
        biases=sum(size for p, size in sizes.items() if p in are_biases),
        formula=_formula(None if kind == "embedding" else node, own, shapes, are_biases),
        bytes=sum(size * by_path[p.path].dtype.itemsize for p, size in sizes.items()),
        trainable=sum(size for p, size in sizes.items() if p.path not in frozen),
        depth=depth,
        field=field and field.size(),
        forward=Cost(),
        backward=Cost(),
        optimizer_bytes=sum(optimizer_bytes.get(p.path, 0) // share[p] for p in own),
        activation_bytes=0,
    )


def _is_bias(parameter: Parameter, flow: Flow) -> bool:
    """Whether a parameter is only ever added, as one number a feature."""
    uses = flow.uses.get(parameter, ())
    named = parameter.path.rpartition("/")[-1] in ("bias", "b", "beta")
    return bool(uses) and named and all(use.kind == "bias" for use in uses)


def _kind(node_at: int | None, uses: Sequence[Use], flow: Flow, has_positions: bool) -> str:
    kinds = {use.kind for use in uses}
    if "embedding" in kinds:
        return "embedding"  # also where it is the head as well
    if node_at is not None:
        if node_at in flow.attention:
            return "attention"
        return "head" if [node_at] == flow.last and flow.nodes[node_at].kind == "dense" else flow.nodes[node_at].kind
    for kind in ("norm", "scale", "other"):
        if kind in kinds:
            return kind
    if "bias" in kinds:
        whole = all(len(use.output) <= 2 or use.output[1:-1] != use.input[1:-1] for use in uses)
        return "embedding" if has_positions and not whole else "bias"
    return "unused"


def _formula(node: Node | None, own, shapes, are_biases) -> str:
    """The layer's size from the sizes that its contraction reads and makes; from its arrays' where these differ."""
    weights = [p for p in own if p not in are_biases]
    terms = ["*".join(map(str, shapes[p])) or "1" for p in [*weights, *(p for p in own if p in are_biases)]]
    if node is not None and len(weights) == 1 and math.prod(node.factors) == math.prod(shapes[weights[0]]):
        terms[0] = "*".join(map(str, node.factors))
    return " + ".join(terms)
