"""What the command line does with a sweep: plans it, runs its trials program by program, and keeps what comes of them.

    runs/depth_sweep/20260101-120000-3fa9c1/
      sweep.json  config.py   the sweep, its plan, and the file that it came from
      environment.json        where it ran
      trials.jsonl            a row a trial that is done: its fingerprint, values, best evaluation, test figures
      metrics.jsonl           the rows of all trials, told apart by `trial`
      summary.json            the best trial, and the best of each program
      report.html             a page about all that

The same command goes on with the folder where it was, whatever ended it. A trial is known by the fingerprint of its
config: one that is done, here or in another sweep of the same name, is not run again. A program that was under way
begins again.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from research.analysis import sweeps
from research.config import to_json
from research.errors import UserError
from research.jsonl import read_json, read_rows, row, write_atomically
from research.sweeps import display, fit
from research.sweeps.plan import Row, SweepPlan, make_plan
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import Sweep, Trial
from research.training import folder, interruption
from research.training import plan as training_plan
from research.training.folder import RunFolder
from research.training.writers import MetricWriter

SHARE_OF_MEMORY = 0.5
"""Of the memory that is free, what the trials that are run side by side may take."""
MOST_AT_ONCE = 256
TABLE = "trials.jsonl"


def run(
    sweep: Sweep,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs the trials of a sweep that are not done yet, and returns its summary. Raises UserError as `make_plan`."""
    console = display.console()
    plan, shelf = make_plan(sweep, config_file=config_file), Shelf()
    with interruption.signals() as interrupted:
        found = _folder(workdir, plan)
        with found.lock():
            _write_start(found, plan, config_file, command)
            done = _done(found, plan)
            display.show(console, plan, changes=changes)
            display.show_start(console, found.path, done=len(done), trials=len(plan.trials))
            reason = _run_programs(console, found, plan, shelf, done, interrupted)
            summary = summarise(found.path, plan, done, reason)
            found.write_json("summary.json", summary)
            if summary["best"] is not None:
                write_atomically(found.path / "report.html", sweeps.report(found.path).encode())
    return summary


def _run_programs(console, found: RunFolder, plan: SweepPlan, shelf: Shelf, done: dict[str, Any], interrupted) -> str:
    """Runs what is not done, adding to `done`; tells why it ended."""
    with display.Progress(console, len(plan.trials), len(done)) as progress:
        for number, program in enumerate(plan.rows, start=1):
            for trial in program.group.trials if program.problems else ():
                done.setdefault(trial.fingerprint, failed(trial, program.problems))
            left = [trial for trial in program.group.trials if trial.fingerprint not in done]
            for batch in _batches(program, left):
                progress.begin(number, len(plan.rows), program.values, len(batch))
                rows = _fit(found, program, batch, shelf, progress.update, interrupted)
                if rows is None:
                    return "interrupted"
                for trial, outcome in zip(batch, rows, strict=True):
                    done[trial.fingerprint] = outcome | {"values": display.plain_values(trial)}
                _write_table(found, plan, done)
                progress.end(rows)
            _write_table(found, plan, done)
    return "finished"


def _fit(found: RunFolder, program: Row, batch: list[Trial], shelf: Shelf, show: Callable, interrupted):
    """The rows of some trials of a program, or None if interrupted."""
    experiment = program.group.experiment
    loaded = shelf.load(experiment.data)
    plan = dataclasses.replace(training_plan.make_plan(experiment, loaded), mesh=None)
    if plan.streamed:
        kind = type(experiment.data).__name__
        raise UserError(f"{kind} is streamed, for it is too large for memory; sweeps are of data that fits into it")
    writer = MetricWriter(found.path)
    try:
        rows = fit.fit(plan, batch, loaded, fit.Edge(writer.write, show, interrupted))
        writer.sync()
    finally:
        writer.close()
    return rows


def failed(trial: Trial, problems: Sequence[str]) -> dict[str, Any]:
    """The row of a trial whose program cannot be built."""
    about = {"trial": trial.index, "fingerprint": trial.fingerprint, "values": display.plain_values(trial)}
    nothing = {"steps": 0, "best_step": None, "validation": None, "test": None}
    return {**about, "status": "failed", **nothing, "seconds": 0.0, "problems": list(problems)}


# ---------------------------------------------------------------------------------------------------------------------
# How many at once


