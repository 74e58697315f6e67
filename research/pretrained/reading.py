"""Reading the weights of others: `read_pretrained("vit-base")` gives the model that they are of, and its parameters.

    source = read_pretrained("vit-base-patch16-224")       # a folder of transformers
    network(source.model, source.spec).apply({"params": unflatten(source.parameters), **unflatten(source.state)}, ...)

Whatever does not fit is told at once, and then nothing is loaded.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import UserError, did_you_mean
from research.models import Model, network
from research.parameters import flatten
from research.pretrained.about import About
from research.pretrained.files import Source, read_source
from research.pretrained.layout import STATE, Layout, Row
from research.pretrained.layouts import recognise
from research.spec import Spec

SHOWN = 12  # problems of a source that are told one by one


class Pretrained(NamedTuple):
    """The weights of a source, by our paths.

    model, spec: the model that they are of, unrolled, and the data that it was made for; spec.classes is 0 where the
        source has no head, and the size of pictures 224 where it says nothing of it.
    parameters, state: {path: array}, the arrays being views of the file where they can be; state is
        {"batch_stats/stem/norm/mean": ...}, as a run's model state.
    layout: the name of the layout, for `save_pretrained`.
    notes: what had to be assumed, for people.
    unused: names of the source that have no part in the model's outputs.
    path: where it was read.
    """

    model: Model
    spec: Spec
    parameters: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    layout: str
    notes: tuple[str, ...]
    unused: tuple[str, ...]
    path: Path


def read_pretrained(path: str | os.PathLike) -> Pretrained:
    """The weights in a `.safetensors` or `.npz` file, or in a folder that has one and a config.json.

    The layout is recognised by the names of the tensors. Raises UserError with a line for each problem: no such file,
    damaged, a pickle, no layout that we know, a model that ours cannot be, tensors that are missing, too many, or of
    a wrong shape or dtype.
    """
    return translate(read_source(path))


def translate(source: Source) -> Pretrained:
    """The weights of a source that is read already. Raises UserError as `read_pretrained` does."""
    layout = recognise(source)
    names = layout.canonical(source.tensors)
    if len(names) < len(source.tensors):
        raise UserError(f"{source.path}: some tensors are there twice, under old and new names")
    tensors = {name: source.tensors[actual] for name, actual in names.items()}
    about = About(str(source.path), source.settings, {name: tensor.shape for name, tensor in tensors.items()})
    model, spec = layout.read(about)
    about.check()
    shapes = _shapes(source, model, spec)
    rows, missing, others = _split(layout, model, spec, tensors)
    unused = [name for name in others if layout.is_unused(name) or name in about.left_out]
    extra = [name for name in others if name not in unused]
    _raise(source.path, list(_problems(layout, model, rows, missing, extra, shapes, tensors)))
    arrays = _here(rows, model, tensors)
    return Pretrained(
        model=model,
        spec=spec,
        parameters={path: array for path, array in arrays.items() if not path.startswith(STATE)},
        state={path: array for path, array in arrays.items() if path.startswith(STATE)},
        layout=layout.name,
        notes=tuple(about.notes),
        unused=tuple(names[name] for name in unused),
        path=source.path,
    )


def expected(model: Model, spec: Spec) -> dict[str, jax.ShapeDtypeStruct]:
    """What a model has, by path, its state included; a head of one class where the spec has none."""
    spec = spec._replace(classes=spec.classes or 1)
    variables = jax.eval_shape(network(model, spec).init, jax.random.key(0))
    parameters = variables.pop("params")
    return {**flatten(parameters), **flatten(variables)}


def _shapes(source: Source, model: Model, spec: Spec) -> dict[str, jax.ShapeDtypeStruct]:
    """As `expected`. Raises UserError, telling where, if there can be no such model, or not for such data."""
    try:
        return expected(model, spec)
    except UserError as error:
        raise UserError(*(f"{source.path}: {problem}" for problem in error.problems)) from None


def _split(
    layout: Layout, model: Model, spec: Spec, tensors: Mapping[str, np.ndarray]
) -> tuple[list[Row], list[str], list[str]]:
    """The rows that are there, the names that are missing, and those that no row is for."""
    rows = [row for row in layout.rows(model) if spec.classes or not any(path.startswith("head/") for path in row.ours)]
    there = [row for row in rows if row.theirs in tensors]
    layers = {path.partition("/")[0] for row in there for path in row.ours}

    def is_needed(row: Row) -> bool:  # unlike a counter, or a layer of the head that is wholly absent
        return bool(row.ours) and not (layout.is_head(row.ours) and row.ours[0].partition("/")[0] not in layers)

    missing = [row.theirs for row in rows if row.theirs not in tensors and is_needed(row)]
    known = {row.theirs for row in there} | layout.tied.keys()
    return there, missing, [name for name in tensors if name not in known]


def _problems(
    layout: Layout,
    model: Model,
    rows: list[Row],
    missing: list[str],
    extra: list[str],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Mapping[str, np.ndarray],
) -> Iterator[str]:
    for name in missing:
        yield f"{name} is missing{did_you_mean(name, extra) if extra else ''}"
    for name in extra:
        near = did_you_mean(name, missing) if missing else ""
        yield f"{name} {tensors[name].shape} is not of a {layout.name} like ours{near}"
    for row in rows:
        if not row.ours:
            continue
        tensor = tensors[row.theirs]
        if all(path in shapes for path in row.ours):
            needed = shape_there(row, model, shapes)
            if tensor.shape != needed:
                yield f"{row.theirs} has the shape {tensor.shape}; {needed} is needed"
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            yield f"{row.theirs} holds {tensor.dtype.name}; floating point is needed"
    for name, other in layout.tied.items():
        if name in tensors and other in tensors and not _equal(tensors[name], tensors[other]):
            yield f"{name} is not the same as {other}, to which it is tied in our model"


def shape_there(row: Row, model: Model, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[int, ...]:
    """The shape that a row's tensor has in a file, for a model of ours."""
    blank = tuple(np.broadcast_to(np.float32(0), shapes[path].shape) for path in row.ours)
    return row.pair.back(blank, model).shape


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b)


def _raise(path: Path, problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN} more problems"] if len(problems) > SHOWN else []
        raise UserError(*(f"{path}: {problem}" for problem in (*problems[:SHOWN], *more)))


def _here(rows: list[Row], model: Model, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {}
    for row in rows:
        if row.ours:
            arrays |= dict(zip(row.ours, row.pair.here(tensors[row.theirs], model), strict=True))
    return arrays
