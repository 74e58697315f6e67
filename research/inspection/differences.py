"""What became of the layers from one model, or checkpoint, to another: new, gone, resized, renamed, moved.

    for change in differences(parameters_before, parameters_after):
        print(change.what, change.before, change.after, change.parameters_after - change.parameters_before)

Parameters are trees or flat dicts of arrays, or of anything with a shape and a dtype in their place. Where both have
numbers, it is by these that a layer is known again under another path, as in two checkpoints; where one has not, by the
names and shapes of its parameters, those of the nearest path first.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from research.parameters.paths import SEPARATOR, flatten, views

What = Literal["same", "changed", "resized", "renamed", "moved", "new", "gone"]
TOLD: tuple[What, ...] = ("resized", "renamed", "moved", "new", "gone", "changed")


class Change(NamedTuple):
    """What became of a layer.

    same: as it was. changed: of the same shapes, with other numbers. resized: at its place with other shapes.
    renamed: the same layer, one name of its path another one. moved: the same layer elsewhere. new, gone: without
    its like on the other side.
    """

    what: What
    before: str | None
    after: str | None
    shapes_before: dict[str, tuple[int, ...]]
    shapes_after: dict[str, tuple[int, ...]]
    parameters_before: int
    parameters_after: int


class _Array(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    digest: str | None
    """None where there are no numbers."""
    is_flat: bool
    """Whether all numbers are the same, as at the start in biases and norms, which tells nothing."""


_Layer = dict[str, _Array]


def differences(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    stacks_before: Mapping[str, int | range] | None = None,
    stacks_after: Mapping[str, int | range] | None = None,
) -> list[Change]:
    """What became of each layer, in the order of `after`, and then what is gone.

    stacks_before, stacks_after: which layers hold several equal blocks stacked (see `parameters.views`): blocks have
    the same paths whether they are stacked or not.
    """
    before, after = _flat(before), _flat(after)
    numbers = all(_has_numbers(leaf) for leaf in (*before.values(), *after.values()))
    old, new = _layers(before, stacks_before, numbers), _layers(after, stacks_after, numbers)
    pairs = _pairs(old, new, numbers)
    became = {path: (what, was) for what, was, path in pairs}
    changes = [_change(*became.get(path, ("new", None)), path, old, new) for path in new]
    return changes + [_change("gone", path, None, old, new) for path in old if path not in {was for _, was, _ in pairs}]


def _change(what: What, was: str | None, now: str | None, old: dict[str, _Layer], new: dict[str, _Layer]) -> Change:
    shapes = [{name: a.shape for name, a in layers.get(path, {}).items()} for path, layers in ((was, old), (now, new))]
    return Change(what, was, now, *shapes, *(sum(_size(shape) for shape in own.values()) for own in shapes))


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flatten(tree) if any(isinstance(branch, Mapping) for branch in tree.values()) else dict(tree)


def _has_numbers(leaf: Any) -> bool:
    return hasattr(leaf, "__array__")


def _layers(flat: Mapping[str, Any], stacks: Mapping[str, int | range] | None, numbers: bool) -> dict[str, _Layer]:
    layers: dict[str, _Layer] = {}
    for path, (leaf, index) in views(flat, stacks).items():
        layer, _, name = path.rpartition(SEPARATOR)
        layers.setdefault(layer or path, {})[name] = _array(flat[leaf], index, numbers)
    return layers


def _array(leaf: Any, index: int | None, numbers: bool) -> _Array:
    shape, dtype = tuple(leaf.shape if index is None else leaf.shape[1:]), np.dtype(leaf.dtype).name
    if not numbers:
        return _Array(shape, dtype, None, False)
    array = np.ascontiguousarray(np.asarray(leaf) if index is None else np.asarray(leaf)[index])
    digest = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
    return _Array(shape, dtype, digest, bool(array.size == 0 or (array == array.flat[0]).all()))


def _pairs(old: dict[str, _Layer], new: dict[str, _Layer], numbers: bool) -> list[tuple[What, str, str]]:
    """(what, path before, path after) of the layers that are on both sides."""
    pairs: list[tuple[What, str, str]] = []
    was, now = dict(old), dict(new)

    def pair(one: str, other: str, what: What) -> None:
        pairs.append((what, one, other))
        del was[one], now[other]

    for path in [path for path in was if was[path] == now.get(path)]:
        pair(path, path, "same")
    if numbers:
        telling = {path: layer for path, layer in was.items() if not all(array.is_flat for array in layer.values())}
        for one, other in _alike(telling, now, lambda layer: tuple(sorted(layer.items()))):
            pair(one, other, _elsewhere(one, other))
    for path in [path for path in was if set(was[path]) & set(now.get(path, ()))]:
        pair(path, path, "changed" if _shapes(was[path]) == _shapes(now[path]) else "resized")
    for likeness in (_shapes, lambda layer: tuple(sorted(array.shape for array in layer.values()))):
        for one, other in _alike(was, now, likeness):
            pair(one, other, _elsewhere(one, other))
    return pairs


def _shapes(layer: _Layer) -> tuple:
    return tuple(sorted((name, array.shape) for name, array in layer.items()))


def _elsewhere(one: str, other: str) -> What:
    """Whether a path became another by one new name, or by more than that."""
    different = [pair for pair in zip(one.split(SEPARATOR), other.split(SEPARATOR), strict=False) if pair[0] != pair[1]]
    renamed = one.count(SEPARATOR) == other.count(SEPARATOR) and len(different) == 1
    return "renamed" if renamed and _without_numbers(different[0][0]) != _without_numbers(different[0][1]) else "moved"


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _alike(
    was: Mapping[str, _Layer], now: Mapping[str, _Layer], likeness: Callable[[_Layer], Any]
) -> list[tuple[str, str]]:
    """Paths of layers that are alike: of several, those whose paths end alike, have the same numbers, or come first."""
    groups: dict[Any, tuple[list[str], list[str]]] = {}
    for side, layers in enumerate((was, now)):
        for path, layer in layers.items():
            groups.setdefault(likeness(layer), ([], []))[side].append(path)
    return [pair for ones, others in groups.values() for pair in _nearest(ones, others)]


def _nearest(ones: list[str], others: list[str]) -> Iterator[tuple[str, str]]:
    ones, others = list(ones), list(others)
    longest = max((path.count(SEPARATOR) + 1 for path in ones), default=0)
    keys = [
        *(lambda path, n=n: (_ends(path, n), _numbers(path)) for n in range(longest, 0, -1)),
        *(lambda path, n=n: _ends(path, n) for n in range(longest, 0, -1)),
        _numbers,
        lambda path: None,
    ]
    for key in keys:
        for one in list(ones):
            other = next((other for other in others if key(other) == key(one)), None)
            if other is not None:
                ones.remove(one), others.remove(other)
                yield one, other


def _ends(path: str, parts: int) -> tuple[str, ...]:
    return tuple(path.split(SEPARATOR)[-parts:])


def _numbers(path: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path)))


# ---------------------------------------------------------------------------------------------------------------------
# For people


class Row(NamedTuple):
    """Layers of which the same became, and whose paths differ in numbers alone: "block_06..11/attention/key"."""

    what: What
    before: str | None
    after: str | None
    layers: int
    shapes_before: dict[str, tuple[int, ...]]
    shapes_after: dict[str, tuple[int, ...]]
    parameters_before: int
    parameters_after: int


def rows(changes: Sequence[Change]) -> list[Row]:
    """What became of layers, equal ones in one row: what is resized first, then renamed, moved, new, gone, changed."""
    groups: dict[Any, list[Change]] = {}
    for change in changes:
        paths = tuple(path and _without_numbers(path) for path in (change.before, change.after))
        shapes = tuple(tuple(own.items()) for own in (change.shapes_before, change.shapes_after))
        groups.setdefault((change.what, paths, shapes), []).append(change)
    found = [_row(group) for group in groups.values() if group[0].what != "same"]
    return sorted(found, key=lambda row: TOLD.index(row.what))


def _row(group: list[Change]) -> Row:
    first = group[0]
    return Row(
        first.what,
        _range([change.before for change in group]),
        _range([change.after for change in group]),
        len(group),
        first.shapes_before,
        first.shapes_after,
        sum(change.parameters_before for change in group),
        sum(change.parameters_after for change in group),
    )


def _range(paths: Sequence[str | None]) -> str | None:
    """The paths as one: "block_00..11/dense" where they count on, "block_00,04/dense" or with dots between if not."""
    if paths[0] is None:
        return None
    parts = [re.split(r"(\d+)", path) for path in paths]
    return "".join(_numbers_of(list(dict.fromkeys(column))) for column in zip(*parts, strict=True))


def _numbers_of(texts: list[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    counted = sorted(texts, key=int)
    count_on = int(counted[-1]) - int(counted[0]) == len(counted) - 1
    if count_on and len(counted) > 2:
        return f"{counted[0]}..{counted[-1]}"
    return ",".join(counted) if len(counted) <= 4 else f"{counted[0]},...,{counted[-1]}"


def totals(changes: Sequence[Change]) -> dict[str, Any]:
    """Parameters before and after, and of each kind of change how many layers and parameters."""
    of_kinds = {what: [change for change in changes if change.what == what] for what in ("same", *TOLD)}
    return {
        "parameters_before": sum(change.parameters_before for change in changes),
        "parameters_after": sum(change.parameters_after for change in changes),
        "layers": {
            what: {
                "layers": len(own),
                "parameters_before": sum(change.parameters_before for change in own),
                "parameters_after": sum(change.parameters_after for change in own),
            }
            for what, own in of_kinds.items()
            if own
        },
    }


_STYLES = {"new": "green", "gone": "red", "resized": "yellow", "renamed": "cyan", "moved": "cyan"}


def show(changes: Sequence[Change]) -> RenderableType:
    """A table of what became of layers, and what it comes to; what stayed the same is only counted."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("layer", overflow="fold", ratio=1)
    for title in ("before", "after"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows(changes):
        table.add_row(
            Text(row.what, style=_STYLES.get(row.what, "")),
            Text(_told(row)),
            f"{row.parameters_before:,}" if row.before else "",
            f"{row.parameters_after:,}" if row.after else "",
        )
    summed = totals(changes)
    same = summed["layers"].get("same")
    if same:
        what = "layer" if same["layers"] == 1 else "layers"
        count = f"{same['parameters_before']:,}"
        table.add_row(Text("same", style="dim"), Text(f"{same['layers']} {what}", style="dim"), *[count] * 2)
    table.add_row("", "parameters in all", *(f"{summed[f'parameters_{side}']:,}" for side in ("before", "after")))
    table.rows[-1].style = "bold"
    return Group(table)


def _told(row: Row) -> str:
    times = f" x{row.layers}" if row.layers > 1 else ""
    if row.what == "resized":
        return f"{row.after}{times}\n{_resizing(row)}"
    if row.before and row.after and row.before != row.after:
        return f"{row.before}\n-> {row.after}{times}"
    return f"{row.after or row.before}{times}"


def _resizing(row: Row) -> str:
    """ "kernel 128x10 -> 256x10" for each parameter that has another shape."""
    names = dict.fromkeys((*row.shapes_before, *row.shapes_after))
    shapes = [(name, row.shapes_before.get(name), row.shapes_after.get(name)) for name in names]
    return ", ".join(f"{name} {_shape(a)} -> {_shape(b)}".strip() for name, a, b in shapes if a != b)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape)) or "1"
