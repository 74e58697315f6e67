"""What training begins with: weights read from a source, and fitted to the parameters of an experiment.

    weights = read_source("runs/glyphs_cnn")                # by the paths of blocks, however they are stored
    weights = read_source("vit-base-patch16-224")           # a folder or file of weights, in a layout of `pretrained`
    beginning = fit(plan, experiment, weights)              # by the paths that this experiment stores
    state, frozen = initial_state(plan, experiment, beginning.arrays)

Nothing is guessed: a parameter that the source has not, or has in another shape, is an error unless a rule of the
partition says that it is to be reinitialised, and all such errors are told at once. Position embeddings alone, and the
first convolution, are fitted to inputs of another size, and the plan says so.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.config import differences, is_config
from research.data import base
from research.errors import UserError, did_you_mean
from research.models.base import AnyModel
from research.parameters import adapters, paths
from research.parameters.partition import listed
from research.pretrained import files
from research.pretrained.fitting import Ends, Unfit, ends_of, grid_of, resized
from research.pretrained.layout import STATE
from research.pretrained.layouts import has_our_paths
from research.pretrained.reading import translate
from research.pretrained.writing import OUR_OWN
from research.training import folder
from research.training.experiment import Experiment
from research.training.plan import Plan, cut, plan_for, shapes, stacks_of
from research.training.reading import load_best, parameters_fingerprint, read_experiment

OURS = "fathom"
"""The layout of files whose names are our own paths."""
ADAPTERS = "fathom adapters"
"""Where a file of adapters tells what they belong to."""


class Weights(NamedTuple):
    """What a source holds, by paths under which nothing is stacked: block_03/dense/kernel."""

    parameters: dict[str, np.ndarray]
    model_state: dict[str, np.ndarray]
    """By collection and path: batch_stats/stem/norm/mean."""
    about: dict[str, Any]
    """What it is, as plain data for inspection.json; `path` says where it was read."""
    model: AnyModel | None = None
    """What they are of, where that is known."""
    ends: Ends = Ends()
    """What of them can be fitted to inputs of another size."""
    unused: tuple[str, ...] = ()
    """What was found with them and has no part in the model, by its own names."""


class Beginning(NamedTuple):
    """What of a source an experiment begins with."""

    arrays: dict[str, np.ndarray]
    """Parameters and model state by the paths that the experiment stores, for each of `plan.begun`."""
    unused: tuple[str, ...]
    """What of the source is not used."""
    about: dict[str, Any]
    fitted: Mapping[str, str] = MappingProxyType({})
    """What was done to parameters that are not of the size they had: {path: how}."""
    notes: tuple[str, ...] = ()
    """What else people should know: what was assumed, and in what the source's model is another."""


def read_source(path: str) -> Weights:
    """The weights at a path: of the best checkpoint of a run, or in a file or folder. Raises UserError."""
    if _is_a_run(path):  # which may hold a file of its adapters
        return read_run(path)
    return read_weights(path) if files.holds_weights(path) or _is_of_others(path) else read_run(path)


def _is_a_run(path: str) -> bool:
    run = folder.RunFolder(Path(path))
    return run.has("config.json") and run.has("data.json")


def _is_of_others(path: str) -> bool:
    """Whether a folder has a config.json that is no run's; its weights may be missing."""
    run = folder.RunFolder(Path(path))
    return run.has("config.json") and not run.has("data.json") and not run.has("inspection.json")


def read_weights(path: str) -> Weights:
    """The weights in a file or folder, in a layout of `pretrained` or by our own paths. Raises UserError."""
    file = files.read_source(path)
    if has_our_paths(file):
        return _by_our_paths(file)
    source = translate(file)
    about = {
        "path": str(source.path),
        "kind": "weights",
        "layout": source.layout,
        "model": type(source.model).__name__,
        "notes": [*source.notes, *_normalised_there(source.path)],
        "sha256": parameters_fingerprint(source.parameters | source.state),
    }
    ends = ends_of(source.model, source.spec)
    return Weights(source.parameters, source.state, about, source.model, ends, source.unused)


def _normalised_there(path: Path) -> Iterator[str]:
    """How pictures were normalised for the source, where it says so."""
    told = files.read_preprocessing(path)
    if told.get("image_mean") and told.get("image_std"):
        there = f"mean {told['image_mean']} and deviation {told['image_std']}"
        yield f"pictures were normalised by {there} there; `research.data.Normalised` does so here"


def _by_our_paths(file: files.Source) -> Weights:
    parameters = {path: array for path, array in file.tensors.items() if not path.startswith(STATE)}
    state = {path: array for path, array in file.tensors.items() if path.startswith(STATE)}
    sha256 = parameters_fingerprint(dict(file.tensors))
    return Weights(parameters, state, {"path": str(file.path), "kind": "weights", "layout": OURS, "sha256": sha256})


