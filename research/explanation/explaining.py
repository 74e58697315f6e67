"""A run explained: some of its answers, and what its layers are good for; kept in its folder as data and a page.

    told = explain_run("runs/digits_cnn", ["seven.png"])
    told["examples"][0]["says"], told["files"]

Without pictures of the user's own, examples of a split are explained: the most confidently wrong, and some that are
right. A method that the network or its data is not made for is left out, and that is said.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from research.analysis.evaluation_figures import save_figures
from research.data import pictures
from research.data.base import SPLITS, Loaded
from research.deployment.trained import Trained, read_trained
from research.errors import UserError, did_you_mean
from research.explanation import attribution, figures, removal, sanity
from research.explanation.looking import (
    Surface,
    apply,
    attentions_of,
    convolutions_of,
    in_batches,
    on_space,
    seen_of,
    surface_of,
    within,
)
from research.explanation.neighbours import Nearest, nearest_training
from research.explanation.page import explanation_page
from research.jsonl import write_atomically
from research.models.base import calls
from research.training import folder
from research.training.folder import RunFolder
from research.training.reading import load_for, read_experiment

COUNT = 6
"""Examples that are explained where no pictures are given."""
WRONG = 3
"""Of these, those that are wrong, at most."""
LOOKED_AT = 1_000
"""Examples of the split that are judged, to choose from and to remove layers by."""
COMPLETE = 1e-3
"""How far from complete integrated gradients may be; more steps are taken until then."""
STEPS = (64, 256, 1024)
ORDER = (
    "gradient x input",
    "integrated gradients",
    "SmoothGrad",
    "occlusion",
    "Grad-CAM",
    "attention rollout",
)


class Chosen(NamedTuple):
    """The examples that are explained."""

    raw: np.ndarray
    labels: np.ndarray
    """Of pictures of the user's own, those of the first class of the first task, which says how they are seen."""
    names: list[str]
    """What they are called: a file, or a place in the split."""
    truths: list[str | None]


class Explained(NamedTuple):
    """What was found, as arrays: what figures and the page are made of."""

    chosen: Chosen
    maps: dict[str, np.ndarray]
    """By method: (batch, *space)."""
    nearest: Nearest
    kernels: dict[str, np.ndarray]
    """By layer: (*window, in, features)."""
    features: dict[str, np.ndarray]
    """By layer, of the first example: (*space, features)."""


def explain_run(path: str, files: Sequence[str] = (), *, split: str = "test") -> dict[str, Any]:
    """Explains answers of a run, keeps what was found in its folder, and returns it as plain data.

    Raises UserError: for language models, pictures for other data, and what any reading of a run raises.
    """
    if split not in SPLITS:
        raise UserError(f"no split '{split}'{did_you_mean(split, SPLITS)}")
    run, trained = folder.open_run(path), read_trained(path)
    if len(trained.data.spec.shape) == 1 and trained.data.spec.classes == trained.data.spec.tokens:
        raise UserError(f"{run.path}: is a language model, which tells tokens; explanations are of classes")
    loaded, _ = load_for(run, read_experiment(run))
    examples = np.arange(min(LOOKED_AT, len(loaded.splits[split])))
    chosen = _read(files, loaded) if files else _choose(_logits_of(trained, loaded, split, examples), loaded, split)
    told, found = explain(trained, loaded, chosen)
    told["removal"] = removal.without_each(trained, loaded.splits["train"], loaded.splits[split], examples)
    told["used"] = removal.sentence(told["removal"])
    about = {"folder": str(run.path), "name": run.name, "split": split, "examples_looked_at": len(examples)}
    return _write(run, {**about, **trained.about, "path": str(run.path), **told}, found, loaded)


def _logits_of(trained: Trained, loaded: Loaded, split: str, examples: np.ndarray) -> np.ndarray:
    run = jax.jit(lambda parameters, seen: apply(trained, parameters, seen)[0])

    def of(raw, labels):
        return within(trained.data.spec, run(trained.parameters, seen_of(trained, raw, labels)), labels)

    return in_batches(of, loaded.splits[split], examples)


def _read(files: Sequence[str], loaded: Loaded) -> Chosen:
    read, problems = [], []
    for file in files:
        try:
            read.append(pictures.read_picture(file, loaded).array)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return Chosen(np.stack(read), np.zeros(len(read), np.int32), [str(file) for file in files], [None] * len(read))


def _choose(logits: np.ndarray, loaded: Loaded, split: str) -> Chosen:
    """The most confidently wrong of a split, and of those that are right one of each class, the least sure first."""
    labels = np.asarray(loaded.splits[split].labels[: len(logits)])
    says, sure = logits.argmax(1), softmax(logits, axis=1).max(1)
    wrong = np.flatnonzero(says != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:WRONG]
    right, seen = [], set()
    for i in np.argsort(sure, kind="stable"):
        if says[i] == labels[i] and labels[i] not in seen:
            right.append(i)
            seen.add(labels[i])
    places = np.array([*wrong, *right], int)[:COUNT]
    names, truths = loaded.spec.names, labels[places]
    raw = loaded.splits[split].read(places)
    return Chosen(raw, truths, [f"{split} example {i}" for i in places], [names[label] for label in truths])


