"""A traced program, taken apart: which equations call others, how often each runs, and which are of any use.

`jax.make_jaxpr` gives equations, and some of them hold programs of their own: a jitted function, a scan, a branch. The
rest of this room asks here what is inside:

    match called(equation):
        case Once(body): ...                            # the same operands, the same results
        case Loop(body, length, constants, carried): ...
        case Branches(bodies): ...
        case None: ...                                  # an operation
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal


class Once(NamedTuple):
    """A call: a body run once, on the equation's operands, for its results."""

    body: Jaxpr
    times: int = 1
    """More where each of several devices runs it on its part."""
    reads: tuple[int, ...] | None = None
    """Which of the operands it is given; None for all."""

    def given(self, operands: Sequence[Any]) -> Sequence[Any]:
        """What the body's operands are, of an equation's."""
        return operands if self.reads is None else [operands[i] for i in self.reads]


class Loop(NamedTuple):
    """A body run `length` times.

    Its operands, after `skipped` ones that are its condition's, are `constants` ones that stay, `carried` ones that
    become the next iteration's, and what is sliced, an element an iteration; its results are what is carried, and what
    each iteration yields. `length` is None where only the data tells it.
    """

    body: Jaxpr
    constants: int
    carried: int
    length: int | None
    reverse: bool
    skipped: int = 0
    condition: Jaxpr | None = None
    """Of the operands skipped and of what is carried: whether there is another iteration."""


class Branches(NamedTuple):
    """Bodies of which the data chooses one; the first operand is the choice."""

    bodies: tuple[Jaxpr, ...]


COMBINING = frozenset(("reduce", "reduce_window", "select_and_scatter", "pallas_call"))
"""Operations whose program is for two numbers of many, or for a part of the operands."""


def called(equation: JaxprEqn) -> Once | Loop | Branches | None:
    """What an equation runs, if it is no operation by itself.

    Of programs for several platforms it is the one for any platform: XLA's own formulation.
    """
    parameters = equation.params
    match equation.primitive.name:
        case "scan":
            body = _open(parameters["jaxpr"])
            if "num_consts" in parameters:
                counts = parameters["num_consts"], parameters["num_carry"]
            else:  # since jax 0.11: a tree of (constants, carry, slices)
                counts = [len(list(part)) for part in parameters["ft_in"].unpack()][:2]
            return Loop(body, *counts, parameters["length"], parameters["reverse"])
        case "while":
            skipped, constants = parameters["cond_nconsts"], parameters["body_nconsts"]
            body, condition = _open(parameters["body_jaxpr"]), _open(parameters["cond_jaxpr"])
            return Loop(body, constants, len(equation.outvars), None, False, skipped, condition)
        case "cond":
            platforms = parameters.get("branches_platforms")
            if platforms is None:
                return Branches(tuple(_open(branch) for branch in parameters["branches"]))
            default = next((i for i, names in enumerate(platforms) if names is None), 0)
            return Branches((_open(parameters["branches"][default]),))
        case "custom_linear_solve":  # how to solve it stands beside what is solved, and both have constants
            constants, operands = parameters["const_lengths"], range(len(equation.invars))
            first = constants.matvec + constants.vecmat
            reads = (*operands[first : first + constants.solve], *operands[sum(constants) :])
            return Once(_open(parameters["jaxprs"].solve), reads=reads)
        case name if name in COMBINING:
            return None
        case "shard_map":
            sizes = dict(parameters["mesh"].shape)  # axes that are not the function's own divide nothing in it
            axes = parameters.get("newly_manual_axes", parameters.get("manual_axes", sizes))
            return Once(_open(parameters["jaxpr"]), times=math.prod(sizes[axis] for axis in axes))
    for value in parameters.values():
        if isinstance(value, Jaxpr | ClosedJaxpr) and len(_open(value).invars) == len(equation.invars):
            return Once(_open(value))
    return None


