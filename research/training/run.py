"""What the command line does with an experiment: train, resume, inspect, evaluate, predict.

Each function reads or writes a run folder (see `training.folder`) and returns what there is to show as plain data.
"""

import contextlib
import dataclasses
import functools
import hashlib
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.commandline.loading import blaming_if_there, load_config, modules_beside
from research.config import fingerprint, to_json
from research.data import base, pictures, text
from research.data.base import Loaded, Streamed
from research.errors import UserError
from research.inspection import Inspection, tables
from research.models import GPT, sampling
from research.parameters import counts
from research.training import display, evaluation, folder, interruption, loop, step, writers
from research.training.checkpoints import Checkpoints, match
from research.training.experiment import Experiment
from research.training.folder import RunFolder
from research.training.inspecting import inspect_experiment
from research.training.plan import Plan, boundary, make_plan, milestones, plan_for, replicate, shapes
from research.training.state import State, as_flat, from_flat

# ---------------------------------------------------------------------------------------------------------------------
# Inspect


def inspect(experiment: Experiment, *, compiled: bool = False) -> tuple[dict[str, Any], Inspection]:
    """What a run would do, and its network. Computes nothing and writes nothing; XLA's own figures if `compiled`."""
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    rehearse(experiment, plan, loaded)
    inspection = inspect_experiment(experiment, plan, loaded)
    described = describe_plan(experiment, plan, loaded, inspection)
    if compiled:
        described["compiled"] = xla_figures(experiment, plan, loaded)
    return described, inspection


def describe_plan(experiment: Experiment, plan: Plan, loaded: Loaded, inspection: Inspection) -> dict[str, Any]:
    """A plan as plain data: what `--mode inspect` prints and `inspection.json` holds."""
    parameters, _ = shapes(experiment, plan.spec)
    frozen = set(plan.frozen)
    layers = [
        {
            "path": path,
            "shape": list(array.shape),
            "parameters": counts.by_path(parameters)[path].parameters,
            "trainable": path not in frozen,
        }
        for path, array in parameters.items()
    ]
    log_every, evaluate_every = milestones(experiment, plan)
    return {
        "name": experiment.name,
        "model": type(experiment.model).__name__,
        "parameters": counts.total(parameters).parameters,
        "trainable": counts.total({path: parameters[path] for path in plan.trainable}).parameters,
        "bytes": counts.total(parameters).bytes,
        "layers": layers,
        "data": {
            "kind": type(experiment.data).__name__,
            **{name: len(split) for name, split in loaded.splits.items()},
            "shape": list(plan.spec.shape),
            "classes": plan.spec.classes,
            "tokens": plan.spec.tokens,
        },
        "steps": plan.steps,
        "epochs": plan.steps * experiment.batch_size / plan.examples,
        "batch_size": experiment.batch_size,
        "log_every": log_every,
        "evaluate_every": evaluate_every,
        "device": _device(plan),
        "depth": inspection.depth.longest,
        "network": tables.as_json(inspection),
    }


def xla_figures(experiment: Experiment, plan: Plan, loaded: Loaded) -> dict[str, int]:
    """What XLA says of a chunk of training, compiled: bytes of arguments, results, what is shared, and the rest."""
    leaves = boundary(experiment)
    state, frozen = jax.eval_shape(functools.partial(step.initial_state, plan), leaves)
    data = evaluation.data_shapes(plan, experiment, loaded)["train"]
    chunk = step.train_chunk.lower(plan, leaves, frozen, state, data, loop.lengths(0, [1]))
    memory = chunk.compile().memory_analysis()
    if memory is None:  # not every platform tells
        return {}
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "shared_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def _device(plan: Plan) -> str:
    device = jax.devices()[0]
    count = 1 if plan.mesh is None else plan.mesh.size
    return f"{count} x {device.device_kind}" if count > 1 else device.device_kind


# ---------------------------------------------------------------------------------------------------------------------
# Train and resume


