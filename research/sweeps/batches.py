"""How a search is run: a batch of points at a time, each chosen by what came of the batches before.

    with compiling(session):
        search(session)

A batch is asked for once and kept in `search.jsonl`, a row each, before any of its trials is run: a search that was
interrupted goes on with the batch it was at, and so as if nothing had happened.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.errors import UserError
from research.jsonl import read_rows, row, write_atomically
from research.sweeps.plan import SweepPlan
from research.sweeps.rounds import Session, run_trials
from research.sweeps.search import Point, Told, ask, assignments
from research.sweeps.spaces import Assignment
from research.sweeps.sweep import Trial, came_to_end, make_trial
from research.training.folder import RunFolder

TABLE = "search.jsonl"


def search(session: Session, replanned: Callable[[SweepPlan], None]) -> bool:
    """Runs the batches of a search; False if interrupted. `replanned` is called when the plan has more trials."""
    sweep, folder = session.plan.sweep, session.ledger.folder
    kept, told, index = read_batches(folder), [], 0
    known = {trial.fingerprint: trial for trial in session.plan.trials}
    for number, _ in enumerate(sweep.search.batches()):
        if number == len(kept):
            kept.append(ask(sweep.search, sweep.space, told, sweep.goals))
            _write_batches(folder, kept)
        of_points = []
        for point in kept[number]:
            assigned = assignments(sweep.space, point)
            of_points.append(_trials(session, index, assigned))
            index += len(assigned)
        batch: dict[str, Trial] = {}
        for trial in itertools.chain(*of_points):
            batch.setdefault(trial.fingerprint, known.get(trial.fingerprint, trial))
        new = [trial for mark, trial in batch.items() if mark not in known]
        known |= batch
        if new:
            session.extend(new)
            replanned(session.plan)
        before = len(known) - len(batch)
        if not run_trials(session, list(batch.values()), before=before, expected=session.plan.expected):
            return False
        told += [Told(point, _values(session, found)) for point, found in zip(kept[number], of_points, strict=True)]
    return True


def _trials(session: Session, index: int, assigned: Sequence[Assignment]) -> list[Trial]:
    """The trials of a point, numbered from `index`; none if one of them cannot be."""
    try:
        return [make_trial(session.plan.sweep.base, index + i, each, session.shelf) for i, each in enumerate(assigned)]
    except UserError as error:
        session.progress.note(f"a point of the search is left out: {'; '.join(error.problems)}")
        return []


def _values(session: Session, trials: Sequence[Trial]) -> tuple[float, ...] | None:
    """What came of a point: its mean metric and, if it counts, the logarithm of its cost.

    None if one of its trials failed or is not finite, for that is nothing to go near.
    """
    sweep = session.plan.sweep
    rows = [session.ledger.done[trial.fingerprint] for trial in trials]
    if not rows or not all(map(came_to_end, rows)):
        return None
    metric = sweep.select.removeprefix("validation/")
    value = sum(told["validation"][metric] for told in rows) / len(rows)
    if not math.isfinite(value):
        return None
    return (value,) if sweep.cost is None else (value, math.log(session.row(trials[0])[1].cost(sweep.cost)))


def read_batches(folder: RunFolder) -> list[list[Point]]:
    """The batches that were asked for."""
    path = folder.path / TABLE
    return [told["points"] for told in read_rows(path)] if path.exists() else []


def _write_batches(folder: RunFolder, batches: Sequence[Sequence[Point]]) -> None:
    rows: list[Mapping[str, Any]] = [{"batch": number, "points": list(points)} for number, points in enumerate(batches)]
    write_atomically(folder.path / TABLE, b"".join(map(row, rows)))
