"""How numbers flow through a traced program from its inputs to its outputs: what depth is read off.

Every equation is looked at once in the order of computation, a loop's body once for each iteration, and of every array
it is kept what a path to it may have passed. A *node* is a contraction of data with a parameter: a dense layer, a
convolution, a projection of attention. Of the nodes that reach an array with no other node between, it is enough to
know the set; so the paths from input to output can be counted where there are more of them than atoms.

    flow = follow(program, {0: "dense_0/kernel", ...}, inputs=[2])
    max(flow.paths), min(flow.paths)        the longest path and the shortest, in nodes
    flow.paths                              {length: how many paths}
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from research.inspection.costs import CONTRACTIONS, MOVES, layer_of
from research.inspection.field import Field, field_of_result
from research.inspection.program import Branches, Loop, Once, called

ITERATIONS = 4096
"""Of a loop that are followed; a longer one is as deep as that."""
SETS_KNOWN = 256
"""Of the sets of nodes to which paths were counted last, so many are kept."""
LATEST = 16
"""Of the nodes of a set, without which it is remembered as well."""
INPUT = 1  # the first bit of a set of nodes
_KEEPS_SCALE = "mul div integer_pow rsqrt sqrt broadcast_in_dim reshape convert_element_type transpose squeeze copy"
KEEPS_SCALE = frozenset(_KEEPS_SCALE.split())


class Parameter(NamedTuple):
    """A parameter, or the one of its stacked blocks that a loop's iteration takes."""

    path: str
    index: int | None = None


class Value(NamedTuple):
    """What is known of an array."""

    nodes: int = 0
    """The nodes that reach it with no other between, and INPUT, as bits; none if it is not made of data."""
    parameters: frozenset[Parameter] = frozenset()
    """Those it is made of, while no data is in it."""
    operations: int = 0
    """On the longest chain from the inputs to it."""
    normed: int = 0
    """Nodes and norms on the path with the most of them."""
    field: Field | None = None
    """What of the inputs an element hangs on; None if nothing, or if it is not known."""
    carried: bool = False
    """Whether it hangs on what a loop hands from one iteration to the next."""
    scaled: bool = False
    """Whether it is a multiple of one over a root, as in a norm."""
    attends: bool = False
    """Whether it comes from a product of data with data, as in attention."""

    @property
    def is_data(self) -> bool:
        return self.nodes != 0


class Node(NamedTuple):
    """A contraction with a parameter."""

    parameters: frozenset[Parameter]
    kind: str
    """dense, convolution, depthwise, or recurrent"""
    factors: tuple[int, ...]
    """The sizes whose product is the number of weights it multiplies with: window, features read, features made."""
    input: tuple[int, ...]
    output: tuple[int, ...]
    lengths: dict[int, int]
    """{nodes on a path from the input to here, this one included: how many such paths}"""
    field: Field | None

    @property
    def depth(self) -> int:
        """Nodes on the longest path from the input to here, this one included."""
        return max(self.lengths)


class Use(NamedTuple):
    """How a parameter met data otherwise: looked up, multiplied, added, or normalised with."""

    kind: str
    """embedding, norm, scale, bias, or other"""
    input: tuple[int, ...]
    output: tuple[int, ...]
    depth: int
    """Nodes on the longest path from the input to here."""
    field: Field | None


class Flow(NamedTuple):
    """What `follow` finds."""

    nodes: list[Node]
    uses: dict[Parameter, list[Use]]
    """How parameters meet data other than in nodes."""
    order: list[Parameter]
    """The parameters, as data meets them first."""
    attention: set[int]
    """Nodes whose products are multiplied with one another, or that take up what comes of it."""
    paths: dict[int, int]
    """{nodes on a path: how many paths from the inputs to the outputs}; {0: 1} where there is no node."""
    last: list[int]
    """The nodes that reach the outputs with no other between."""
    operations: int
    """On the longest chain from inputs to outputs, of those that compute something."""
    with_norms: int
    """Contractions and norms on the path with the most of them."""
    field: Field | None
    notes: tuple[str, ...]


def follow(program: ClosedJaxpr, parameters: Mapping[int, str], inputs: Collection[int]) -> Flow:
    """Follows the data from the operands at `inputs` through a program to its results.

    parameters: which operands are parameters, {position: path}. What is neither is a constant.
    """
    walk = _Walk()
    operands = []
    for position, variable in enumerate(program.jaxpr.invars):
        if position in inputs:
            shape = variable.aval.shape
            operands.append(Value(nodes=INPUT, field=Field.of_input(shape)))
        else:
            path = parameters.get(position)
            operands.append(Value(parameters=frozenset([Parameter(path)] if path is not None else ())))
    results = walk.visit(program.jaxpr, operands)
    data = [value for value in results if value.is_data]
    reaching = walk.union(value.nodes for value in data)
    lengths = walk.lengths(reaching) if data else {}
    return Flow(
        nodes=walk.nodes,
        uses=dict(walk.uses),
        order=list(walk.order),
        attention=walk.attention,
        paths=dict(sorted(lengths.items())),
        last=[i for i in range(len(walk.nodes)) if reaching >> i + 1 & 1],
        operations=max((value.operations for value in data), default=0),
        with_norms=max((value.normed for value in data), default=0),
        field=data[0].field if data else None,
        notes=tuple(walk.notes),
    )