def train(
    experiment: Experiment,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    tensorboard: bool = False,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains an experiment in a new run folder, and returns its summary."""
    if not experiment.name:
        experiment = dataclasses.replace(experiment, name=_stem(config_file))
    if tensorboard:
        experiment = dataclasses.replace(experiment, tensorboard=True)
    if experiment.tensorboard:
        writers.check_tensorboard()
    loaded = experiment.data.load()
    with interruption.signals() as interrupted:
        with blaming_if_there(config_file):
            plan = make_plan(experiment, loaded)
            rehearse(experiment, plan, loaded)
        described = describe_plan(experiment, plan, loaded, inspect_experiment(experiment, plan, loaded))
        if interrupted():  # there is nothing to save yet
            raise KeyboardInterrupt
        run = folder.create(workdir, experiment.name, fingerprint(experiment))
        display.show_plan(display.console(), {**described, "folder": str(run.path), "changes": list(changes)})
        with run.lock():
            try:
                _write_start(run, experiment, loaded, described, config_file, command)
            except BaseException:
                shutil.rmtree(run.path, ignore_errors=True)
                raise
            return _train(run, experiment, loaded, plan, None, interrupted)


def _stem(config_file: Path | None) -> str:
    return "run" if config_file is None else config_file.stem


def rehearse(experiment: Experiment, plan: Plan, loaded: Loaded) -> None:
    """Traces a chunk of training and an evaluation without computing anything, to meet mistakes before a run begins.

    What is traced here need not be traced again. Raises whatever the model, objective, schedule or augmentation does.
    """
    leaves = boundary(experiment)
    state, frozen = jax.eval_shape(functools.partial(step.initial_state, plan), leaves)
    data = evaluation.data_shapes(plan, experiment, loaded)
    jax.eval_shape(
        functools.partial(step.train_chunk, plan), leaves, frozen, state, data["train"], loop.lengths(0, [1])
    )
    jax.eval_shape(
        functools.partial(evaluation.evaluate_block, plan), leaves, frozen, *state.used(), data["test"], np.int32(1)
    )


def _write_start(run: RunFolder, experiment, loaded, described, config_file, command) -> None:
    if config_file is not None:
        source = config_file if config_file.suffix == ".py" else config_file.with_name("config.py")
        if source.is_file():
            run.copy_config_file(source)
            for name, file in modules_beside(source).items():
                run.copy_module(name, file)
    run.write_json("config.json", to_json(experiment))
    run.write_json("environment.json", folder.environment(command, config_file))
    run.write_json("inspection.json", described)
    run.write_json("data.json", {**base.describe(loaded), "fingerprint": data_fingerprint(loaded)})


def resume(path: str, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Goes on with a run from its latest whole checkpoint, or from the start where there is none yet."""
    run = folder.open_run(path)
    experiment = read_experiment(run)
    with run.lock():
        previous = _if_readable(run, "summary.json") or {}
        if previous.get("reason") in ("finished", "stopped early"):
            display.note(f"{run.path} has {previous['reason']} already, at step {previous['steps']}")
            return previous
        loaded, plan = load_for(run, experiment)
        with interruption.signals() as interrupted:
            template = jax.eval_shape(lambda: step.initial_state(plan, experiment)[0])
            restored, at = _restore_latest(run, template), 0
            if restored is not None:
                at = int(restored[0].step)
            if (environment := _if_readable(run, "environment.json")) is not None:
                run.append_environment(environment, folder.environment(command, None))
            (run.path / "summary.json").unlink(missing_ok=True)  # it told of an interruption
            display.note(f"going on with {run.path} from step {at} of {plan.steps}")
            return _train(run, experiment, loaded, plan, restored, interrupted)


def _if_readable(run: RunFolder, name: str) -> Any:
    """A file of the run that it can do without, or None."""
    try:
        return run.read_json(name) if run.has(name) else None
    except UserError as error:
        display.note(f"{error}; going on without it")
        return None


def _restore_latest(run: RunFolder, template: State) -> tuple[State, loop.Progress] | None:
    with Checkpoints(run.checkpoints) as checkpoints:
        latest = checkpoints.restore_latest()
    if latest is None:
        return None
    for line in latest.notes:
        display.note(line)
    arrays = match(latest.arrays, as_flat(template), str(run.path))
    return from_flat(arrays, template), loop.Progress(**latest.about["progress"])


def _train(run: RunFolder, *arguments) -> dict[str, Any]:
    """The training of a run whose folder is there and locked; a summary tells also of what went wrong."""
    try:
        return _train_to_the_end(run, *arguments)
    except UserError as error:
        reason = "not finite" if isinstance(error, loop.NonFinite) else "failed"
        with contextlib.suppress(UserError):  # a full disk, say
            run.write_json("summary.json", {"reason": reason, "problems": list(error.problems)})
        raise


def _train_to_the_end(
    run: RunFolder, experiment: Experiment, loaded: Loaded, plan: Plan, restored, interrupted
) -> dict[str, Any]:
    state, frozen = step.initial_state(plan, experiment)
    progress = loop.Progress()
    if restored is not None:
        state, progress = restored
    state, frozen = replicate(plan, (state, frozen))
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints))
        if frozen:
            frozen = _frozen(checkpoints, plan, frozen, saved=restored is not None)
        writer = stack.enter_context(writers.MetricWriter(run.path, tensorboard=experiment.tensorboard))
        writer.truncate_after(int(state.step))
        live = stack.enter_context(display.Progress(plan.steps, int(state.step)))
        edge = loop.Edge(writer.write, writer.sync, live.update, live.note, checkpoints, interrupted)
        work = loop.Work(experiment, plan, loaded, frozen)
        state, reason = loop.fit(work, edge, state, progress)
        checkpoints.wait()
        writer.sync()
    summary = summarise(run, work, state, progress, reason)
    run.write_json("summary.json", summary)
    return summary


