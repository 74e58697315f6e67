"""What the command line does with a pipeline: runs what is not done yet, judges it, goes on or changes something.

    runs/pipeline_digits/
      pipeline.json           the pipeline, and every attempt of every stage: what was changed, its figures, its gate
      report.html             a page about all that
      glyphs/20260101-.../    the runs of the stage `glyphs`, each a run folder like any other; or what was made smaller
                              or exported

The same command goes on where it was. An attempt is known by its config, the weights that it begins with and its data:
one that is done is not run again, whichever way the stages around it are changed, and one that was interrupted goes on.
"""

import contextlib
import dataclasses
import datetime
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.analysis.pipeline_page import page
from research.config import fingerprint, override, to_json, validate
from research.deployment import exporting, standalone
from research.deployment.compression import read_compressed
from research.deployment.compression import run as compression
from research.deployment.program import read_program
from research.errors import UserError
from research.jsonl import encode, read_json, write_atomically
from research.pipelines import display, figures
from research.pipelines.gates import SPLITS, Judged, check, judge
from research.pipelines.pipeline import Compress, Export, Pipeline, Stage, Train, changed, gate_of, resolved, results_in
from research.sweeps import run as sweep_run
from research.sweeps.sweep import Sweep, trials
from research.training import folder
from research.training import run as training
from research.training.experiment import Experiment
from research.training.finetuning import Pretrained, Source
from research.training.folder import RunFolder
from research.training.reading import data_fingerprint, read_experiment


class Interrupted(Exception):
    """A stage was interrupted; what it has done is kept."""


class Outcome(NamedTuple):
    """What came of an attempt."""

    folder: str
    was_done: bool
    """Whether it had been run before."""
    about: dict[str, Any]
    """What else there is to tell, as plain data."""