# ---------------------------------------------------------------------------------------------------------------------
# What is found


def explain(trained: Trained, loaded: Loaded, chosen: Chosen) -> tuple[dict[str, Any], Explained]:
    """Some answers of a network, explained by every method that suits it: plain data, and arrays."""
    spec, seen = loaded.spec, seen_of(trained, chosen.raw, chosen.labels)
    surface = surface_of(trained, seen)
    baseline = baseline_of(trained, loaded, chosen, surface)
    logits = within(spec, jax.jit(surface.function)(trained.parameters, surface.inputs), chosen.labels)
    likely, target = softmax(logits, axis=1), logits.argmax(1)
    integrated = integrated_by(surface, target, baseline)
    steps, gaps = steps_to_complete(integrated, trained.parameters)
    methods, left_out = methods_for(trained, surface, seen, target, baseline)
    methods["integrated gradients"] = lambda parameters: on_space(integrated(parameters, steps)[0], surface.space)
    methods = {name: methods[name] for name in sorted(methods, key=ORDER.index)}
    maps = {name: method(trained.parameters) for name, method in methods.items()}
    checked = sanity.check(trained, methods)
    nearest = nearest_training(trained, loaded.splits["train"], chosen.raw, chosen.labels)
    near = np.asarray(loaded.splits["train"].labels)[nearest.examples]
    examples = [
        {
            "example": chosen.names[i],
            "label": chosen.truths[i],
            "says": spec.names[target[i]],
            "probability": float(likely[i].max()),
            "incompleteness": float(gaps[i]),
            "nearest": [
                {"example": int(place), "label": spec.names[label], "distance": float(distance)}
                for place, label, distance in zip(nearest.examples[i], near[i], nearest.distances[i], strict=True)
            ],
        }
        for i in range(len(chosen.raw))
    ]
    kernels, features = looks(trained, seen)
    if not kernels:
        left_out.append("kernels and feature maps: there is no layer with a window")
    told = {
        "examples": examples,
        "methods": list(methods),
        "integrated_gradients": {"steps": steps, "largest_gap": float(gaps.max())},
        "features_of": {"layer": nearest.layer, "looked_through": nearest.looked_through},
        "sanity": checked,
        "doubtful": sanity.doubtful(checked),
        "late": sanity.late(checked),
        "outlines": sanity.outlines(checked),
        "left_out": left_out,
    }
    return told, Explained(chosen, maps, nearest, kernels, features)


def baseline_of(trained: Trained, loaded: Loaded, chosen: Chosen, surface: Surface) -> jax.Array:
    """What stands for nothing: the background of pictures, the mean of other numbers, no vector for a token."""
    if loaded.maximum is None or loaded.background is None or loaded.normalisation is None:
        return jnp.zeros(surface.inputs.shape[1:])
    ground = np.full((1, *loaded.spec.shape), loaded.maximum if loaded.background == "light" else 0.0, np.float32)
    raws = np.broadcast_to(ground, (len(chosen.raw), *loaded.spec.shape))
    return seen_of(trained, raws, chosen.labels)


Integrated = Callable[[Mapping[str, Any], Any], tuple[jax.Array, jax.Array]]
"""(parameters, steps) -> maps, and how far each is from complete."""


def integrated_by(surface: Surface, target: jax.Array, baseline: jax.Array) -> Integrated:
    """Integrated gradients of some examples, as one program for any parameters and number of steps."""

    @jax.jit
    def run(parameters, steps):
        function = functools.partial(surface.function, parameters)
        found = attribution.integrated_gradients(function, surface.inputs, target, baseline, steps)
        return found, attribution.incompleteness(function, surface.inputs, target, baseline, found)

    return run


def steps_to_complete(integrated: Integrated, parameters: Mapping[str, Any]) -> tuple[int, np.ndarray]:
    """The steps that make integrated gradients complete, at most the last of STEPS, and what is missing."""
    for steps in STEPS:
        gaps = np.asarray(integrated(parameters, steps)[1])
        if gaps.max() < COMPLETE:
            break
    return steps, gaps


Method = Callable[[Mapping[str, Any]], np.ndarray]
"""Of parameters alone: (batch, *space)."""