def _open(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


# ---------------------------------------------------------------------------------------------------------------------
# What is of use


def use(body: Jaxpr, wanted: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Which results each equation's results are needed for, and each operand of the body.

    wanted: for each result of the body a set of purposes, as the bits of a number; 0 if nobody wants it. What comes
    back are such sets: for each equation one for each of its results, and one for each operand. An equation whose sets
    are all empty is dead, and a compiler leaves it out: as the gradient with respect to the inputs of a first layer.
    """
    purposes: dict[Any, int] = {}

    def add(variables: Sequence[Any], sets: Sequence[int]) -> None:
        for variable, purpose in zip(variables, sets, strict=True):
            if not isinstance(variable, Literal):
                purposes[variable] = purposes.get(variable, 0) | purpose

    add(body.outvars, wanted)
    found = []
    for equation in reversed(body.eqns):
        of_results = [purposes.get(variable, 0) for variable in equation.outvars]
        found.append(of_results)
        if any(of_results):
            add(equation.invars, _use_of_operands(equation, of_results))
    return found[::-1], [purposes.get(variable, 0) for variable in body.invars]


def _use_of_operands(equation: JaxprEqn, wanted: list[int]) -> list[int]:
    match called(equation):
        case Once(body) as once:
            operands = [0] * len(equation.invars)
            for i, purposes in zip(once.given(range(len(operands))), use(body, wanted)[1], strict=True):
                operands[i] = purposes
            return operands
        case Branches(bodies):
            each = [use(body, wanted)[1] for body in bodies]
            return [_union(wanted), *map(_union, zip(*each, strict=True))]
        case Loop() as loop:
            ending = use_of_body(loop, wanted)
            operands = use(loop.body, ending)[1]
            operands[loop.constants : loop.constants + loop.carried] = ending[: loop.carried]
            return [_union(wanted)] * loop.skipped + operands
    return [_union(wanted)] * len(equation.invars)


def use_of_body(loop: Loop, wanted: Sequence[int]) -> list[int]:
    """What each result of a loop's body is wanted for: a carry for what it ends as, and by the iterations after it."""
    if loop.length is None:  # the condition may look at any of them
        return [_union(wanted)] * len(wanted)
    while True:
        carries = use(loop.body, wanted)[1][loop.constants : loop.constants + loop.carried]
        new = [old | later for old, later in zip(wanted, carries, strict=False)] + list(wanted[loop.carried :])
        if new == wanted:
            return new
        wanted = new


def _union(sets) -> int:
    total = 0
    for purposes in sets:
        total |= purposes
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Where an equation stands


def scope(equation: JaxprEqn, layers: Collection[str], around: str = "") -> str:
    """The innermost of `layers` in whose name scope an equation was traced; `around` if it names none.

    Flax opens a scope for each layer, `jax.named_scope` for anything; differentiation and loops add words of their own,
    as in "transpose(jvp(Net))/block_00/jvp(Net)/block_00/dense", which name no layer.
    """
    return innermost(str(equation.source_info.name_stack), layers, around)


def widest(
    body: Jaxpr, layers: Collection[str], around: str = "", makers: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Of the arrays that a layer reads and has not made, the shape of the first of the largest: {layer: shape}.

    makers: in which layers the operands were made; by default in none.
    """
    made = dict(zip(body.invars, makers or [""] * len(body.invars), strict=True))
    found: dict[str, tuple[int, ...]] = {}

    def offer(layer: str, shape: tuple[int, ...]) -> None:
        if layer not in found or math.prod(shape) > math.prod(found[layer]):
            found[layer] = shape

    for equation in body.eqns:
        layer = scope(equation, layers, around)
        operands = ["" if isinstance(variable, Literal) else made.get(variable, "") for variable in equation.invars]
        made |= dict.fromkeys(equation.outvars, layer)
        match called(equation):
            case None:
                bodies = ()
                for variable, maker in zip(equation.invars, operands, strict=True):
                    if maker != layer:
                        offer(layer, getattr(variable.aval, "shape", ()))
            case Once(inner) as once:
                bodies = ((inner, once.given(operands)),)
            case Loop(inner) as loop:
                bodies = ((inner, operands[loop.skipped :]),)
            case Branches(several):
                bodies = ((inner, operands[1:]) for inner in several)
        for inner, given in bodies:
            for name, shape in widest(inner, layers, layer, given).items():
                offer(name, shape)
    return found


def innermost(scopes: str, layers: Collection[str], around: str = "") -> str:
    """The innermost of `layers` that a path of name scopes leads through; `around` if it names none."""
    path = around
    for name in re.split(r"[/()]", scopes):
        name = name.partition(".")[0]  # "tokens.attend" is a method of the layer "tokens"
        inner = f"{path}/{name}" if path else name
        if name and inner in layers:
            path = inner
    return path
