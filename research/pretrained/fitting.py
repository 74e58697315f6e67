"""Fitting a source's weights to a model of ours, whose ends may be of other sizes.

    fitted = fit(source, shapes, reinitialise=("head/.*",))
    fitted.parameters                       # {path: array}, of the shapes and dtypes asked for
    fitted.reinitialised                    # ("head/kernel", "head/bias"): not in it, to be drawn anew
    fitted.changed                          # {"positions": "bicubic from 14x14 to 24x24"}

A head of another size has to be named to be reinitialised. Position embeddings are resized to another grid, and the
first convolution is fitted to another number of channels. All that does not fit is told at once.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from research.errors import UserError, did_you_mean
from research.models import Model
from research.parameters import views
from research.pretrained.layout import STATE
from research.pretrained.layouts import LAYOUTS, named
from research.pretrained.reading import Pretrained
from research.pretrained.resizing import change_channels, resize_positions
from research.spec import Spec

SHOWN = 8  # paths in one line of an error


class Fitted(NamedTuple):
    """A source's weights as a model of ours wants them.

    parameters, state: {path: array} in the model's own order, stacked where it is; without what is to be drawn anew.
    changed: {path: how} of those that are not as they were in the source.
    reinitialised: the paths of the model's parameters that are not taken from the source, of blocks where stacked.
    unused: what of the source is not used, by our paths, and by its own names where we have none for them.
    """

    parameters: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    changed: dict[str, str]
    reinitialised: tuple[str, ...]
    unused: tuple[str, ...]


def fit(
    source: Pretrained,
    shapes: Mapping[str, Any],
    reinitialise: Iterable[str] = (),
    *,
    stacks: Mapping[str, int | range] | None = None,
    grid: tuple[int, int] | None = None,
) -> Fitted:
    """The weights of a source for a model's parameters, and its state, if `shapes` asks for that ("batch_stats/...").

    shapes: {path: array or ShapeDtypeStruct} of the model. An array gives the values of what is not taken from the
        source in a stack of blocks where others are.
    reinitialise: regular expressions for whole paths of parameters that are not to be taken from the source.
    stacks: which layers hold several equal blocks stacked, as a network's `stacks`.
    grid: (height, width) in patches, for which position embeddings are needed, see `grid_of`; a square if not given.

    Raises UserError with a line for each problem: a pattern that matches nothing, parameters that are missing in the
    source or in the model, wrong shapes and dtypes.
    """
    places = views(shapes, stacks)
    patterns = tuple(reinitialise)
    problems = list(_dead(patterns, places))
    chosen = {path for path in places if any(_matches(pattern, path) for pattern in patterns)}
    values = {**source.parameters, **source.state}
    wanted = {path: _one(shapes, *place) for path, place in places.items()}
    taken, changed = {}, {}
    missing = [path for path in wanted if path not in values and path not in chosen]
    for path in [path for path in wanted if path in values and path not in chosen]:
        try:
            taken[path], how = _fitted(source, path, values[path], wanted[path], grid)
        except Unfit as problem:
            problems.append(f"{path}: {problem}")
        else:
            changed |= {path: how} if how else {}
    problems += _unmatched(source, missing, [path for path in values if path not in wanted], wanted)
    if problems:
        raise UserError(*problems)
    arrays = _stored(taken, places, shapes)
    return Fitted(
        parameters={path: array for path, array in arrays.items() if not path.startswith(STATE)},
        state={path: array for path, array in arrays.items() if path.startswith(STATE)},
        changed=changed,
        reinitialised=tuple(path for path in wanted if path in chosen),
        unused=(*(path for path in values if path not in taken), *source.unused),
    )


def grid_of(model: Model, spec: Spec) -> tuple[int, int] | None:
    """The `grid` that `fit` wants for a model and pictures of a spec; None where there are no patches."""
    patch = getattr(model, "patch", None)
    return None if patch is None or len(spec.shape) != 3 else (spec.shape[0] // patch, spec.shape[1] // patch)


def _fitted(
    source: Pretrained, path: str, value: np.ndarray, wanted: tuple[tuple[int, ...], Any], grid: tuple[int, int] | None
) -> tuple[np.ndarray, str]:
    """The parameter as the model wants it, and what was done to it, "" if nothing."""
    shape, dtype = wanted
    found = resized(path, value, shape, ends_of(source.model, source.spec), grid)
    if found is None:
        here = f"{shape} here; if it is to be drawn anew, reinitialise {path!r}"
        raise Unfit(f"{value.shape} in {source.path}, and {here}")
    (value, how), done = found, []
    if how:
        done.append(how)
    if value.dtype != dtype:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise Unfit(f"{value.dtype.name} in {source.path}, and {np.dtype(dtype).name} here")
        done.append(f"{value.dtype.name} to {np.dtype(dtype).name}")
        value = value.astype(dtype)
    return value, ", ".join(done)


# ---------------------------------------------------------------------------------------------------------------------
# Ends


class Unfit(Exception):
    """Why a parameter does not fit."""


class Ends(NamedTuple):
    """What of a model's weights can be fitted to inputs of another size.

    first: the path of the first convolution, which can be fitted to other channels.
    positions, grid: the path of the position embeddings, and how many patches they are of, (height, width).
    others: how many of them are of no patch: that of the class token.
    """

    first: str | None = None
    positions: str | None = None
    grid: tuple[int, int] | None = None
    others: int = 0


def ends_of(model: Model, spec: Spec) -> Ends:
    """The ends of a model for data of a spec: of the families that have a foreign layout."""
    layout = next((layout for layout in LAYOUTS if isinstance(model, type(layout.samples[0]))), None)
    if layout is None:
        return Ends()
    grid = grid_of(model, spec) if layout.positions else None
    others = int(getattr(model, "pooling", None) == "class")
    return Ends(layout.first, layout.positions if grid else None, grid, others if grid else 0)


def resized(
    path: str, value: np.ndarray, shape: tuple[int, ...], ends: Ends, grid: tuple[int, int] | None
) -> tuple[np.ndarray, str] | None:
    """A parameter in the shape that is needed, and what was done to it, "" if nothing; None where it does not fit.

    ends: those of what it is from. grid: as `fit` takes it. Raises Unfit for positions that are in no such grid.
    """
    if path == ends.first and len(shape) == value.ndim and _without(shape, -2) == _without(value.shape, -2):
        if shape == value.shape:
            return value, ""
        done = "averaged" if shape[-2] < value.shape[-2] else "repeated"
        return change_channels(value, shape[-2]), f"{done} from {value.shape[-2]} to {shape[-2]} channels"
    if path == ends.positions and value.shape[1:] == shape[1:]:
        if value.shape == shape and (grid is None or tuple(grid) == ends.grid):  # not as 3x4 to 4x3
            return value, ""
        old, new = ends.grid, grid or (math.isqrt(shape[0] - ends.others),) * 2
        if math.prod(new) + ends.others != shape[0]:
            raise Unfit(f"{shape[0]} positions are not {ends.others} and a grid of {new[0]}x{new[1]}; say which it is")
        return resize_positions(value, old, new, ends.others), f"bicubic from {old[0]}x{old[1]} to {new[0]}x{new[1]}"
    if path == "positions/embedding" and value.shape[1:] == shape[1:] and shape[0] < value.shape[0]:
        return value[: shape[0]], f"the first {shape[0]} of {value.shape[0]} positions"
    return (value, "") if value.shape == shape else None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(np.delete(shape, axis))


# ---------------------------------------------------------------------------------------------------------------------
# Names


def _unmatched(source: Pretrained, missing: list[str], over: list[str], wanted: Mapping[str, Any]) -> Iterator[str]:
    """A line for what the source lacks, and one for what the model lacks, but for heads, and state not asked for."""
    if missing:
        yield f"{_some(missing)}: not in {source.path}{_nearest(missing, over)}"
    asked_for_state = any(path.startswith(STATE) for path in wanted)
    layout = named(source.layout)
    extra = [path for path in over if not (layout.is_head((path,)) or (path.startswith(STATE) and not asked_for_state))]
    if extra:
        yield f"{_some(extra)}: in {source.path}, and not in the model{_nearest(extra, missing)}"


def _one(shapes: Mapping[str, Any], leaf: str, index: int | None) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype of a parameter, or of the one block of it."""
    stored = shapes[leaf]
    return tuple(stored.shape if index is None else stored.shape[1:]), stored.dtype