def methods_for(
    trained: Trained, surface: Surface, seen: jax.Array, target: jax.Array, baseline: jax.Array
) -> tuple[dict[str, Method], list[str]]:
    """Each method as a function of the parameters alone, which gives (batch, *space); and what is left out, and why."""
    inputs, space = surface.inputs, surface.space
    patches = patches_for(space, trained.data.spec.tokens is not None or inputs.ndim == 2)

    def method(of: Callable) -> Method:
        run = jax.jit(lambda parameters: of(functools.partial(surface.function, parameters)))
        return lambda parameters: on_space(run(parameters), space)

    found = {
        "gradient x input": method(lambda f: attribution.gradient_times_input(f, inputs, target, baseline)),
        "SmoothGrad": method(lambda f: attribution.smooth_gradient(f, inputs, target, jax.random.key(0))),
        "occlusion": method(lambda f: attribution.occlusion(f, inputs, target, patches, baseline)),
    }
    left_out = []
    attentions, convolutions = attentions_of(trained), convolutions_of(trained)
    if attentions:
        found["attention rollout"] = _rollout(trained, seen, target, space)
        left_out.append("Grad-CAM: the network reads by attention")
    elif convolutions and len(convolutions[-1].outputs) - 2 == len(space):
        found["Grad-CAM"] = _grad_cam(trained, convolutions[-1].path, seen, target, space)
    else:
        left_out.append("Grad-CAM: there is no convolution")
    if not attentions:
        left_out.append("attention rollout: there is no attention")
    return found, left_out


def patches_for(space: tuple[int, ...], one_by_one: bool) -> np.ndarray:
    """What is occluded: a sixth of each side at a time, overlapping; of a table and of tokens one after another."""
    side = 1 if one_by_one else max(1, round(min(space) / 6))
    return attribution.patches_of(space, side, max(1, side // 2, max(space) // 24 if not one_by_one else 1))


def _grad_cam(trained: Trained, layer: str, seen: jax.Array, target: jax.Array, space: tuple[int, ...]) -> Method:
    @jax.jit
    def run(parameters):
        def function(inputs, added):
            edits = {layer: lambda inputs, outputs: outputs + added}
            logits, changed = apply(trained, parameters, inputs, features=(layer,), edits=edits)
            return logits, changed["features"][layer]

        found = attribution.grad_cam(function, seen, target)
        return jax.image.resize(found, (len(found), *space), "linear")

    return lambda parameters: np.asarray(run(parameters))


def _rollout(trained: Trained, seen: jax.Array, target: jax.Array, space: tuple[int, ...]) -> Method:
    """What the tokens that the answer is read off hold of each token at the beginning."""
    attentions = attentions_of(trained)
    last = attentions[-1].removesuffix("/attention/weights")

    @jax.jit
    def run(parameters):
        def score(added):
            edits = {last: lambda inputs, outputs: outputs + added}
            logits, changed = apply(trained, parameters, seen, features=attentions, edits=edits)
            return jnp.take_along_axis(logits, target[:, None], axis=1).sum(), changed["features"]

        _, changed = apply(trained, parameters, seen, features=(last,))
        slopes, weights = jax.grad(score, has_aux=True)(jnp.zeros_like(changed["features"][last]))
        read = (jnp.abs(slopes).max(-1) > 0).astype(jnp.float32)  # the answer depends on these tokens at the end
        held = attribution.rollout([weights[name] for name in attentions])
        return jnp.einsum("bq,bqk->bk", read, held) / jnp.maximum(read.sum(1), 1)[:, None]

    def on_places(parameters):
        found = run(parameters)
        if trained.data.spec.tokens is not None:
            return np.asarray(found)
        grid = next(call.outputs[1:-1] for call in calls(trained.model, trained.data.spec) if len(call.outputs) > 3)
        found = found[:, -int(np.prod(grid)) :].reshape(-1, *grid)  # a class token stands before the patches
        return np.asarray(jax.image.resize(found, (len(found), *space), "nearest"))

    return on_places


def looks(trained: Trained, seen: jax.Array) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Kernels of the layers with a window, and what these give of the first example; of pictures alone."""
    layers = tuple(call.path for call in convolutions_of(trained) if len(call.outputs) == 4)
    if not layers:
        return {}, {}
    run = jax.jit(lambda parameters, seen: apply(trained, parameters, seen, features=layers)[1]["features"])
    features = run(trained.parameters, seen[:1])
    kernels = {layer: np.asarray(trained.parameters[f"{layer}/kernel"]) for layer in layers}
    return kernels, {layer: np.asarray(found[0]) for layer, found in features.items()}


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def _write(run: RunFolder, told: dict[str, Any], found: Explained, loaded: Loaded) -> dict[str, Any]:
    """Keeps explanation.json, explanation.html and figures beside them; what was told, with where they are."""
    drawn = figures.draw_all(told, found, kind=loaded.kind, maximum=loaded.maximum)
    run.write_json("explanation.json", told)
    near = sorted({int(place) for row in found.nearest.examples for place in row})
    pictures = dict(zip(near, loaded.splits["train"].read(np.array(near)), strict=True))
    page = explanation_page(told, found.chosen.raw, found.maps, pictures, drawn, loaded.kind, loaded.maximum)
    write_atomically(run.path / "explanation.html", page.encode())
    named = {f"explanation_{name}": figure for name, figure in drawn.items()}
    files = [run.path / "explanation.json", run.path / "explanation.html", *save_figures(named, run.path / "figures")]
    return told | {"files": [str(file) for file in files]}