class _Walk:
    """Goes through a program, and remembers the nodes it meets."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.uses: dict[Parameter, list[Use]] = defaultdict(list)
        self.order: dict[Parameter, None] = {}
        self.attention: set[int] = set()
        self.notes: dict[str, None] = {}
        self._known: dict[int, dict[int, int]] = {}
        self._longer: dict[int, dict[int, int]] = {}

    def visit(self, body: Jaxpr, operands: Sequence[Value]) -> list[Value]:
        """The values of a body's results."""
        known = dict(zip(body.invars, operands, strict=True))

        def read(variable) -> Value:
            return _NOTHING if isinstance(variable, Literal) else known.get(variable, _NOTHING)

        for equation in body.eqns:
            known.update(
                zip(equation.outvars, self._equation(equation, [read(v) for v in equation.invars]), strict=True)
            )
        return [read(variable) for variable in body.outvars]

    def _equation(self, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
        inner = called(equation)
        if inner is None and not any(value.is_data for value in operands):
            made_of = frozenset().union(*(value.parameters for value in operands))
            scaled = equation.primitive.name in KEEPS_SCALE and any(v.scaled for v in operands)
            value = Value(parameters=made_of, scaled=scaled or equation.primitive.name in ("rsqrt", "sqrt"))
            return [value] * len(equation.outvars)
        match inner:
            case Once(body) as once:
                return self.visit(body, once.given(operands))
            case Branches((body,)):
                return self.visit(body, operands[1:])
            case Branches(bodies):
                each = [self.visit(body, operands[1:]) for body in bodies]
                return [self._joined(values) for values in zip(*each, strict=True)]
            case Loop() as loop:
                return self._loop(loop, operands[loop.skipped :])
        if equation.primitive.name == "optimization_barrier":  # several arrays, and each stays what it is
            return operands
        return [self._operation(equation, operands)] * len(equation.outvars)

    # --- loops

    def _loop(self, loop: Loop, operands: list[Value]) -> list[Value]:
        constants, carry = operands[: loop.constants], operands[loop.constants :][: loop.carried]
        sliced = operands[loop.constants + loop.carried :]
        if loop.length is None:
            self.notes["a `while` runs as long as the data tells: one iteration is followed"] = None
        length = 1 if loop.length is None else loop.length
        if length > ITERATIONS:
            self.notes[f"of a loop of {length} iterations {ITERATIONS} are followed: depth is at least this"] = None
        yielded: list[list[Value]] = []
        for iteration in range(min(length, ITERATIONS)):
            index = length - 1 - iteration if loop.reverse else iteration
            carry = [value._replace(carried=True) if value.is_data else value for value in carry]
            results = self.visit(loop.body, [*constants, *carry, *(self._slice(value, index) for value in sliced)])
            carry = results[: loop.carried]
            yielded.append(results[loop.carried :])
        stacks = zip(*yielded, strict=True) if yielded else [()] * (len(loop.body.outvars) - loop.carried)
        ended = [*carry, *(self._stacked(values) for values in stacks)]
        was_carried = any(value.carried for value in operands)
        return [value._replace(carried=was_carried and value.carried) for value in ended]

    @staticmethod
    def _slice(value: Value, index: int) -> Value:
        made_of = frozenset(
            parameter._replace(index=index) if parameter.index is None else parameter for parameter in value.parameters
        )
        return value._replace(parameters=made_of, field=value.field and value.field.without_axis(0))

    def _stacked(self, values: Sequence[Value]) -> Value:
        joined = self._joined(values)
        unsliced = frozenset(parameter._replace(index=None) for parameter in joined.parameters)
        return joined._replace(parameters=unsliced, field=joined.field and joined.field.with_axis(0))

    # --- operations

    @staticmethod
    def union(sets) -> int:
        total = 0
        for nodes in sets:
            total |= nodes
        return total

    def lengths(self, nodes: int) -> dict[int, int]:
        """The paths to a set of nodes, counted by their length; not to be changed.

        Sets grow: what reaches an iteration's carry reached the one before, of which the counts are still known; or
        all but the latest of it did, as in an LSTM, of which the output gate reaches the output alone.
        """
        rest, added = nodes, []
        while rest and rest not in self._known:
            added.append(rest.bit_length() - 1)
            rest ^= 1 << added[-1]
        if added:
            found = Counter(self._known.get(rest))
            while added:
                bit = added.pop()
                rest |= 1 << bit
                found.update({0: 1} if bit == 0 else self.nodes[bit - 1].lengths)
                if len(added) < LATEST:
                    self._known[rest] = dict(found)
            while len(self._known) > SETS_KNOWN:
                del self._known[next(iter(self._known))]
        return self._known.get(nodes, {})

    def _joined(self, values: Sequence[Value]) -> Value:
        """What is known of an array that is made of several."""
        data = [value for value in values if value.is_data]
        if not data:
            return Value(parameters=frozenset().union(*(value.parameters for value in values)))
        field = data[0].field
        for value in data[1:]:
            field = field and value.field and field.joined(value.field)
        return Value(
            nodes=self.union(value.nodes for value in data),
            operations=max(value.operations for value in data),
            normed=max(value.normed for value in data),
            field=field,
            carried=any(value.carried for value in data),
            attends=any(value.attends for value in data),
        )

    def _operation(self, equation: JaxprEqn, operands: list[Value]) -> Value:
        name = equation.primitive.name
        data = [(variable, value) for variable, value in zip(equation.invars, operands, strict=True) if value.is_data]
        made_of = frozenset().union(*(value.parameters for value in operands if not value.is_data))
        result = self._joined([value for _, value in data])
        result = result._replace(
            operations=result.operations + (name not in MOVES),
            field=field_of_result(equation, [value.field if value.is_data else None for value in operands]),
            scaled=name in ("rsqrt", "sqrt") or (name in KEEPS_SCALE and any(value.scaled for value in operands)),
        )
        self.order |= dict.fromkeys(sorted(made_of - self.order.keys(), key=str))
        if name in CONTRACTIONS:
            if made_of:
                return self._contraction(equation, result, data[0], made_of)
            if len(data) == 2:
                self._attend(value for _, value in data)
                return result._replace(attends=True)
        elif made_of:
            return self._use(equation, result, data[0][0], made_of, operands)
        return result

    def _contraction(self, equation: JaxprEqn, result: Value, operand, made_of: frozenset[Parameter]) -> Value:
        variable, value = operand
        lengths = self._longer.get(value.nodes)
        if lengths is None:
            lengths = {length + 1: count for length, count in self.lengths(value.nodes).items()}
            self._longer = dict([*self._longer.items()][-1:]) | {value.nodes: lengths}  # gates read the same two arrays
        shapes = variable.aval.shape, equation.outvars[0].aval.shape
        stays = all(parameter.index is None for parameter in made_of)
        kind = "recurrent" if value.carried and stays else _kind(equation)
        weights = next(i for i, other in enumerate(equation.invars[:2]) if other is not variable)
        factors = _factors(equation, weights)
        self.nodes.append(Node(made_of, kind, factors, *shapes, lengths, result.field))
        index = len(self.nodes) - 1
        if value.attends and {_parent(p) for p in made_of} & {
            _parent(p) for i in self.attention for p in self.nodes[i].parameters
        }:
            self.attention.add(index)
        return result._replace(nodes=INPUT << len(self.nodes), normed=value.normed + 1, attends=False, scaled=False)

    def _attend(self, values) -> None:
        """Two projections are multiplied with one another: they are attention's. With an adapter, one is two nodes."""
        for value in values:
            nodes = [i for i in range(len(self.nodes)) if value.nodes >> i + 1 & 1]
            layers = {layer_of(parameter.path) for i in nodes for parameter in self.nodes[i].parameters}
            if len(layers) == 1 and not value.nodes & INPUT:
                self.attention.update(nodes)

    def _use(self, equation: JaxprEqn, result: Value, variable, made_of, operands: list[Value]) -> Value:
        name = equation.primitive.name
        if name == "gather" and not operands[0].is_data:
            kind = "embedding"
        elif name in ("mul", "div"):
            kind = "norm" if any(value.scaled for value in operands) else "scale"
        elif name in ("add", "sub"):
            kind = "bias"
        else:
            kind = "other"
        depth = max(self.lengths(result.nodes))
        shapes = variable.aval.shape, equation.outvars[0].aval.shape
        for parameter in made_of:
            self.uses[parameter].append(Use(kind, *shapes, depth, result.field))
        return result._replace(normed=result.normed + (kind == "norm"))


_NOTHING = Value()


def _parent(parameter: Parameter) -> tuple[str, int | None]:
    """The layer around a parameter's own, and which of its blocks: where the projections of one attention meet."""
    return layer_of(parameter.path).rpartition("/")[0], parameter.index


def _factors(equation: JaxprEqn, weights: int) -> tuple[int, ...]:
    """The sizes of the operand that is made of parameters, in the order of the literature."""
    shape = equation.invars[weights].aval.shape
    if equation.primitive.name == "ragged_dot_general":
        return shape
    if equation.primitive.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][weights]
        return (*(shape[i] for i in contracted), *(size for i, size in enumerate(shape) if i not in contracted))
    out, features, *window = equation.params["dimension_numbers"].rhs_spec
    return (*(shape[i] for i in window), shape[features], shape[out])


def _kind(equation: JaxprEqn) -> str:
    if equation.primitive.name != "conv_general_dilated":
        return "dense"
    groups = equation.params["feature_group_count"]
    features = equation.invars[0].aval.shape[equation.params["dimension_numbers"].lhs_spec[1]]
    return "depthwise" if groups == features > 1 else "convolution"
