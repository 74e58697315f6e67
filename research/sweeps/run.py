"""What the command line does with a sweep: plans it, runs its trials program by program, and keeps what comes of them.

    runs/depth_sweep/20260101-120000-3fa9c1/
      sweep.json  config.py   the sweep, its plan, and the file that it came from
      environment.json        where it ran
      search.jsonl            the batches of points that a search asked for
      trials.jsonl            a row a trial that is done: its fingerprint, values, best evaluation, test figures
      metrics.jsonl           the rows of all trials, told apart by `trial`
      examples/               what each trial made of each test example
      checkpoints/            trials that are under way
      summary.json            the best trial, the best of each program, and the verdict
      report.html             a page about all that

First the trials of the space are run, and the best values of each program chosen by validation; then these are trained
again on fresh seeds and judged by their test figures. The same command goes on with the folder where it was, whatever
ended it. A trial is known by the fingerprint of its config: one that is done, here or in another sweep of the same
name, is not run again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.analysis.answers import answers
from research.analysis.report import import_ahead, report
from research.analysis.sweeps import read_sweep
from research.analysis.words import verdict
from research.config import to_json
from research.errors import UserError
from research.jsonl import read_json, write_atomically
from research.sweeps import batches, display, executors, plain, rounds
from research.sweeps.depths import join
from research.sweeps.expectation import expect
from research.sweeps.ledger import Ledger
from research.sweeps.plan import SweepPlan, make_plan
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import Sweep, Trial, came_to_end, seeds, setting
from research.training import folder, interruption
from research.training.folder import RunFolder


def run(
    sweep: Sweep,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    changes: Sequence[str] = (),
    executor: str = "process",
) -> dict[str, Any]:
    """Runs the trials of a sweep that are not done yet, and returns its summary. Raises UserError as `make_plan`.

    executor: where they are run, "process" or "ray".
    """
    executors.check(executor, sweep)
    console, shelf = display.console(), Shelf()
    plan = make_plan(sweep, config_file=config_file, shelf=shelf)
    with interruption.signals() as interrupted:
        found = _folder(workdir, plan)
        with found.lock():
            _write_start(found, plan, shelf, config_file, command)
            with Ledger(found, tests_all=sweep.tested == "all") as ledger:
                left = ledger.left(plan.trials, plain.about(plan))
                done = len(plan.trials) - len(left)
                if sweep.search is not None:  # of later batches, too
                    done = sum(told["stage"] == "search" for told in ledger.done.values())
                expected = expect(plan, left, workdir)
                compiled = len(join(plan)) if executor == "process" else None
                display.show(console, plan, changes=changes, expected=expected, compiled=compiled)
                display.show_start(console, found.path, done=done, trials=plan.expected)
                progress = display.Progress(console, plan.expected, done, sweep.select.rpartition("/")[2], _token(plan))
                with executors.opened(executor) as elsewhere, progress:
                    session = rounds.Session(plan, shelf, ledger, progress, interrupted, config_file, elsewhere)
                    judged, reason = _rounds(session)
            summary = summarise(found.path, session.plan, ledger.done, judged, reason)
            found.write_json("summary.json", summary)
            if summary["best"] is not None:
                said = answers(read_sweep(found.path))
                summary["verdict"] = verdict(said)
                found.write_json("summary.json", summary)
                write_atomically(found.path / "report.html", report(said).encode())
    return summary


def _rounds(session: rounds.Session) -> tuple[dict[int, list[Trial]], str]:
    """Runs what is not done: the space, then the best of each program on fresh seeds, which are returned by program."""
    with rounds.compiling(session):
        session.compiler.submit(import_ahead)
        if not _search(session):
            return {}, "interrupted"
        judged = rounds.judged(session)
        return judged, "finished" if rounds.judge(session, judged) else "interrupted"


def _search(session: rounds.Session) -> bool:
    """Runs the trials of the space, or those that a search asks for; False if interrupted."""
    if session.plan.sweep.search is None:
        return rounds.search(session)
    folder, mark = session.ledger.folder, _mark(session.plan)
    return batches.search(session, lambda plan: _write_plan(folder, plan, session.shelf, mark))


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
    """What tells a sweep from others: its trials, whatever expression they came from, and how they are run."""
    sweep = plan.sweep
    how = f"{sweep.judge} {sweep.halving}" if sweep.judge or sweep.halving else ""
    how += " chosen" if sweep.tested == "chosen" else ""
    if sweep.search is not None:  # the trials are those of the first batch alone
        how += f" {sweep.search} {sweep.goals} {sweep.cost} {plain.space_lines(sweep)}"
    return hashlib.sha256(("".join(trial.fingerprint for trial in plan.trials) + how).encode()).hexdigest()[:16]


def _as_json(sweep: Sweep) -> Any:
    """The sweep as JSON; None where a lambda in its space has no name to be told by, and config.py has to do."""
    try:
        return to_json(sweep)
    except UserError:
        return None


def _write_start(
    found: RunFolder, plan: SweepPlan, shelf: Shelf, config_file: Path | None, command: Sequence[str]
) -> None:
    here = folder.environment(command, config_file)
    if found.has("sweep.json"):
        if found.has("environment.json"):
            found.append_environment(found.read_json("environment.json"), here)
        return
    if config_file is not None and config_file.suffix == ".py":
        found.copy_config_file(config_file)
    found.write_json("environment.json", here)
    _write_plan(found, plan, shelf, _mark(plan))


def _write_plan(found: RunFolder, plan: SweepPlan, shelf: Shelf, mark: str) -> None:
    """Keeps the sweep and its plan; of a search, with the trials that were asked for so far."""
    spec = shelf.load(plan.built[0].group.experiment.data).spec
    found.write_json(
        "sweep.json",
        {
            "fingerprint": mark,
            "sweep": _as_json(plan.sweep),
            "plan": plain.as_json(plan),
            "data": {"shape": list(spec.shape), "classes": spec.classes},
        },
    )


def summarise(
    path: Path, plan: SweepPlan, done: dict[str, dict[str, Any]], judged: dict[int, list[Trial]], reason: str
) -> dict[str, Any]:
    """The best trial, and of each program the best, the values that are best over all seeds, and what these came to."""
    metric = plan.sweep.select.removeprefix("validation/")
    sign = -1 if metric == "loss" else 1

    def best_of(trials: Sequence[Trial]) -> dict[str, Any] | None:
        rows = [done[trial.fingerprint] for trial in trials if trial.fingerprint in done]
        whole = [told for told in rows if came_to_end(told)]
        return max(
            whole, key=lambda told: (sign * told["validation"][metric], -told["validation"]["loss"]), default=None
        )

    chosen = {entry.program: _chosen(entry, plan, done, sign) for entry in rounds.best_values(plan, done)}
    programs = []
    for number, program in enumerate(plan.rows):
        statuses = [done[t.fingerprint]["status"] for t in program.group.trials if t.fingerprint in done]
        again = [done[t.fingerprint] for t in judged.get(number, ()) if t.fingerprint in done]
        tested = [told["test"] for told in again if told["test"] is not None]
        programs.append(
            {
                "values": dict(program.values),
                "trials": len(program.group.trials),
                "done": len(statuses),
                **{status: statuses.count(status) for status in ("not finite", "failed", "left early")},
                "best": best_of(program.group.trials),
                "chosen": chosen.get(number),
                "judged": {
                    "seeds": len(again),
                    "accuracies": [figures["accuracy"] for figures in tested],
                    "losses": [figures["loss"] for figures in tested],
                },
            }
        )
    return {
        "name": plan.sweep.name,
        "reason": reason,
        "folder": str(path),
        "select": plan.sweep.select,
        "token": _token(plan),
        "trials": len(plan.trials),
        "done": sum(trial.fingerprint in done for trial in plan.trials),
        "best": best_of(plan.trials),
        "programs": programs,
        "cost": plan.sweep.cost,
        "front": _front(plan, done),
    }


def _chosen(entry: rounds.Best, plan: SweepPlan, done: Mapping[str, Mapping[str, Any]], sign: int) -> dict[str, Any]:
    """The best values of a program but for its seeds, and in the mean of these what it is selected by and tested."""
    trials, alike = plan.rows[entry.program].group.trials, setting(entry.trial)
    told = [
        done[trial.fingerprint]["test"] for trial in trials if trial.fingerprint in done and setting(trial) == alike
    ]
    told = [figures for figures in told if figures is not None]
    values = {path: value for path, value in plain.values_of(entry.trial).items() if path not in seeds(entry.trial)}
    tested = {name: sum(figures[name] for figures in told) / len(told) for name in ("accuracy", "loss") if told}
    return {"values": values, "value": sign * entry.score, "test": tested or None}


def _token(plan: SweepPlan) -> str:
    """What the losses of language models are told for each of; "" where they are none."""
    return "token" if plan.sweep.base.objective.of_tokens else ""


def _front(plan: SweepPlan, done: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The Pareto front, from the cheapest: its programs, the first trial of the best values of each, and their means.

    Empty where cost does not count.
    """
    if plan.sweep.cost is None:
        return []
    sign = -1 if plan.sweep.select.endswith("loss") else 1
    return [
        {
            "program": entry.program,
            "trial": entry.trial.index,
            "values": plain.values_of(entry.trial),
            "cost": plan.rows[entry.program].cost(plan.sweep.cost),
            "value": sign * entry.score,
        }
        for entry in rounds.front_of(plan, rounds.best_values(plan, done))
    ]