def _batches(program: Row, trials: list[Trial]) -> list[list[Trial]]:
    """The trials in as few and equal batches as fit into memory side by side."""
    if not trials:
        return []
    most = max(1, min(MOST_AT_ONCE, int(SHARE_OF_MEMORY * free_memory() / program.inspection.memory.total)))
    count = -(-len(trials) // most)
    size = -(-len(trials) // count)
    return [trials[i : i + size] for i in range(0, len(trials), size)]


def free_memory() -> float:
    """Bytes that the device has left."""
    told = jax.devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 4e9


# ---------------------------------------------------------------------------------------------------------------------
# The folder


def _folder(workdir: str, plan: SweepPlan) -> RunFolder:
    """The folder of this very sweep if there is one, or a new one."""
    name, mark = plan.sweep.name or "sweep", _mark(plan)
    for path in sorted(Path(workdir, name).glob("*/sweep.json"), reverse=True):
        if read_json(path).get("fingerprint") == mark:
            return RunFolder(path.parent)
    return folder.create(workdir, name, mark)


def _mark(plan: SweepPlan) -> str:
    """What tells a sweep from others: its trials, whatever expression they came from."""
    return hashlib.sha256("".join(trial.fingerprint for trial in plan.trials).encode()).hexdigest()[:16]


def _as_json(sweep: Sweep) -> Any:
    """The sweep as JSON; None where a lambda in its space has no name to be told by, and config.py has to do."""
    try:
        return to_json(sweep)
    except UserError:
        return None


def _write_start(found: RunFolder, plan: SweepPlan, config_file: Path | None, command: Sequence[str]) -> None:
    here = folder.environment(command, config_file)
    if found.has("sweep.json"):
        if found.has("environment.json"):
            found.append_environment(found.read_json("environment.json"), here)
        return
    if config_file is not None and config_file.suffix == ".py":
        found.copy_config_file(config_file)
    found.write_json("environment.json", here)
    about = {"fingerprint": _mark(plan), "sweep": _as_json(plan.sweep), "plan": display.as_json(plan)}
    found.write_json("sweep.json", about)


def _done(found: RunFolder, plan: SweepPlan) -> dict[str, dict[str, Any]]:
    """The rows of this sweep's trials that are done, here or in a sweep beside it, by fingerprint.

    Metrics of trials that are not done are dropped: they will be written again.
    """
    wanted = {trial.fingerprint: trial for trial in plan.trials}
    rows: dict[str, dict[str, Any]] = {}
    for path in [found.path / TABLE, *sorted(found.path.parent.glob(f"*/{TABLE}"), reverse=True)]:
        if path.exists():
            for told in read_rows(path):
                if told["fingerprint"] in wanted and told["status"] != "failed":
                    rows.setdefault(told["fingerprint"], told | {"trial": wanted[told["fingerprint"]].index})
    metrics = found.path / "metrics.jsonl"
    if metrics.exists():
        indices = {told["trial"] for told in rows.values()}
        write_atomically(metrics, b"".join(row(r) for r in read_rows(metrics) if r["trial"] in indices))
    return rows


def _write_table(found: RunFolder, plan: SweepPlan, done: dict[str, dict[str, Any]]) -> None:
    rows = [done[trial.fingerprint] for trial in plan.trials if trial.fingerprint in done]
    write_atomically(found.path / TABLE, b"".join(map(row, rows)))


def summarise(path: Path, plan: SweepPlan, done: dict[str, dict[str, Any]], reason: str) -> dict[str, Any]:
    """The best trial, and of each program the best and the mean of its trials' best values."""
    metric = plan.sweep.select.removeprefix("validation/")
    sign = -1 if metric == "loss" else 1

    def best_of(trials: Sequence[Trial]) -> dict[str, Any] | None:
        rows = [done[trial.fingerprint] for trial in trials if trial.fingerprint in done]
        judged = [told for told in rows if told["validation"] is not None]
        return max(
            judged, key=lambda told: (sign * told["validation"][metric], -told["validation"]["loss"]), default=None
        )

    programs = []
    for program in plan.rows:
        statuses = [done[t.fingerprint]["status"] for t in program.group.trials if t.fingerprint in done]
        programs.append(
            {
                "values": dict(program.values),
                "trials": len(program.group.trials),
                "done": len(statuses),
                "not finite": statuses.count("not finite"),
                "failed": statuses.count("failed"),
                "best": best_of(program.group.trials),
            }
        )
    return {
        "name": plan.sweep.name,
        "reason": reason,
        "folder": str(path),
        "select": plan.sweep.select,
        "trials": len(plan.trials),
        "done": len(done),
        "best": best_of(plan.trials),
        "programs": programs,
    }