class Context(NamedTuple):
    """What the stages of a pipeline have in common."""

    root: Path
    config_file: Path | None
    command: tuple[str, ...]
    results: dict[str, str]
    """The folder of what came of each stage that is done."""

    def sources(self) -> dict[str, Source]:
        """What `Result` stands for."""
        return {stage: Pretrained(path) for stage, path in self.results.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The whole


def run(
    pipeline: Pipeline,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs a pipeline to its end, or to a gate that does not hold whatever is changed; returns what pipeline.json has.

    Raises UserError for what can be told to be wrong before anything is run, and for what only a stage finds out.
    """
    pipeline = validate(pipeline)
    if problems := problems_of(pipeline):
        raise UserError(*problems)
    root = RunFolder(_make(workdir, pipeline.name or "pipeline"))
    context = Context(root.path, config_file, tuple(command), {})
    console, begun = display.console(), time.perf_counter()
    display.show_plan(console, describe(pipeline), changes)
    told = {"name": root.path.name, "folder": str(root.path), "reason": "under way", "stages": []}
    told |= {"environment": folder.environment(command, config_file), "plan": describe(pipeline)}
    with root.lock():
        if config_file is not None and config_file.suffix == ".py":
            root.copy_config_file(config_file)
        try:
            told["reason"] = _run_stages(pipeline, context, told["stages"], lambda: _write(root, told))
        except Interrupted:
            told["reason"] = "interrupted"
        except UserError as error:
            told |= {"reason": "failed", "problems": list(error.problems)}
            raise
        finally:
            told["seconds"] = time.perf_counter() - begun
            _write(root, told)
    return told


def inspect(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The stages as plain data; runs nothing. Raises UserError as `run` does before it begins."""
    pipeline = validate(pipeline)
    if problems := problems_of(pipeline):
        raise UserError(*problems)
    return describe(pipeline)


def problems_of(pipeline: Pipeline) -> list[str]:
    """What is wrong with the gates, which only the stages' experiments can tell."""
    found = []
    for stage in pipeline.stages:
        found += [f"{stage.name}: {problem}" for problem in UNKNOWN[type(stage)](stage)]
    return found


def _make(workdir: str, name: str) -> Path:
    if not name.isidentifier() and not name.replace("-", "_").isidentifier():
        raise UserError(f"name: {name!r} cannot be the name of a pipeline's folder")
    path = Path(workdir, name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}") from None
    return path


def _write(root: RunFolder, told: dict[str, Any]) -> None:
    """Keeps how far the pipeline is."""
    root.write_json("pipeline.json", encode(told))
    write_atomically(root.path / "report.html", page(root.path).encode())


def _run_stages(pipeline: Pipeline, context: Context, told: list[dict[str, Any]], keep: Callable[[], None]) -> str:
    """Runs the stages one after another, and returns why it ended."""
    for stage in pipeline.stages:
        row: dict[str, Any] = {"name": stage.name, "kind": type(stage).__name__, "gate": stage.gate, "attempts": []}
        told.append(row)
        if not _run_stage(stage, context, row, keep):
            return "not good enough"
        context.results[stage.name] = row["attempts"][-1]["folder"]
    return "finished"


def _run_stage(stage: Stage, context: Context, row: dict[str, Any], keep: Callable[[], None]) -> bool:
    """Runs a stage, changed as often as its gate asks for; whether it holds in the end."""
    console = display.console()
    for number in range(1 + len(getattr(stage, "otherwise", ()))):
        changes = [str(each) for each in getattr(stage, "otherwise", ())[:number]]
        display.show_attempt(console, stage.name, number, changes)
        begun = time.perf_counter()
        outcome = RUN[type(stage)](stage, number, context)
        found = FIGURES[type(stage)](stage, outcome)
        judged = judge(gate_of(stage), found)
        holds = all(each.holds for each in judged)
        attempt = {
            "changes": changes,
            "folder": _placed(stage, outcome.folder, holds, context.root),
            "was_done": outcome.was_done,
            "seconds": time.perf_counter() - begun,
            "figures": {split or "network": values for split, values in found.items()},
            "judged": [each._asdict() for each in judged],
            "holds": holds,
            **outcome.about,
        }
        row["attempts"].append(attempt)
        keep()
        display.show_judged(console, attempt)
        if attempt["holds"]:
            return True
    return False


def _placed(stage: Stage, folder: str, holds: bool, root: Path) -> str:
    """Where a result lies: an export whose gate does not hold, not where one would look for what is in use."""
    if not isinstance(stage, Export):
        return folder
    place = _exports(stage, root)[0 if holds else 1] / Path(folder).name
    if place != Path(folder):
        place.parent.mkdir(exist_ok=True)
        os.rename(folder, place)
        with contextlib.suppress(OSError):  # others may lie there
            Path(folder).parent.rmdir()
    return str(place)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(stage: Train, number: int, context: Context) -> Outcome:
    """The run of a stage's experiment with the first `number` changes; of a sweep, of its best trial."""
    work: Experiment | Sweep = stage.work
    for each in stage.otherwise[:number]:
        work = changed(work, each)
    sources = context.sources()
    work, about = resolved(work, sources), {}
    if isinstance(work, Sweep):
        sweep = dataclasses.replace(work, name=f"{stage.name}_sweep")
        work, about = _best_of(sweep, context)
    work = dataclasses.replace(work, name=stage.name)
    found, is_done = find(context.root, work)
    if found is None:
        summary = training.train(
            work, workdir=str(context.root), config_file=context.config_file, command=context.command
        )
    elif is_done:
        display.show_done(display.console(), found.path)
        return Outcome(str(found.path), True, about)
    else:
        summary = training.resume(str(found.path), command=context.command)
    if summary["reason"] == "interrupted":
        raise Interrupted
    return Outcome(summary["folder"], False, about)


def _best_of(sweep: Sweep, context: Context) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a sweep's best trial, and what is to be told of the sweep."""
    summary = sweep_run.run(sweep, workdir=str(context.root), config_file=context.config_file, command=context.command)
    if summary["reason"] == "interrupted":
        raise Interrupted
    best = summary["best"]
    if best is None:
        raise UserError(f"{summary['folder']}: none of its trials came to its end, so there is no best one")
    about = {"sweep": {"folder": summary["folder"], "values": best["values"], "verdict": summary.get("verdict")}}
    for trial in trials(sweep):
        if trial.fingerprint == best["fingerprint"]:
            return trial.experiment, about
    experiment = sweep.base  # a search asked for it
    for path, value in best["values"].items():
        experiment = override(experiment, path, value)
    return validate(experiment), about


def find(root: Path, experiment: Experiment) -> tuple[RunFolder | None, bool]:
    """The newest run of this very experiment among those of its stage, and whether it is done.

    One on other data, from other weights or that cannot be read is none of them.
    """
    loaded = None
    for path in sorted((root / experiment.name).glob("*/config.json"), reverse=True):
        run = RunFolder(path.parent)
        try:
            if fingerprint(read_experiment(run)) != fingerprint(experiment) or not run.has("data.json"):
                continue
            loaded = loaded or experiment.data.load()
            if run.read_json("data.json")["fingerprint"] != data_fingerprint(loaded):
                continue
            reason = run.read_json("summary.json")["reason"] if run.has("summary.json") else "interrupted"
        except UserError:
            continue
        if reason in ("finished", "stopped early"):
            return run, True
        if reason == "interrupted":
            return run, False
    return None, False


def _figures_of_training(stage: Train, outcome: Outcome) -> dict[str | None, dict[str, float]]:
    return figures.of_run(outcome.folder, gate_of(stage))


def _unknown_of_training(stage: Train) -> list[str]:
    experiment = stage.work.base if isinstance(stage.work, Sweep) else stage.work
    return figures.unknown(experiment, gate_of(stage))


# ---------------------------------------------------------------------------------------------------------------------
# Compressing


def compress(stage: Compress, number: int, context: Context) -> Outcome:
    """The smaller network of an earlier stage's run that goes on; the last one tried where none is good enough."""
    source = context.results[stage.of]
    told = _compressed_before(stage, source, context.root)
    was_done = told is not None
    if told is None:
        config = stage.compression(source)
        options = {"workdir": str(context.root), "config_file": context.config_file, "command": context.command}
        told = compression.compress(config, **options)
    else:
        display.show_done(display.console(), Path(told["folder"]))
    rows = sorted(told["rows"][1:], key=lambda row: row[stage.least])
    held = [row for row in rows if row["folder"] and all(each.holds for each in _judged(stage, row))]
    chosen = (held or [row for row in rows if row["folder"]] or rows)[0]
    about = {"compression": {"folder": told["folder"], "chosen": chosen["network"], "rows": told["rows"]}}
    return Outcome(chosen["folder"] or told["folder"], was_done, about)


def _judged(stage: Compress, row: dict[str, Any]) -> list[Judged]:
    return judge(gate_of(stage), _figures_of_network(stage, row))


def _compressed_before(stage: Compress, source: str, root: Path) -> dict[str, Any] | None:
    """What the same compression of the same run came to; None where it has not been done, or is not whole."""
    config = encode(to_json(stage.compression(source)))
    for path in sorted((root / stage.name).glob("*/compression.json"), reverse=True):
        with contextlib.suppress(UserError, KeyError, TypeError):
            told = read_json(path)
            if told["config"] != config:
                continue
            for row in told["rows"]:
                if row["folder"] and read_compressed(row["folder"]).about["sha256"] != told["source"]["sha256"]:
                    raise UserError(f"{row['folder']}: damaged, for it is made of another network")
            return told | {"folder": str(path.parent)}
    return None


def _figures_of_network(stage: Compress, row: dict[str, Any]) -> dict[str | None, dict[str, float]]:
    found = {name: float(row[name]) for name in OF_COMPRESSED}
    return {None: found, stage.split: {"accuracy": float(row["accuracy"])}}


def _figures_of_compression(stage: Compress, outcome: Outcome) -> dict[str | None, dict[str, float]]:
    told = outcome.about["compression"]
    (chosen,) = (row for row in told["rows"] if row["network"] == told["chosen"])
    return _figures_of_network(stage, chosen)


OF_COMPRESSED = ("bytes", "parameters", "nonzeros", "multiply_adds", "flops", "milliseconds", "lost")


def _unknown_of_compression(stage: Compress) -> list[str]:
    return _unknown_of_one_split(stage, OF_COMPRESSED, stage.split)


def _unknown_of_one_split(stage: Stage, of_network: Sequence[str], split: str) -> list[str]:
    """What a gate asks for in vain where all that is told on examples is the accuracy on one split."""
    gate = gate_of(stage)
    problems = check(gate, (*of_network, "accuracy"))
    for each in gate:
        if each.name == "accuracy" and (each.split or SPLITS[0]) != split:
            problems.append(f"'{each}': the accuracy is told on the {split} split; say accuracy on {split}")
        elif each.name in of_network and each.split is not None:
            problems.append(f"'{each}': {each.name} is of the network, on no split")
    return problems


# ---------------------------------------------------------------------------------------------------------------------
# Exporting


def export(stage: Export, number: int, context: Context) -> Outcome:
    """The folder that others take what came of an earlier stage from."""
    source = context.results[stage.of]
    network, places = encode(read_program(source).about), _exports(stage, context.root)
    for path in sorted((path for place in places for path in place.glob("*/manifest.json")), reverse=True):
        with contextlib.suppress(standalone.Refused):
            if standalone.checked(path.parent)["network"] == network:
                display.show_done(display.console(), path.parent)
                return Outcome(str(path.parent), True, {})
    began = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    told = exporting.export(source, places[1] / f"{began}-{network['sha256'][:6]}")
    return Outcome(told["to"], False, {})


def _exports(stage: Export, root: Path) -> tuple[Path, Path]:
    """Where exports lie whose gate holds, and where those that are not good enough, or not judged yet."""
    return root / stage.name, root / f"{stage.name}_refused"


OF_EXPORTED = ("bytes", "largest_difference")


def _figures_of_export(stage: Export, outcome: Outcome) -> dict[str | None, dict[str, float]]:
    told = standalone.checked(outcome.folder)
    size = float(sum(each["bytes"] for each in told["files"].values()))
    largest = max(told["tried"]["largest difference"].values(), default=0.0)
    found: dict[str | None, dict[str, float]] = {None: {"bytes": size, "largest_difference": largest}}
    if told["tried"]["accuracy"] is not None:
        found["test"] = {"accuracy": told["tried"]["accuracy"]}
    return found


def _unknown_of_export(stage: Export) -> list[str]:
    return _unknown_of_one_split(stage, OF_EXPORTED, "test")


# ---------------------------------------------------------------------------------------------------------------------
# What each kind of stage is

RUN: dict[type, Callable[[Any, int, Context], Outcome]] = {Train: train, Compress: compress, Export: export}
FIGURES: dict[type, Callable[[Any, Outcome], dict[str | None, dict[str, float]]]] = {
    Train: _figures_of_training,
    Compress: _figures_of_compression,
    Export: _figures_of_export,
}
UNKNOWN: dict[type, Callable[[Any], list[str]]] = {
    Train: _unknown_of_training,
    Compress: _unknown_of_compression,
    Export: _unknown_of_export,
}


# ---------------------------------------------------------------------------------------------------------------------
# Telling


def describe(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The stages as plain data, before anything is run."""
    return [
        {
            "name": stage.name,
            "kind": type(stage).__name__,
            "what": what(stage),
            "from": list(stage.needs()),
            "gate": [str(condition) for condition in gate_of(stage)],
            "otherwise": [str(each) for each in getattr(stage, "otherwise", ())],
            "config": to_json(stage),
        }
        for stage in pipeline.stages
    ]


def what(stage: Stage) -> str:
    """A stage in a few words."""
    work = getattr(stage, "work", None)
    if isinstance(work, Sweep):
        return f"sweep of {type(work.base.model).__name__} on {type(work.base.data).__name__}"
    if isinstance(work, Experiment):
        began = ", ".join(f"from {result.stage}" for result in results_in(work))
        return f"{type(work.model).__name__} on {type(work.data).__name__}{f', {began}' if began else ''}"
    if isinstance(stage, Compress):
        return f"{stage.of} made smaller: {', '.join(method.title for method in stage.methods)}"
    return f"{stage.of} for others to use"