def _stored(taken: Mapping[str, np.ndarray], places: Mapping, shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters by leaf, blocks stacked where the model has them so."""
    members: dict[str, dict[int | None, str]] = {}
    for path, (leaf, index) in places.items():
        members.setdefault(leaf, {})[index] = path
    arrays = {}
    for leaf, paths in members.items():
        there = [path for path in paths.values() if path in taken]
        if None in paths:
            arrays |= {leaf: taken[paths[None]]} if there else {}
        elif there:
            if len(there) < len(paths) and not hasattr(shapes[leaf], "__array__"):
                raise ValueError(f"{leaf!r} is only partly in the source: give its initial values, not its shape alone")
            arrays[leaf] = np.stack(
                [taken[path] if path in taken else shapes[leaf][index] for index, path in sorted(paths.items())]
            )
    return arrays


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False


def _dead(patterns: tuple[str, ...], places: Mapping[str, Any]) -> Iterator[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"reinitialise: {pattern!r} is no regular expression: {error}"
        else:
            if not any(_matches(pattern, path) for path in places):
                layers = {path[: slash.start()] for path in places for slash in re.finditer("/", path)}
                near = did_you_mean(pattern, [*places, *(f"{layer}/.*" for layer in layers)])
                yield f"reinitialise: {pattern!r} matches no parameter's whole path{near}"


def _nearest(paths: list[str], others: list[str]) -> str:
    return did_you_mean(paths[0], others) if len(paths) == 1 and others else ""


def _some(paths: list[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")
