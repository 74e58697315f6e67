"""How the trials of a sweep are run: in packs, each program compiled while others run.

    with compiling(session):
        search(session) and judge(session, judged(session))

A round takes some trials to their end. Those of one program that fit into memory side by side are a pack; packs follow
one another, and the next are compiled meanwhile. Under successive halving all packs go from rung to rung together, and
at each the worse trials of the whole sweep leave.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from research.commandline.loading import blaming_if_there
from research.data.base import Loaded
from research.errors import UserError
from research.sweeps import display, fit, lanes, plain
from research.sweeps.depths import Joined, join
from research.sweeps.ledger import Ledger, read_decision, write_decision
from research.sweeps.plan import Row, SweepPlan, extend
from research.sweeps.search import pareto, repeats
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import Trial, came_to_end, fresh, mark, setting
from research.training.checkpoints import Checkpoint, Checkpoints
from research.training.plan import milestones

SHARE_OF_MEMORY = 0.5
"""Of the memory that is free, what the trials that are run side by side may take."""
MOST_AT_ONCE = 256
SAVE_EVERY = 60.0
"""Seconds after which what is under way is saved again."""


class Executor(Protocol):
    """Where packs are run, if not in this process."""

    def run(self, session: "Session", trials: Sequence[Trial]) -> bool:
        """Runs some trials, and records what comes of them; False if interrupted."""
        ...


@dataclasses.dataclass
class Session:
    """A sweep that is being run."""

    plan: SweepPlan
    shelf: Shelf
    ledger: Ledger
    progress: display.Progress
    interrupted: Any
    config_file: Path | None
    executor: "Executor | None" = None
    """Where packs are run; in this process if None."""
    compiler: ThreadPoolExecutor | None = None
    capacities: dict[Any, int] = dataclasses.field(default_factory=dict)
    """Lanes that the compiled program of each structure has."""

    def row(self, trial: Trial) -> tuple[int, Row]:
        """The program of a trial, and its number."""
        found = self._rows_by_mark.get(trial.fingerprint)
        return found if found is not None else self._rows[jax.tree.structure(trial.experiment)]

    def extend(self, trials: Sequence[Trial]) -> None:
        """Takes more trials into the plan."""
        self.plan = extend(self.plan, trials, config_file=self.config_file, shelf=self.shelf)
        self.__post_init__()

    def program(self, trial: Trial) -> Joined:
        """What a trial is run by in this process, with others."""
        return self._joined[self.row(trial)[0]]

    def __post_init__(self):
        self._joined = {number: joined for joined in join(self.plan) for number in joined.numbers}
        self._rows = {
            jax.tree.structure(row.group.experiment): (number, row) for number, row in enumerate(self.plan.rows)
        }
        self._rows_by_mark = {
            trial.fingerprint: found for found in self._rows.values() for trial in found[1].group.trials
        }


@contextlib.contextmanager
def compiling(session: Session) -> Iterator[None]:
    """With threads that compile programs while others run."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="compiling") as session.compiler:
        try:
            yield
        finally:
            session.compiler.shutdown(wait=True, cancel_futures=True)


