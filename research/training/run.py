"""What the command line does with an experiment: train, resume, inspect, evaluate, sample.

Each function reads or writes a run folder (see `training.folder`) and returns what there is to show as plain data.
"""

import codecs
import contextlib
import dataclasses
import functools
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.commandline.arguments import is_of_partition
from research.commandline.loading import blaming_if_there, modules_beside
from research.config import differences, fingerprint, to_json
from research.data import base, text
from research.data.base import Loaded
from research.errors import UserError
from research.inspection import Inspection, tables
from research.jsonl import encode
from research.models import GPT, sampling
from research.parameters import counts, paths
from research.parameters.partition import listed
from research.training import (
    display,
    evaluation,
    exporting,
    features,
    folder,
    interpolation,
    interruption,
    loop,
    migration,
    partitioned,
    phases,
    sources,
    step,
    writers,
)
from research.training.checkpoints import Checkpoints, match
from research.training.experiment import Experiment
from research.training.folder import RunFolder
from research.training.inspecting import inspect_experiment
from research.training.plan import Plan, boundary, make_plan, milestones, plan_for, replicate, shapes
from research.training.reading import (
    data_fingerprint,
    load_best,
    load_for,
    parameters_fingerprint,
    read_experiment,
    restore_frozen,
)
from research.training.sources import Beginning
from research.training.state import State, as_flat, from_flat

# ---------------------------------------------------------------------------------------------------------------------
# Inspect


def inspect(experiment: Experiment, *, compiled: bool = False) -> tuple[dict[str, Any], Inspection]:
    """What a run would do, and its network. Computes nothing and writes nothing; XLA's own figures if `compiled`."""
    loaded = experiment.data.load()
    plan, beginning = prepare(experiment, loaded)
    rehearse(experiment, plan, loaded)
    inspection = inspect_experiment(experiment, phases.last_plan(plan), loaded)
    described = describe_plan(experiment, plan, loaded, inspection, beginning)
    if compiled:
        described["compiled"] = xla_figures(experiment, plan, loaded)
    return described, inspection


def prepare(experiment: Experiment, loaded: Loaded) -> tuple[Plan, Beginning | None]:
    """The plan of an experiment, and what it begins with, if not with new values. Raises UserError for both at once."""
    problems, found = [], []
    for make in (lambda: make_plan(experiment, loaded), lambda: read_beginning(experiment)):
        try:
            found.append(make())
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    plan, weights = found
    if experiment.finetuning is not None and experiment.finetuning.earlier is not None:
        interpolation.check_earlier(loaded, experiment.finetuning.earlier.load())
    return plan, weights and sources.fit(plan, experiment, weights)


def read_beginning(experiment: Experiment) -> sources.Weights | None:
    """What the source of an experiment holds; None where it begins with new values."""
    finetuning = experiment.finetuning
    return finetuning.source.read() if finetuning is not None and finetuning.source is not None else None