def with_adapters(weights: Weights, path: str) -> Weights:
    """A base with adapters that `exporting.export_adapters` saved, merged. Raises UserError for those of another."""
    file = files.read_source(path)
    told = files.read_metadata(file.path).get(ADAPTERS) if file.path.suffix == ".safetensors" else None
    if told is None:
        raise UserError(f"{path}: holds no adapters, which say what base they belong to; `export_adapters` saves some")
    about = json.loads(told)
    there, here = about["base"]["sha256"], weights.about["sha256"]
    if there != here:
        of = f"the adapters belong to {about['base']['path']} (sha256 {there[:12]}...)"
        raise UserError(f"{path}: {of}, and {weights.about['path']} is another (sha256 {here[:12]}...)")
    state = {name: array for name, array in file.tensors.items() if name.startswith(STATE)}
    both = weights.parameters | {name: array for name, array in file.tensors.items() if name not in state}
    try:
        merged = jax.device_get(adapters.merge(both, about["scales"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: its adapters do not fit kernels of {weights.about['path']} ({error})") from None
    model_state = weights.model_state | state
    replaced = {weights.ends.first, weights.ends.positions} & {*file.tensors}
    return weights._replace(
        parameters=merged,
        model_state=model_state,
        about={**weights.about, "adapters": str(path), "sha256": parameters_fingerprint(merged | model_state)},
        ends=Ends() if replaced else weights.ends,
    )


def read_run(path: str) -> Weights:
    """The weights of the best checkpoint of one of our runs, averaged where it keeps averages."""
    run = folder.open_run(path)
    experiment = dataclasses.replace(read_experiment(run), devices=1)
    data = base.from_description(run.read_json("data.json"))
    plan = plan_for(experiment, data.spec, data.examples, data.background)
    state, frozen = jax.device_get(load_best(run, experiment, plan))
    trainable, moving = state.used()
    parameters = _by_view(experiment, plan.merged(experiment, trainable, frozen))
    model_state = _by_view(experiment, paths.joined(moving | {path: frozen[path] for path in plan.fixed}))
    about = {
        "path": str(run.path),
        "kind": "run",
        "model": type(experiment.model).__name__,
        "step": int(state.step),
        "sha256": parameters_fingerprint(parameters | model_state),
    }
    return Weights(parameters, model_state, about, experiment.model, ends_of(experiment.model, data.spec))


def _by_view(experiment: Experiment, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays or shapes as the model stores them, by the paths of blocks."""
    return paths.unstacked(arrays, stacks_of(experiment, arrays))


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def fit(plan: Plan, experiment: Experiment, weights: Weights) -> Beginning:
    """The weights as the experiment stores them. Raises UserError with a line for each thing that does not fit."""
    parameters, model_state = shapes(experiment, plan.spec)
    here = parameters | model_state
    there = weights.parameters | weights.model_state
    stored = cut(experiment, plan.layout, here)
    members: dict[str, list[str]] = {leaf: [] for leaf in plan.begun}
    for path, view in paths.views(stored, plan.stacks_of(stored)).items():
        if view.leaf in members:
            members[view.leaf].append(path)
    needed = [path for inside in members.values() for path in inside]
    source, wanted, grid = weights.about["path"], _by_view(experiment, here), grid_of(experiment.model, plan.spec)
    others = tuple(_other_models(weights.model, experiment.model))
    problems, sizes, found, fitted = list(_missing(there, needed, source)), [], {}, {}
    for path in (path for path in needed if path in there):
        try:
            found[path], how = _fitted(path, there[path], wanted[path], weights.ends, grid)
        except OtherSize as problem:
            sizes.append(f"{path} is {problem}")
        except Unfit as problem:
            problems.append(f"{source}: {path} is {problem}")
        else:
            fitted |= {path: how} if how else {}
    if sizes:
        them = "it" if len(sizes) == 1 else "them"
        problems.append(f"{source}: {listed(sizes)}; a rule with reinitialise=True would begin {them} anew")
    if problems:
        raise UserError(*(f"{source}: {other}" for other in others), *problems)
    arrays = {leaf: _as_stored([found[path] for path in inside], stored[leaf]) for leaf, inside in members.items()}
    unused = (*(path for path in there if path not in set(needed)), *weights.unused)
    notes = (*weights.about.get("notes", ()), *others, *_not_finite(found, source))
    return Beginning(arrays, unused, weights.about, fitted, notes)


def _not_finite(found: Mapping[str, np.ndarray], source: str) -> Iterator[str]:
    """A line for weights that are no numbers, with which no training comes to anything."""
    if wrong := [path for path, value in found.items() if _is_floating(value) and not np.isfinite(value).all()]:
        yield f"{source}: {listed(wrong)} hold numbers that are not finite"


class OtherSize(Unfit):
    """A parameter has another size than here."""


def _missing(there: Mapping[str, Any], needed: list[str], source: str) -> Iterator[str]:
    """A line for what the source lacks."""
    if missing := [path for path in needed if path not in there]:
        near = did_you_mean(missing[0], there) if len(missing) == 1 else ""
        yield f"{source}: without {listed(missing)}, which no rule reinitialises{near}"


def _fitted(
    path: str, value: np.ndarray, wanted: jax.ShapeDtypeStruct, ends: Ends, grid: tuple[int, int] | None
) -> tuple[np.ndarray, str]:
    """A parameter of the source in the shape it has here, and what was done to it. Raises Unfit."""
    fitted = resized(path, value, tuple(wanted.shape), ends, grid)
    if fitted is None:
        raise OtherSize(f"{tuple(value.shape)} there and {tuple(wanted.shape)} here")
    if not _is_floating(value) and _is_floating(wanted):
        raise Unfit(f"{value.dtype.name} there and {wanted.dtype.name} here")
    return fitted


def _other_models(there: AnyModel | None, here: AnyModel) -> Iterator[str]:
    """In what the source's model is another than that of the experiment, though its parameters may fit."""
    if there is not None and type(there) is not type(here):
        yield f"the source's model is {type(there).__name__}, and that here {type(here).__name__}"
    elif there is not None and is_config(here):
        for field in differences(there, here):
            if field.path not in OUR_OWN:
                yield f"{field.path} is {field.left!r} in the source's model, and {field.right!r} here"


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _as_stored(members: list[np.ndarray], form: jax.ShapeDtypeStruct) -> np.ndarray:
    """One array of those of its blocks, if it is a stack, bit for bit where the dtype is the same."""
    array = members[0] if members[0].shape == form.shape else np.stack(members)
    return array if array.dtype == form.dtype else array.astype(form.dtype)
