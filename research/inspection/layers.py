"""The rows of an inspection: what each layer is and holds, from how data flows through it and what that costs.

A layer is what has parameters of its own, or computes something in a name scope of its own. Of blocks that are stored
stacked, or sliced by a loop, each has a row.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from research.inspection.costs import Cost, Costs, layer_of
from research.inspection.flow import Flow, Node, Parameter, Use
from research.parameters.paths import views
from research.stacks import as_range, block_paths


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


def block_of(path: str) -> str | None:
    """The innermost numbered layer around a layer, "stage_0/block_1" of "stage_0/block_1/norm_0", if there is one."""
    around = path.rpartition("/")[0]
    while around and not re.search(r"(\d+|\[\d+\])$", around):
        around = around.rpartition("/")[0]
    return around or None


def rows_of_layers(
    by_path, flow: Flow, read, forward: Costs, backward: Costs, activations, frozen, stacks, optimizer_bytes
):
    """A row for each layer, in the order in which data meets them, then those that data does not meet.

    read: the largest array that each layer reads, {layer: shape}, where name scopes tell.
    """
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

    read = {path: shape for layer, shape in read.items() for path in names.of_layer(layer)}

    rows = {
        path: _layer(path, own, by_path, flow, read.get(path, ()), frozen, optimizer_bytes, names)
        for path, own in members.items()
    }
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
        self.stacks = {name: as_range(blocks) for name, blocks in stacks.items()}
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
                return [f"{block}{layer.removeprefix(stack)}" for block in block_paths(stack, blocks)]
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


def _layer(path, own: list[Parameter], by_path, flow: Flow, read, frozen, optimizer_bytes, names: _Names) -> Layer:
    """The row of a layer with parameters, its costs still empty."""
    nodes = [i for i, node in enumerate(flow.nodes) if node.parameters & set(own)]
    node = flow.nodes[nodes[0]] if nodes else None
    uses = [(parameter, use) for parameter in own for use in flow.uses.get(parameter, ())]
    shapes = {p: by_path[p.path].shape[0 if p.index is None else 1 :] for p in own}
    sizes = {p: math.prod(shape) for p, shape in shapes.items()}
    are_biases = {p for p in own if _is_bias(p, flow)}
    has_positions = any(sum(size > 1 for size in shapes[p]) > 1 for p in own if p not in are_biases)
    kind = _kind(nodes, [use for _, use in uses], flow, has_positions)
    share = {p: 1 if p.index is None else by_path[p.path].shape[0] for p in own}
    before, after, depth, field = None, None, 0, None
    if node is not None and kind != "embedding":
        before, after, depth, field = node.input[1:], node.output[1:], node.depth, node.field
    elif uses:
        first, last = uses[0][1], uses[-1][1]
        before, after, depth, field = last.input[1:], last.output[1:], first.depth, last.field
        if first.kind == "embedding":
            before, after = first.input[1:-1], first.output[1:]  # look-ups of single numbers
        if kind == "norm" and math.prod(read) > math.prod(last.output):
            before = after = read[1:]  # its parameters meet statistics alone
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


def _kind(nodes: Sequence[int], uses: Sequence[Use], flow: Flow, has_positions: bool) -> str:
    kinds = {use.kind for use in uses}
    if "embedding" in kinds:
        return "embedding"  # also where it is the head as well
    if nodes:
        if flow.attention & set(nodes):
            return "attention"
        kind = flow.nodes[nodes[0]].kind
        return "head" if kind == "dense" and flow.last and set(flow.last) <= set(nodes) else kind
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
