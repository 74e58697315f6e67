"""Saving a model's weights in a foreign layout, for people who work with another library.

    save_pretrained("our-vit", "transformers-vit", model, spec, parameters)        # a new folder, with a config.json
    save_pretrained("resnet.safetensors", "torchvision-resnet", model, spec, parameters, state)

What is saved is what `read_pretrained` would read: a model that the layout cannot tell of is refused.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.config import differences
from research.errors import UserError
from research.models import Model
from research.models.base import stacks
from research.parameters import unstacked
from research.pretrained.about import About
from research.pretrained.files import write_file, write_folder
from research.pretrained.layout import Layout, Row
from research.pretrained.layouts import named
from research.pretrained.reading import expected, shape_there
from research.spec import Spec

OUR_OWN = ("initializer", "dropout", "scan", "remat", "separator")
"""Fields that no file tells: how a model is trained and stored, and what is given to others along with the text."""


def save_pretrained(
    path: str | os.PathLike,
    layout: str,
    model: Model,
    spec: Spec,
    parameters: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Writes parameters and running statistics {path: array} in a layout: to a new folder, or to a file of its suffix.

    A folder gets a config.json as well where the layout has one, and then `preprocessing`, if it is given, as
    preprocessor_config.json. Blocks may be stacked. It is all written or nothing.
    Raises UserError with a line for each problem: no such layout, a model that it has no words for, parameters that
    are missing, too many, or of a wrong shape, a folder that is there.
    """
    path, chosen = Path(path), named(layout)
    is_file = path.suffix in (".safetensors", ".npz")
    if (is_file and path.suffix != chosen.suffix) or (not is_file and chosen.suffix == ".npz"):
        raise UserError(f"{path}: {layout} is saved to a {chosen.suffix} file{'' if is_file else ', not to a folder'}")
    arrays = _unstacked(model, {**parameters, **(state or {})})
    unrolled = dataclasses.replace(model, scan=False) if hasattr(model, "scan") else model
    shapes = expected(unrolled, spec)
    settings = _settings(chosen, unrolled, spec, shapes, path)
    rows = [row for row in chosen.rows(unrolled) if not row.ours or any(ours in arrays for ours in row.ours)]
    _check(chosen, rows, arrays, shapes, path)
    if path.suffix == ".npz" and (
        foreign := {str(array.dtype) for array in arrays.values() if array.dtype.kind != "f"}
    ):
        raise UserError(f"{path}: an .npz file cannot hold {', '.join(sorted(foreign))}; use float32")
    tensors = {row.theirs: row.pair.back(tuple(arrays[ours] for ours in row.ours), unrolled) for row in rows}
    if is_file:
        write_file(path, tensors)
    else:
        write_folder(path, tensors, settings, preprocessing if settings is not None else None)


def _unstacked(model: Model, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays by the paths of an unrolled model, on the host; they may have these already."""
    deep = {
        name: blocks for name, blocks in stacks(model).items() if any(path.startswith(f"{name}/") for path in arrays)
    }
    return {path: np.asarray(array) for path, array in unstacked(arrays, deep).items()}


def _settings(
    layout: Layout, model: Model, spec: Spec, shapes: Mapping[str, jax.ShapeDtypeStruct], path: Path
) -> dict[str, Any] | None:
    """The config.json. Raises UserError where what would be read again is another model."""
    family = type(layout.samples[0])
    if not isinstance(model, family):
        raise UserError(f"{path}: {layout.name} is for a {family.__name__}, and this is a {type(model).__name__}")
    settings = layout.write(model, spec) if layout.write else None
    rows = [row for row in layout.rows(model) if row.ours and all(ours in shapes for ours in row.ours)]
    about = About(str(path), settings or {}, {row.theirs: shape_there(row, model, shapes) for row in rows})
    try:
        again, _ = layout.read(about)
        about.check()
    except UserError as error:
        raise UserError(*(f"{problem} (as {layout.name} would say it)" for problem in error.problems)) from None
    problems = [
        f"{path}: {layout.name} has no way to say {name}={left!r}; it would be {right!r}"
        for name, left, right in differences(model, again)
        if name not in OUR_OWN
    ]
    if problems:
        raise UserError(*problems)
    return settings


def _check(layout: Layout, rows: list[Row], arrays: Mapping[str, np.ndarray], shapes: Mapping, path: Path) -> None:
    """Raises UserError for arrays that are missing, too many or of a wrong shape."""
    known = {ours for row in rows for ours in row.ours}
    problems = [f"{path}: {name} is missing" for name in shapes if name not in arrays]
    problems += [f"{path}: {name} has no name in {layout.name}" for name in arrays if name not in known]
    for name in shapes:
        if name in arrays and arrays[name].shape != shapes[name].shape:
            problems.append(f"{path}: {name} is {arrays[name].shape}; the model's is {shapes[name].shape}")
    if problems:
        raise UserError(*problems)