def search(session: Session) -> bool:
    """Runs the trials of the space; False if interrupted."""
    return run_trials(session, session.plan.trials, halving=session.plan.sweep.halving is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Judgement on fresh seeds


class Best(NamedTuple):
    """The best values of a program."""

    program: int
    score: float
    """What they are selected by, in the mean of their seeds; the more the better."""
    trial: Trial
    """The first of those that have them."""


def best_values(plan: SweepPlan, done: Mapping[str, Mapping[str, Any]]) -> list[Best]:
    """Of each program that came to an end the best values, in the order of the programs."""
    metric = plan.sweep.select.removeprefix("validation/")
    sign = -1 if metric == "loss" else 1
    found = []
    for number, row in enumerate(plan.rows):
        values: dict[str, list[tuple[Trial, float]]] = {}
        for trial in row.group.trials:
            told = done.get(trial.fingerprint)
            if told is not None and came_to_end(told):
                values.setdefault(setting(trial), []).append((trial, sign * told["validation"][metric]))
        if values:
            best = max(values.values(), key=lambda seeds: sum(score for _, score in seeds) / len(seeds))
            found.append(Best(number, sum(score for _, score in best) / len(best), best[0][0]))
    return found


def front_of(plan: SweepPlan, best: Sequence[Best]) -> list[Best]:
    """Those that none beats that costs as little, from the cheapest; none if cost does not count."""
    if plan.sweep.cost is None:
        return []
    costs = [plan.rows[entry.program].cost(plan.sweep.cost) for entry in best]
    return [best[i] for i in pareto(costs, [entry.score for entry in best])]


def judged(session: Session) -> dict[int, list[Trial]]:
    """For each program the trials that judge it: its best values by validation, with seeds that were not used."""
    sweep = session.plan.sweep
    if not sweep.judge:
        return {}
    best = best_values(session.plan, session.ledger.done)
    of_front = {entry.program for entry in front_of(session.plan, best)}
    ranked = sorted(best, key=lambda entry: (entry.program in of_front, entry.score), reverse=True)
    chosen = ranked[: sweep.judge_most]
    index = max(trial.index for trial in session.plan.trials) + 1
    found: dict[int, list[Trial]] = {}
    for number, _, trial in sorted(chosen):
        found[number] = []
        for assignment, experiment in fresh(trial, session.plan.trials, sweep.judge):
            found[number].append(
                Trial(index, assignment, experiment, mark(experiment, session.shelf), 0, of=trial.index)
            )
            index += 1
    return found


def judge(session: Session, judged: Mapping[int, Sequence[Trial]]) -> bool:
    """Runs the trials that judge; False if interrupted."""
    trials = [trial for several in judged.values() for trial in several]
    if any(trial.fingerprint not in session.ledger.done for trial in trials):
        session.progress.note("the best of each, on fresh seeds:")
    return not trials or run_trials(session, trials, halving=False)


# ---------------------------------------------------------------------------------------------------------------------
# A round


def run_trials(
    session: Session, trials: Sequence[Trial], *, halving: bool = False, before: int = 0, expected: int | None = None
) -> bool:
    """Runs those of some trials that are not done; False if interrupted.

    before, expected: of how many in all, for who watches, so many went before.
    """
    for trial in trials:
        problems = session.row(trial)[1].problems
        if problems and trial.fingerprint not in session.ledger.done:
            record(session, [_failed(trial, problems)], {trial.index: trial}, None)
    left = session.ledger.left(trials, plain.about(session.plan))
    session.progress.expect(expected or len(trials), before + len(trials) - len(left))
    if session.executor is not None:
        return session.executor.run(session, left)
    if halving:
        return _run_by_rungs(session, left)
    return all(_to_the_end(session, task) for task in _tasks(session, left))


@dataclasses.dataclass
class _Task:
    """A pack that is to be run."""

    pack: fit.Pack
    joined: Joined
    """Its program."""
    compiled: Future
    """Gives the bytes it needs on each device."""
    saved: Checkpoint | None
    folder: Path
    """Where it is saved."""
    begun: bool = False
    saved_at: float = dataclasses.field(default_factory=time.monotonic)


def _tasks(session: Session, trials: Sequence[Trial]) -> Iterator[_Task]:
    """The packs of some trials, those first that were under way; the next are compiled while one is run."""
    by_mark = {trial.fingerprint: trial for trial in trials}
    batches = []
    for folder, saved in session.ledger.take_saved(by_mark):
        members = [by_mark[lane["fingerprint"]] for lane in saved.about["lanes"]]
        if saved.about.get("networks", 1) != len(session.program(members[0]).rows):  # they were run otherwise
            session.ledger.forget([trial.index for trial in members])
            shutil.rmtree(folder, ignore_errors=True)
            continue
        batches.append((members, saved, folder))
        for trial in members:
            del by_mark[trial.fingerprint]
    for members in _together(session, by_mark.values()):
        size = _size(session, members)
        batches += [(members[i : i + size], None, None) for i in range(0, len(members), size)]
    ahead: deque[_Task] = deque()
    waiting = deque(batches)
    while waiting or ahead:
        while waiting and len(ahead) <= (os.cpu_count() or 1):
            try:
                ahead.append(_task(session, *waiting.popleft()))
            except UserError as error:
                fail(session, batches[len(batches) - len(waiting) - 1][0], error)
        if ahead:
            yield ahead.popleft()


def _together(session: Session, trials: Iterable[Trial]) -> list[list[Trial]]:
    """Some trials by their program, apart where they are given other examples; the deepest networks first."""
    found: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        key = session.program(trial).numbers, trial.experiment.data.source()
        found.setdefault(key, []).append(trial)
    for (numbers, _), members in found.items():
        members.sort(key=lambda trial, numbers=numbers: numbers.index(session.row(trial)[0]))
    return list(found.values())


def _task(session: Session, trials: list[Trial], saved: Checkpoint | None, folder: Path | None) -> _Task:
    joined = session.program(trials[0])
    loaded = session.shelf.load(trials[0].experiment.data)
    with blaming_if_there(session.config_file):
        pack = _pack(session, joined, trials, loaded, saved)
    compiled = session.compiler.submit(pack.compile_ahead)
    return _Task(pack, joined, compiled, saved, folder or session.ledger.checkpoints_of(trials))


def _pack(
    session: Session, joined: Joined, trials: Sequence[Trial], loaded: Loaded, saved: Checkpoint | None
) -> fit.Pack:
    """A pack whose program also serves the other trials of its structure, and fresh seeds.

    Side by side, idle lanes take time as well: they are there for batches of a search alone, which differ in number.
    """
    row, experiments = joined.deepest, joined.experiments()
    if session.plan.sweep.judge:
        seeds = fresh(row.group.trials[0], row.group.trials, 1)
        experiments += [joined.role(experiment).experiment for _, experiment in seeds]
    how, size = fit.default_how(), max(len(trials), session.plan.sweep.judge * len(joined.rows))
    devices, vary = jax.local_devices()[: len(experiments)], ()
    if session.plan.sweep.search is not None:  # later batches bring others
        size = max(size, _most_of_search(session, row))
        devices, vary = jax.local_devices()[:size], session.plan.sweep.space.paths()
    program = lanes.make_program(row.plan, experiments, devices, how, vary)
    structure = joined.structure()
    if saved is not None:
        session.capacities[structure] = next(iter(saved.arrays.values())).shape[0]
    capacity = session.capacities.setdefault(structure, size)
    source = session.shelf.beginning(row.plan, experiments[0])
    has_idle = how == "map" or session.plan.sweep.search is not None
    return fit.Pack(program, trials, loaded, capacity if has_idle else 0, source, joined.role)


def _most_of_search(session: Session, row: Row) -> int:
    """How many trials of a program a batch of a search may bring, as far as they fit into memory."""
    sweep = session.plan.sweep
    return min(most_at_once(row), sweep.search.batch * repeats(sweep.space))


def _size(session: Session, trials: Sequence[Trial]) -> int:
    """How many trials of a program make a pack: in as few and equal packs as fit into memory."""
    row = session.program(trials[0]).deepest
    count = math.ceil(len(trials) / most_at_once(row))
    if row.plan.streamed:  # they share the batches as these come
        seeds = {trial.experiment.data_seed for trial in trials}
        return 1 if len(seeds) > 1 else math.ceil(len(trials) / count)
    return math.ceil(len(trials) / count)


def most_at_once(row: Row) -> int:
    """How many trials of a program fit into memory."""
    memory, devices = row.inspection.memory, len(jax.local_devices())
    shared = memory.frozen if row.plan.begun else 0  # what is frozen is the source's, and there once
    of_state = 2 * memory.parameters - memory.frozen - shared + memory.optimizer  # the best are kept beside
    at_once = memory.total - memory.parameters - memory.optimizer
    budget = SHARE_OF_MEMORY * free_memory() - devices * shared
    if fit.default_how() == "map":
        most = (budget - devices * at_once) / max(of_state, 1)
    else:
        most = budget / max(of_state + at_once, 1)
    return max(1, min(MOST_AT_ONCE, int(most)))


def free_memory() -> float:
    """Bytes that the device has left."""
    told = jax.devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 4e9


def _to_the_end(session: Session, task: _Task) -> bool:
    """Runs a pack; False if interrupted."""
    trials = task.pack.trials
    try:
        if not _advance(session, task, task.pack.plan.steps):
            return False
        with blaming_if_there(session.config_file):
            outcome = task.pack.finish(settings_to_choose(session, trials))
    except UserError as error:
        fail(session, trials, error)
        return True
    except OutOfMemory:
        return _in_halves(session, task)
    _close(session, task, outcome)
    return True


def settings_to_choose(session: Session, trials: Sequence[Trial]) -> list[fit.Setting] | None:
    """What trials of a pack have in common with their repeats, where only the best of that is to be tested.

    None where all are: those that judge, and those whose program has trials elsewhere, that may be better.
    """
    rows, here = dict(map(session.row, trials)), {trial.fingerprint for trial in trials}
    members = [trial.fingerprint for row in rows.values() for trial in row.group.trials]
    if session.plan.sweep.tested == "all" or not here.issuperset(members):
        return None
    return [fit.Setting(session.row(trial)[0], setting(trial)) for trial in trials]


def _close(session: Session, task: _Task, outcome: fit.Outcome) -> None:
    """Notes what came of a pack, and forgets how far it was."""
    by_index = {trial.index: trial for trial in task.pack.trials}
    record(session, outcome.rows, by_index, outcome.examples)
    shutil.rmtree(task.folder, ignore_errors=True)
    session.progress.end(outcome.rows, task.pack.best_figures())


class OutOfMemory(Exception):
    """A pack does not fit into memory."""


def _advance(session: Session, task: _Task, until: int) -> bool:
    """Takes a pack up to a step; what is under way when it is interrupted is saved. False if interrupted."""
    pack = task.pack
    if not task.begun:
        task.begun = True
        number, programs = max(task.joined.numbers), len(session.plan.rows)
        session.progress.begin(number + 1, programs, task.joined.values, len(pack.trials))
    with blaming_if_there(session.config_file):
        needed = task.compiled.result()
    if needed > free_memory() and len(pack.trials) > 1:
        raise OutOfMemory
    with Checkpoints(task.folder) as checkpoints, telling_of_memory():
        if task.saved is not None:
            pack.restore(task.saved)
            task.saved = None

        def save() -> None:
            session.ledger.metrics.sync()
            pack.save(checkpoints, networks=len(task.joined.rows))
            task.saved_at = time.monotonic()

        def pause(_) -> None:
            if time.monotonic() - task.saved_at > SAVE_EVERY:
                save()

        edge = fit.Edge(session.ledger.metrics.write, session.progress.update, session.interrupted, pause)
        with blaming_if_there(session.config_file):
            arrived = pack.advance(until, edge)
        if pack.step and (not arrived or until < pack.plan.steps):
            save()
        return arrived


@contextlib.contextmanager
def telling_of_memory() -> Iterator[None]:
    """Raises OutOfMemory in place of what says so in Python and JAX."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise OutOfMemory from error
        raise


def _in_halves(session: Session, task: _Task) -> bool:
    """Runs the trials of a pack that was too large in two that are half as large; False if interrupted."""
    trials = task.pack.trials
    shutil.rmtree(task.folder, ignore_errors=True)
    if len(trials) == 1:
        fail(session, trials, UserError("out of memory, with this trial alone; a smaller batch_size may help"))
        return True
    half = math.ceil(len(trials) / 2)
    session.progress.note(f"out of memory with {len(trials)} trials at once; going on with {half}")
    session.capacities[session.program(trials[0]).structure()] = half
    session.ledger.forget([trial.index for trial in trials])
    task.pack = None  # lets its arrays go
    return all(_to_the_end(session, _task(session, part, None, None)) for part in (trials[:half], trials[half:]))


def fail(session: Session, trials: Sequence[Trial], error: UserError) -> None:
    """Notes that trials failed, and why; the others go on."""
    rows = [_failed(trial, error.problems) for trial in trials]
    record(session, rows, {trial.index: trial for trial in trials}, None)
    session.progress.end(rows, None)


def _failed(trial: Trial, problems: Sequence[str]) -> dict[str, Any]:
    """The row of a trial that cannot be run."""
    nothing = {"steps": 0, "best_step": None, "validation": None, "test": None, "train": None}
    nothing |= {"ended": False, "seconds": 0.0}
    about = {"trial": trial.index, "fingerprint": trial.fingerprint, "status": "failed"}
    return {**about, **nothing, "problems": list(problems)}


def record(session: Session, rows: Sequence[dict[str, Any]], trials: Mapping[int, Trial], examples: Any) -> None:
    """Keeps what came of trials, by their numbers."""
    about = plain.about(session.plan)
    session.ledger.record([row | about(trials[row["trial"]]) for row in rows], examples)


# ---------------------------------------------------------------------------------------------------------------------
# Successive halving


def _run_by_rungs(session: Session, trials: Sequence[Trial]) -> bool:
    """Runs trials from rung to rung, the worse of them leaving at each; False if interrupted."""
    halving, everything = session.plan.sweep.halving, len(session.plan.trials)
    tasks = list(_tasks(session, trials))
    for rung, share in enumerate(halving.shares()):
        for task in list(tasks):
            until = _rung_step(task.pack, share)
            try:
                if task.pack.step < until and not task.pack.is_done and not _advance(session, task, until):
                    return False
            except (UserError, OutOfMemory) as error:
                told = error if isinstance(error, UserError) else UserError("out of memory")
                fail(session, task.pack.trials, told)
                tasks.remove(task)
        name = f"{share:.6g}"
        stay = read_decision(session.ledger.folder, name)
        if stay is None:
            scored = [
                (score, trial.fingerprint)
                for task in tasks
                for score, trial in zip(task.pack.scores(), task.pack.trials, strict=True)
            ]
            count = max(halving.least, math.ceil(everything / halving.factor ** (rung + 1)))
            stay = [mark for _, mark in sorted(scored, key=lambda entry: (-entry[0], entry[1]))[:count]]
            write_decision(session.ledger.folder, name, stay)
        tasks = [task for task in tasks if _narrow(session, task, set(stay))]
    return all(_to_the_end(session, task) for task in tasks)


def _rung_step(pack: fit.Pack, share: float) -> int:
    """The first evaluation after a share of the steps."""
    _, every = milestones(pack.trials[0].experiment, pack.plan)
    return min(pack.plan.steps, math.ceil(share * pack.plan.steps / every) * every)


def _narrow(session: Session, task: _Task, stay: set[str]) -> bool:
    """Lets the trials leave that do not stay; whether any do."""
    trials = task.pack.trials
    indices = [i for i, trial in enumerate(trials) if trial.fingerprint in stay]
    if len(indices) < len(trials):
        rows = task.pack.narrow(indices)
        record(session, rows, {trial.index: trial for trial in trials}, None)
        session.progress.end(rows, None)
        if not indices:
            shutil.rmtree(task.folder, ignore_errors=True)
            return False
        with Checkpoints(task.folder) as checkpoints:
            task.pack.save(checkpoints)
    return True