def _frozen(checkpoints: Checkpoints, plan: Plan, frozen, *, saved: bool):
    """The frozen parameters: saved at the start of a run, read back when it goes on."""
    if not saved:
        checkpoints.save_frozen(frozen)
        return frozen
    arrays = match(checkpoints.restore_frozen(), as_flat(frozen), "the frozen parameters")
    return replicate(plan, from_flat(arrays, frozen))


def summarise(run: RunFolder, work: loop.Work, state: State, progress: loop.Progress, reason: str) -> dict[str, Any]:
    """How a run ended; the test figures are those of the best checkpoint, if the run came to its end."""
    summary = {
        "name": work.experiment.name,
        "reason": reason,
        "steps": int(state.step),
        "wall_time": progress.time,
        "best": {"step": progress.best_step, "metric": work.experiment.select, "value": progress.best},
        "skipped": int(state.skipped),
        "folder": str(run.path),
    }
    if reason == "interrupted":
        return summary | {"resume": f"python launch.py --resume {shlex.quote(str(run.path))}"}
    if progress.best_step is None:
        raise loop.NonFinite(f"{run.path}: no evaluation had a finite loss, so there is no best checkpoint to test")
    best, frozen = load_best(run, work.experiment, work.plan)
    return summary | {"test": loop.report(work._replace(frozen=frozen), best, "test")}


# ---------------------------------------------------------------------------------------------------------------------
# Reading a run


def read_experiment(run: RunFolder) -> Experiment:
    """The experiment of a run, with the classes of its config file."""
    return load_config(str(run.path / "config.json"), (Experiment,)).config


def load_for(run: RunFolder, experiment: Experiment) -> tuple[Loaded, Plan]:
    """The data and plan of a run. Raises UserError if the data is no longer what it was."""
    loaded = experiment.data.load()
    then, now = run.read_json("data.json")["fingerprint"], data_fingerprint(loaded)
    if then != now:
        raise UserError(f"{run.path}: the data has changed since the run began ({type(experiment.data).__name__})")
    return loaded, make_plan(experiment, loaded)