def describe_plan(
    experiment: Experiment,
    plan: Plan,
    loaded: Loaded,
    inspection: Inspection,
    beginning: Beginning | None = None,
) -> dict[str, Any]:
    """A plan as plain data: what `--mode inspect` prints and `inspection.json` holds."""
    parameters, _ = shapes(experiment, plan.spec)
    layers = partitioned.rows(plan, experiment, beginning.fitted if beginning else {})
    told = {"rules": partitioned.totals(layers)}
    if beginning is not None:
        told |= {"source": beginning.about, "unused": list(beginning.unused)}
        told |= {"fitted": dict(beginning.fitted), "notes": list(beginning.notes)}
    log_every, evaluate_every = milestones(experiment, plan)
    return {
        "name": experiment.name,
        "model": type(experiment.model).__name__,
        "parameters": counts.total(parameters).parameters,
        "trainable": told["rules"][-1]["trainable"],
        "bytes": counts.total(parameters).bytes,
        "layers": layers,
        "partition": None if partitioned.is_plain(experiment) else told,
        "features": _features(plan, experiment, loaded),
        "data": {
            "kind": type(experiment.data).__name__,
            **{name: len(split) for name, split in loaded.splits.items()},
            "shape": list(plan.spec.shape),
            "classes": plan.spec.classes,
            "tokens": plan.spec.tokens,
            "tasks": _tasks(experiment, loaded),
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


def _tasks(experiment: Experiment, loaded: Loaded) -> list[dict[str, Any]]:
    """What is learned beside what, as plain data."""
    sizes = {name: base.sizes_by_task(loaded.spec, split) for name, split in loaded.splits.items()}
    return [
        {
            "name": task.name,
            "kind": type(task.data).__name__,
            "classes": loaded.spec.tasks[index][1],
            "objective": type(task.objective).__name__,
            "weight": task.weight,
            **{name: of_split[index] for name, of_split in sizes.items()},
        }
        for index, task in enumerate(experiment.tasks)
    ]


def _features(plan: Plan, experiment: Experiment, loaded: Loaded) -> dict[str, Any] | None:
    """Before which layer features are computed once, if they are."""
    cut = features.find_cut(plan, experiment, loaded)
    if cut is None:
        return None
    return {"layer": cut.layer, "shape": list(cut.features.shape), "dtype": cut.features.dtype.name}


def xla_figures(experiment: Experiment, plan: Plan, loaded: Loaded) -> dict[str, int]:
    """What XLA says of a chunk of training, compiled: bytes of arguments, results, what is shared, and the rest."""
    leaves = boundary(experiment)
    state, frozen = step.state_shapes(plan, leaves)
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
            plan, beginning = prepare(experiment, loaded)
            rehearse(experiment, plan, loaded)
        inspection = inspect_experiment(experiment, phases.last_plan(plan), loaded)
        described = describe_plan(experiment, plan, loaded, inspection, beginning)
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
            return _train(run, experiment, loaded, plan, beginning, None, interrupted)


def _stem(config_file: Path | None) -> str:
    return "run" if config_file is None else config_file.stem


def rehearse(experiment: Experiment, plan: Plan, loaded: Loaded) -> None:
    """Traces a chunk of training and an evaluation without computing anything, to meet mistakes before a run begins.

    What is traced here need not be traced again. Raises whatever the model, objective, schedule or augmentation does.
    """
    leaves = boundary(experiment)
    data = evaluation.data_shapes(plan, experiment, loaded)
    for phase in {phases.last_plan(plan): None, plan: None}:
        state, frozen = step.state_shapes(phase, leaves)
        chunk = functools.partial(step.train_chunk, phase)
        jax.eval_shape(chunk, leaves, frozen, state, data["train"], loop.lengths(0, [1]))
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
            _check_partition(run, plan, experiment)
            restored, beginning, at = _restore_latest(run, plan, experiment), None, 0
            if restored is not None:
                at = int(restored[0].step)
            else:
                beginning = _begin_again(run, plan, experiment)
            if (environment := _if_readable(run, "environment.json")) is not None:
                run.append_environment(environment, folder.environment(command, None))
            (run.path / "summary.json").unlink(missing_ok=True)  # it told of an interruption
            display.note(f"going on with {run.path} from step {at} of {plan.steps}")
            return _train(run, experiment, loaded, plan, beginning, restored, interrupted)


def migrate(path: str, change: Callable[[Experiment], Experiment], *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Goes on in a new run from where one has come, with another partition; the old run stays as it is.

    change: gives the experiment with the other partition. Raises UserError where anything else differs, and for a run
    that has come to its end, or has no checkpoint yet.
    """
    old = folder.open_run(path)
    before = read_experiment(old)
    experiment = change(before)
    others = [field.path for field in differences(before, experiment) if not is_of_partition(field.path)]
    if others:
        raise UserError(f"{', '.join(others)}: of a run that goes on the partition alone may be changed")
    with old.lock():
        loaded, was = load_for(old, before)
        restored = _restore_latest(old, was, before)
        if restored is None:
            raise UserError(f"{old.path}: no checkpoint has been saved yet, so there is nothing to go on from")
        state, progress = restored
        if int(state.step) >= was.steps:
            raise UserError(f"{old.path}: has come to its end, step {was.steps}; a new run may have it for its source")
        with Checkpoints(old.checkpoints) as checkpoints:
            frozen = restore_frozen(checkpoints, was, before)
        phase = phases.plan_of(was, int(state.step), as_flat(state))
    with interruption.signals() as interrupted:
        at = migration.Before(phase, before, state, frozen)
        experiment = migration.apart(at, make_plan(experiment, loaded), experiment)
        plan, beginning = prepare(experiment, loaded)
        rehearse(experiment, plan, loaded)
        state, frozen = migration.migrated(at, plan, experiment)
        inspection = inspect_experiment(experiment, phases.last_plan(plan), loaded)
        described = describe_plan(experiment, plan, loaded, inspection, beginning)
        layers = [{**row, "begins": "loaded"} for row in described["layers"]]
        described |= {"layers": layers, "goes_on_from": {"run": str(old.path), "step": int(state.step)}}
        if described["partition"] is not None:
            described["partition"]["rules"] = partitioned.totals(layers)
        run = folder.create(str(old.path.parents[1]), experiment.name, fingerprint(experiment))
        display.show_plan(display.console(), {**described, "folder": str(run.path), "changes": []})
        display.note(f"going on from step {int(state.step)} of {old.path}, which stays as it is")
        if any(rule.reinitialise for rule in experiment.rules.rules):
            display.note("what is to begin anew did so when that run began: it is kept as it is now")
        progress = loop.Progress(time=progress.time)
        with run.lock():
            try:
                with Checkpoints(run.checkpoints) as checkpoints:
                    if frozen:
                        checkpoints.save_frozen(frozen)
                    loop.save(checkpoints, state, progress, best=False)
                config_file = old.path / "config.py"
                _write_start(run, experiment, loaded, described, config_file if config_file.exists() else None, command)
            except BaseException:
                shutil.rmtree(run.path, ignore_errors=True)
                raise
            return _train(run, experiment, loaded, plan, None, (state, progress), interrupted)


def _if_readable(run: RunFolder, name: str) -> Any:
    """A file of the run that it can do without, or None."""
    try:
        return run.read_json(name) if run.has(name) else None
    except UserError as error:
        display.note(f"{error}; going on without it")
        return None


def _check_partition(run: RunFolder, plan: Plan, experiment: Experiment) -> None:
    """Raises UserError, with the difference, if the partition is no longer what the run began with."""
    told = _if_readable(run, "inspection.json")
    if told is None or not all("treatment" in row for row in told["layers"]):  # of a run from before there were rules
        return
    then = {row["path"]: row["treatment"] for row in told["layers"]}
    now = {row["path"]: row["treatment"] for row in partitioned.rows(plan, experiment)}
    changes: dict[str, list[str]] = {}
    for path in then.keys() & now.keys():
        if then[path] != now[path]:
            changes.setdefault(f"{then[path]} -> {now[path]}", []).append(path)
    if changes:
        said = (f"{listed(sorted(paths))}: {change}" for change, paths in sorted(changes.items()))
        raise UserError(*(f"{run.path}: the partition has changed since the run began; {line}" for line in said))


def _begin_again(run: RunFolder, plan: Plan, experiment: Experiment) -> Beginning | None:
    """What a run that has no checkpoint yet begins with. Raises UserError if the source is no longer what it was."""
    weights = read_beginning(experiment)
    if weights is None:
        return None
    then = run.read_json("inspection.json")["partition"]["source"]
    if then != encode(weights.about):
        raise UserError(f"{run.path}: its source, {then['path']}, has changed since the run began")
    return sources.fit(plan, experiment, weights)


def _restore_latest(run: RunFolder, plan: Plan, experiment: Experiment) -> tuple[State, loop.Progress] | None:
    with Checkpoints(run.checkpoints) as checkpoints:
        latest = checkpoints.restore_latest()
    if latest is None:
        return None
    for line in latest.notes:
        display.note(line)
    template, _ = step.state_shapes(phases.plan_of(plan, latest.step, latest.arrays), experiment)
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
    run: RunFolder,
    experiment: Experiment,
    loaded: Loaded,
    plan: Plan,
    beginning: Beginning | None,
    restored,
    interrupted,
) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints))
        if restored is None:
            progress = loop.Progress()
            state, frozen = replicate(plan, step.initial_state(plan, experiment, beginning and beginning.arrays))
            if frozen:
                checkpoints.save_frozen(frozen)
        else:
            state, progress = restored
            state, frozen = replicate(plan, (state, restore_frozen(checkpoints, plan, experiment)))
        writer = stack.enter_context(writers.MetricWriter(run.path, tensorboard=experiment.tensorboard))
        writer.truncate_after(int(state.step))
        live = stack.enter_context(display.Progress(plan.steps, int(state.step)))
        edge = loop.Edge(writer.write, writer.sync, live.update, live.note, checkpoints, interrupted)
        phase, reason = phases.last_plan(plan), "finished"
        while reason == "finished" and int(state.step) < plan.steps:
            phase = phases.plan_at(plan, int(state.step))
            state, frozen = replicate(phase, phases.enter(phase, experiment, state, frozen))
            state, reason = _train_phase(loop.Work(experiment, phase, loaded, frozen), edge, state, progress)
        checkpoints.wait()
        writer.sync()
    summary = summarise(run, loop.Work(experiment, plan, loaded, frozen), state, progress, reason)
    if frozen:
        count = counts.total({path: frozen[path] for path in phase.frozen}).parameters
        summary["frozen"] = {"parameters": count, "sha256": parameters_fingerprint(frozen), "unchanged": True}
    run.write_json("summary.json", summary)
    return summary


def _train_phase(work: loop.Work, edge: loop.Edge, state: State, progress: loop.Progress) -> tuple[State, str]:
    """The state at the end of a phase, and why it ended; on features, where a frozen prefix has them computed once.

    Raises RuntimeError if anything frozen is not what it was, to the bit: that would be a bug.
    """
    before, trained = parameters_fingerprint(work.frozen), work
    if (cut := features.find_cut(work.plan, work.experiment, work.loaded)) is not None:
        on_features = features.on_features(work.plan, work.experiment, work.loaded, cut, state, work.frozen)
        trained = loop.Work(work.experiment, *on_features, work.frozen)
    state, reason = loop.fit(trained, edge, state, progress)
    if parameters_fingerprint(work.frozen) != before:
        raise RuntimeError("training has changed frozen parameters")
    return state, reason


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
    work = work._replace(frozen=frozen)
    summary["test"] = loop.report(work, best, "test")
    return summary | _from_source(run, work, best)


def _from_source(run: RunFolder, work: loop.Work, best: State) -> dict[str, Any]:
    """What fine-tuning made of its source: the line to it, what was learned and forgotten, and the adapters' file."""
    finetuning, told = work.experiment.finetuning, {}
    if finetuning is None or finetuning.source is None:
        return told
    if finetuning.interpolate is not None or finetuning.earlier is not None:
        try:
            source = _begin_again(run, work.plan, work.experiment).arrays
        except UserError as error:
            display.note(f"no comparison with the source: {error}")
        else:
            if finetuning.interpolate is not None:
                told["interpolation"] = interpolation.curve(work, source, best, _shares(finetuning.interpolate))
            if finetuning.earlier is not None:
                told["forgetting"] = interpolation.forgetting(work, source, best, finetuning.earlier.load())
    if work.plan.adapted:
        told["adapters"] = exporting.export_adapters(str(run.path), run.path / "adapters.safetensors")["bytes"]
    return told


def _shares(points: int) -> list[float]:
    return [point / (points - 1) for point in range(points)]


# ---------------------------------------------------------------------------------------------------------------------
# Reading a run


def evaluate(path: str, *, split: str = "test") -> dict[str, Any]:
    """Figures of a run's best checkpoint on a split."""
    run = folder.open_run(path)
    experiment = read_experiment(run)
    loaded, plan = load_for(run, experiment)
    state, frozen = load_best(run, experiment, plan)
    figures = loop.report(loop.Work(experiment, plan, loaded, frozen), state, split)
    return {"folder": str(run.path), "split": split, "step": int(state.step), split: figures}


def interpolate(path: str, *, points: int = 11, split: str = "validation") -> list[dict[str, float]]:
    """Loss and accuracy of a fine-tuned run along the line from its source: [{"share", "loss", "accuracy"}, ...].

    Raises UserError for a run that began with new values, and where its source is gone or is no longer what it was.
    """
    run = folder.open_run(path)
    experiment = read_experiment(run)
    loaded, plan = load_for(run, experiment)
    beginning = _begin_again(run, plan, experiment)
    if beginning is None:
        raise UserError(f"{run.path}: began with new values; there is no source to go back to")
    state, frozen = load_best(run, experiment, plan)
    return interpolation.curve(
        loop.Work(experiment, plan, loaded, frozen), beginning.arrays, state, _shares(points), split
    )


def sample(
    path: str,
    prompt: str,
    *,
    count: int | None = None,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """How a run's language model goes on from a text; `how` is as `models.sampling.sample` takes it.

    count: of tokens; up to the length that the model was trained on if None, for later positions have learned nothing.
    on_text: given the text piece by piece as it is written.
    Raises UserError for a run of another kind of model or data.
    """
    run = folder.open_run(path)
    experiment = read_experiment(run)
    data = base.from_description(run.read_json("data.json"))
    if not isinstance(experiment.model, GPT) or data.kind != "bytes":
        what = f"{type(experiment.model).__name__} on {type(experiment.data).__name__}"
        raise UserError(f"{run.path}: is of {what}; only GPT on the bytes of a text can be sampled from")
    plan = plan_for(experiment, data.spec, data.examples, data.background)
    state, frozen = load_best(run, experiment, plan)
    trainable, _ = state.used()
    parameters = paths.unflatten(plan.merged(experiment, trainable, frozen))
    tokens = text.as_tokens(prompt)[None]
    if count is None:
        count = max(data.spec.shape[0] - tokens.shape[1], 0)
    key = jax.random.key(seed)
    arguments = (experiment.model, data.spec, parameters, tokens, key)
    if on_text is None:
        written = sampling.sample(*arguments, count=count, **how)[0]
    else:
        decoder, pieces = codecs.getincrementaldecoder("utf-8")("replace"), []
        for piece in sampling.stream(*arguments, count=count, **how):
            pieces.append(piece[0])
            on_text(decoder.decode(bytes(piece[0].astype(np.uint8))))
        on_text(decoder.decode(b"", final=True))
        written = np.concatenate([*pieces, np.zeros(0, np.int32)])
    return {
        "folder": str(run.path),
        "step": int(state.step),
        "prompt": prompt,
        "text": text.as_text(written),
        "tokens": written.tolist(),
    }
