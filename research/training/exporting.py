"""Saving the result of a run for others: its best checkpoint in a foreign layout, by our own paths, or its adapters.

    export_run("runs/finetune_pretrained", "my-vit")                              in the layout of its source
    export_run("runs/mnist_cnn", "mnist.safetensors", "fathom")                   by our own paths
    export_run("runs/resnet", "resnet.safetensors", "torchvision-resnet")
    export_adapters("runs/finetune_gpt", "poems.safetensors")                     what was trained, without its base

What is saved can be the source of another run, and `load_state_dict` of the library that a layout is of takes it.

Adapters are saved with whatever else was trained, a head, say, and with the SHA-256 of the base that they belong to.
The source `Adapted` puts the two together again, and refuses another base.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax

from research.data import base
from research.errors import UserError, did_you_mean
from research.parameters import counts, paths
from research.pretrained import LAYOUTS, save_pretrained
from research.pretrained.files import SUFFIXES, write_file
from research.training import folder
from research.training.plan import plan_for
from research.training.reading import load_best, read_experiment
from research.training.sources import ADAPTERS, OURS, read_run


def export_run(path: str, to: str | os.PathLike, layout: str | None = None) -> dict[str, Any]:
    """Saves the best checkpoint of a run to a new folder or to a file; tells what was saved, as plain data.

    layout: the name of one of `pretrained.LAYOUTS`, or "fathom" for our own paths; that of the run's source if None,
        and our own where it has none. Running averages are saved where the run keeps them; adapters are merged.
    Raises UserError for a run without a checkpoint, a layout that has no words for its model, a folder that is there.
    """
    run = folder.open_run(path)
    layout = layout or _source_of(run).get("layout", OURS)
    known = (*(each.name for each in LAYOUTS), OURS)
    if layout not in known:
        raise UserError(f"layout: no '{layout}'{did_you_mean(layout, known)}")
    weights = read_run(str(run.path))
    if layout != OURS:
        data = base.from_description(run.read_json("data.json"))
        arrays = weights.parameters, weights.model_state
        save_pretrained(to, layout, weights.model, data.spec, *arrays, preprocessing=_preprocessing(data))
    elif Path(to).suffix in SUFFIXES:
        write_file(Path(to), weights.parameters | weights.model_state)
    else:
        raise UserError(f"{to}: our own paths are saved to a {' or '.join(SUFFIXES)} file")
    return {
        "folder": str(run.path),
        "step": weights.about["step"],
        "to": str(to),
        "layout": layout,
        "parameters": counts.total(weights.parameters).parameters,
    }


def _preprocessing(data: base.Description) -> dict[str, Any] | None:
    """How transformers is to prepare pictures as the run did; None for anything else."""
    if data.normalisation is None or len(data.spec.shape) != 3:
        return None
    scale, mean, deviation = data.normalisation
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": data.spec.shape[0], "width": data.spec.shape[1]},
        "do_rescale": True,
        "rescale_factor": float(scale),
        "do_normalize": True,
        "image_mean": [float(value) for value in mean],
        "image_std": [float(value) for value in deviation],
    }


def export_adapters(path: str, to: str | os.PathLike) -> dict[str, Any]:
    """Saves what a run trained, adapters above all, to a .safetensors file; tells what was saved, as plain data.

    Raises UserError for a run without adapters, or one that began with new values, which nobody else has.
    """
    run = folder.open_run(path)
    experiment = dataclasses.replace(read_experiment(run), devices=1)
    data, source = base.from_description(run.read_json("data.json")), _source_of(run)
    plan = plan_for(experiment, data.spec, data.examples, data.background)
    problems = [] if plan.adapted else [f"{run.path}: has no adapters; export_run saves the whole of it"]
    if "sha256" not in source:
        problems.append(f"{run.path}: began with new values; there is no base that its adapters could belong to")
    if Path(to).suffix != ".safetensors":
        problems.append(f"{to}: adapters are saved to a .safetensors file")
    if problems:
        raise UserError(*problems)
    state, _ = jax.device_get(load_best(run, experiment, plan))
    trainable, moving = state.used()
    stored = trainable | moving
    arrays = paths.unstacked(stored, plan.stacks_of(stored))
    about = {
        "base": {"path": source["path"], "sha256": source["sha256"]},
        "scales": {layer: float(scale) for layer, scale in plan.scales_by_block(experiment).items()},
    }
    write_file(Path(to), arrays, {ADAPTERS: json.dumps(about)})
    parameters = sum(array.size for view, array in arrays.items() if view not in moving)
    saved = {"to": str(to), "parameters": parameters, "bytes": Path(to).stat().st_size}
    return {"folder": str(run.path), "step": int(state.step), **saved, **about}


def _source_of(run: folder.RunFolder) -> dict[str, Any]:
    """What a run began with, as its plan tells it; nothing where that was new values."""
    return (run.read_json("inspection.json").get("partition") or {}).get("source") or {}