def load_best(run: RunFolder, experiment: Experiment, plan: Plan) -> tuple[State, dict[str, jax.Array]]:
    """The best checkpoint of a run, or the latest where the best is damaged: its state, and the frozen parameters."""
    template, frozen = jax.eval_shape(lambda: step.initial_state(plan, experiment))
    with Checkpoints(run.checkpoints) as checkpoints:
        try:
            found = checkpoints.restore_best()
        except UserError as error:
            if not checkpoints.steps("best") or not checkpoints.steps():
                raise
            display.note(f"{error}; using the latest checkpoint in its place")
            found = checkpoints.restore_latest()
        if frozen:
            frozen = from_flat(match(checkpoints.restore_frozen(), as_flat(frozen), str(run.path)), frozen)
    for line in found.notes:
        display.note(line)
    state = from_flat(match(found.arrays, as_flat(template), str(run.path)), template)
    return replicate(plan, (state, frozen))


def evaluate(path: str, *, split: str = "test") -> dict[str, Any]:
    """Figures of a run's best checkpoint on a split."""
    run = folder.open_run(path)
    experiment = read_experiment(run)
    loaded, plan = load_for(run, experiment)
    state, frozen = load_best(run, experiment, plan)
    figures = loop.report(loop.Work(experiment, plan, loaded, frozen), state, split)
    return {"folder": str(run.path), "split": split, "step": int(state.step), split: figures}


def predict(path: str, files: Sequence[str]) -> list[dict[str, Any]]:
    """Classes of a user's own pictures, the likeliest first: [{"file", "classes": [[name, probability], ...], "note"}].

    The pictures are decoded, converted and normalised as the run's data was, which itself is not needed.
    """
    run = folder.open_run(path)
    experiment = read_experiment(run)
    told = run.read_json("data.json")
    data = base.from_description(told)
    read = [pictures.read_picture(file, data) for file in files]
    plan = plan_for(experiment, data.spec, told["examples"]["train"], data.background)
    state, frozen = load_best(run, experiment, plan)
    inputs = replicate(plan, np.stack([picture.array for picture in read]))
    likely = evaluation.probabilities(
        plan, boundary(experiment), frozen, *state.used(), inputs, evaluation.as_float32(data.normalisation)
    )
    return [
        {
            "file": str(file),
            "classes": sorted(zip(data.spec.names, map(float, row), strict=True), key=lambda pair: -pair[1]),
            "note": "; ".join(picture.notes) or None,
        }
        for file, picture, row in zip(files, read, np.asarray(likely), strict=True)
    ]


def sample(path: str, prompt: str, *, count: int | None = None, seed: int = 0, **how: Any) -> dict[str, Any]:
    """How a run's language model goes on from a text; `how` is as `models.sampling.sample` takes it.

    count: of tokens; up to the length that the model was trained on if None, for later positions have learned nothing.
    Raises UserError for a run of another kind of model or data.
    """
    run = folder.open_run(path)
    experiment = read_experiment(run)
    told = run.read_json("data.json")
    data = base.from_description(told)
    if not isinstance(experiment.model, GPT) or data.kind != "bytes":
        what = f"{type(experiment.model).__name__} on {type(experiment.data).__name__}"
        raise UserError(f"{run.path}: is of {what}; only GPT on the bytes of a text can be sampled from")
    plan = plan_for(experiment, data.spec, told["examples"]["train"], data.background)
    state, frozen = load_best(run, experiment, plan)
    trainable, model_state = state.used()
    parameters = plan.merge(trainable, frozen, model_state)["params"]
    tokens = text.as_tokens(prompt)[None]
    if count is None:
        count = max(data.spec.shape[0] - tokens.shape[1], 0)
    key = jax.random.key(seed)
    written = sampling.sample(experiment.model, data.spec, parameters, tokens, key, count=count, **how)
    return {
        "folder": str(run.path),
        "step": int(state.step),
        "prompt": prompt,
        "text": text.as_text(written[0]),
        "tokens": written[0].tolist(),
    }


def data_fingerprint(loaded: Loaded) -> str:
    """Sixteen hexadecimal digits that change when any example or label does (labels alone where data is streamed)."""
    digest = hashlib.blake2b(digest_size=8)
    for name, split in sorted(loaded.splits.items()):
        digest.update(f"{name} {len(split)}".encode())
        digest.update(np.ascontiguousarray(split.labels))
        if not isinstance(split, Streamed):
            digest.update(np.ascontiguousarray(split.inputs))
    return digest.hexdigest()
