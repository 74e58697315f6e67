"""A sweep's packs on a Ray cluster, for those who outgrow one machine: `--executor ray`.

    with on_ray() as executor:
        executor.run(session, trials)

A pack is a task of Ray's, with a GPU to itself where the cluster has any and else a core. It gets its trials as JSON,
loads the data and compiles by itself, and sends a message after each evaluation and what came of it in the end. This
process alone writes to the sweep's folder. A pack whose worker is lost is run again from its first step, and one that
does not fit into a worker's memory in halves.

The cluster is the one at RAY_ADDRESS. Without that one is started on this machine, reached from this machine alone and
with a token that nobody else has, and is ended with the sweep. On several machines this package, the config file and
the data have to be at the same places on each.
"""

import contextlib
import importlib.util
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from research import runtime
from research.commandline.loading import blaming_if_there, load_python
from research.config import from_json, to_json
from research.errors import UserError
from research.sweeps import fit, lanes
from research.sweeps.rounds import (
    OutOfMemory,
    Session,
    fail,
    free_memory,
    most_at_once,
    record,
    settings_to_choose,
    telling_of_memory,
)
from research.sweeps.sweep import Sweep, Trial, groups_of_one_source
from research.training.experiment import Experiment
from research.training.plan import make_plan, milestones

TRIES = 3
"""For a pack whose worker is lost; then it is halved, for a worker that is short of memory may just be killed."""
PATIENCE = 0.2
"""Seconds after which it is looked whether there is a signal."""


def check(executor: str, sweep: Sweep) -> None:
    """Raises UserError for a sweep that cannot be run there."""
    if executor != "ray":
        return
    if sweep.halving is not None:
        raise UserError("--executor ray: at each rung of `halving` all trials have to be in one process; leave one out")
    if importlib.util.find_spec("ray") is None:
        raise UserError("--executor ray: Ray is not installed; it is an extra: pip install -e '.[ray]'")


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


class Work(NamedTuple):
    """A pack as a worker gets it: plain data."""

    trials: list[tuple[int, str]]
    """Index and fingerprint of each."""
    experiments: list[Any]
    """As JSON."""
    vary: tuple[str, ...]
    """Paths in which the trials of the program may differ."""
    capacity: int
    """Trials of its largest pack."""
    config_file: str | None
    """Whose classes the experiments may be of."""
    settings: list[fit.Setting] | None = None
    """As `Pack.finish` takes them."""


class Step(NamedTuple):
    """A pack has come to a step."""

    worker: int
    """The number of the process."""
    step: int
    steps: int
    best: dict[str, float]


class Done(NamedTuple):
    """A pack has come to its end."""

    rows: list[dict[str, Any]]
    examples: dict[str, np.ndarray]
    metrics: list[dict[str, Any]]
    best: dict[str, float]


class Failed(NamedTuple):
    """A pack cannot be run; without problems, for want of memory."""

    problems: tuple[str, ...]


def work_on(work: Work) -> Iterator[Step | Done | Failed]:
    """Runs a pack, and tells how far it is."""
    metrics: list[dict[str, Any]] = []
    edge = fit.Edge(metrics.append, lambda *_: None, lambda: None)
    try:
        with blaming_if_there(work.config_file and Path(work.config_file)), telling_of_memory():
            pack = _pack(work)
            if pack.compile_ahead() > free_memory():
                raise OutOfMemory
            _, every = milestones(pack.trials[0].experiment, pack.plan)
            yield Step(os.getpid(), pack.step, pack.plan.steps, None)
            while not pack.is_done:
                pack.advance(min(pack.plan.steps, (pack.step // every + 1) * every), edge)
                yield Step(os.getpid(), pack.step, pack.plan.steps, pack.best_figures())
            outcome = pack.finish(work.settings)
    except UserError as error:
        yield Failed(error.problems)
    except OutOfMemory:
        yield Failed(())
    else:
        yield Done(outcome.rows, outcome.examples, metrics, pack.best_figures())


def _pack(work: Work) -> fit.Pack:
    module = None
    if work.config_file is not None:
        file = Path(work.config_file)
        file = file if file.suffix == ".py" else file.with_name("config.py")
        module = load_python(file) if file.is_file() else None
    experiments = [from_json(data, Experiment, module) for data in work.experiments]
    loaded, how = experiments[0].data.load(), fit.default_how()
    devices = jax.local_devices() if jax.default_backend() != "cpu" else jax.local_devices()[:1]
    program = lanes.make_program(make_plan(experiments[0], loaded), experiments, devices, how, work.vary)
    trials = [
        Trial(index, {}, experiment, mark, 0)
        for (index, mark), experiment in zip(work.trials, experiments, strict=True)
    ]
    return fit.Pack(program, trials, loaded, work.capacity if how == "map" else 0)


# ---------------------------------------------------------------------------------------------------------------------
# In this process


class _Job:
    """A pack that is to be run, or under way."""

    def __init__(self, trials: Sequence[Trial], capacity: int):
        self.trials, self.capacity, self.lost, self.messages = list(trials), capacity, 0, None

    def halves(self) -> "list[_Job]":
        """Two that are half as large."""
        half = math.ceil(len(self.trials) / 2)
        return [_Job(part, half) for part in (self.trials[:half], self.trials[half:])]


class OnRay:
    """Runs packs on the cluster that this process is connected to."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._resources = {"num_cpus": 1}
        found = ray.cluster_resources()
        self.slots = int(found.get("CPU", 1))
        """Packs that are run at once."""
        if found.get("GPU", 0) >= 1:
            self.slots = int(found["GPU"])
            self._resources["num_gpus"] = 1
        # Which packs are run again, and how, is decided here.
        self._task = ray.remote(work_on).options(max_retries=0, **self._resources)

    def run(self, session: Session, trials: Sequence[Trial]) -> bool:
        """Runs some trials, and records what comes of them; False if interrupted."""
        self._forget_what_was_under_way(session, trials)
        waiting, running = deque(self._jobs(session, trials)), []
        try:
            while waiting or running:
                if session.interrupted():
                    return False
                while waiting and len(running) < 2 * self.slots:  # none waits for this process
                    running.append(self._begin(session, waiting.popleft()))
                ready, _ = self._ray.wait([job.messages for job in running], timeout=PATIENCE, fetch_local=False)
                for job in [job for job in running if job.messages in ready]:
                    more = self._hear(session, job)
                    if more is not None:
                        running.remove(job)
                        waiting.extendleft(reversed(more))
            return True
        finally:
            for job in running:
                self._ray.cancel(job.messages, force=True)

    def _forget_what_was_under_way(self, session: Session, trials: Sequence[Trial]) -> None:
        """Drops what this process has saved of packs: they begin again."""
        for folder, saved in session.ledger.take_saved({trial.fingerprint: trial for trial in trials}):
            session.ledger.forget(saved.about["trials"])
            shutil.rmtree(folder, ignore_errors=True)

    def _jobs(self, session: Session, trials: Sequence[Trial]) -> Iterator[_Job]:
        """The packs: as large as memory lets them be, but as many as can be run at once."""
        members = groups_of_one_source(trials)
        for group in members:
            count = len(group.trials)
            parts = math.ceil(count / most_at_once(session.row(group.trials[0])[1]))
            parts = max(parts, min(count, math.ceil(self.slots / len(members))))
            if session.row(group.trials[0])[1].plan.streamed:  # they share the batches as these come
                parts = count if len({trial.experiment.data_seed for trial in group.trials}) > 1 else parts
            size = math.ceil(count / parts)
            for start in range(0, count, size):
                yield _Job(group.trials[start : start + size], size)

    def _begin(self, session: Session, job: _Job) -> _Job:
        sweep, file = session.plan.sweep, session.config_file
        work = Work(
            [(trial.index, trial.fingerprint) for trial in job.trials],
            [to_json(trial.experiment) for trial in job.trials],
            (*sweep.space.paths(), "seed"),
            job.capacity,
            None if file is None else str(file.resolve()),
            settings_to_choose(session, job.trials),
        )
        job.messages = self._task.remote(work)
        return job

    def _message(self, job: _Job) -> Step | Done | Failed | None:
        """The next message of a pack; None if its worker is lost."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(next(job.messages))
        except exceptions.RayTaskError:  # a bug of ours
            raise
        except (exceptions.RayError, StopIteration):
            return None

    def _hear(self, session: Session, job: _Job) -> list[_Job] | None:
        """Takes a message of a pack; None while it goes on, and else the packs that are to be run in its place."""
        message = self._message(job)
        if message is None:
            return self._lost(session, job)
        number, row = session.row(job.trials[0])
        session.progress.begin(number + 1, len(session.plan.rows), row.values, len(job.trials))
        if isinstance(message, Step):
            session.progress.update(message.step, message.steps, message.best)
            return None
        if isinstance(message, Failed):
            if not message.problems:
                return self._in_halves(session, job, "out of memory")
            fail(session, job.trials, UserError(*message.problems))
            return []
        for told in message.metrics:
            session.ledger.metrics.write(told)
        record(session, message.rows, {trial.index: trial for trial in job.trials}, message.examples)
        session.progress.end(message.rows, message.best)
        return []

    def _lost(self, session: Session, job: _Job) -> list[_Job]:
        job.lost += 1
        if job.lost == TRIES:
            return self._in_halves(session, job, f"{TRIES} workers were lost")
        session.progress.note(f"a worker was lost; its trials ({len(job.trials)}) are run again")
        return [job]

    def _in_halves(self, session: Session, job: _Job, why: str) -> list[_Job]:
        if len(job.trials) == 1:
            fail(session, job.trials, UserError(f"{why}, with this trial alone; a smaller batch_size may help"))
            return []
        session.progress.note(f"{why} with {len(job.trials)} trials at once; going on with {len(job.trials) // 2}")
        return job.halves()


# ---------------------------------------------------------------------------------------------------------------------
# The cluster


class Lazily:
    """What connects to a cluster when there is something to run, for that takes a while."""

    def __init__(self, stack: contextlib.ExitStack):
        self._stack, self._executor = stack, None

    def run(self, session: Session, trials: Sequence[Trial]) -> bool:
        """Runs some trials, and records what comes of them; False if interrupted."""
        if not trials:
            return True
        if self._executor is None:
            session.progress.note("connecting to Ray ...")
            self._executor = OnRay(self._stack.enter_context(_connected()))
        return self._executor.run(session, trials)


@contextlib.contextmanager
def opened(executor: str) -> Iterator[Lazily | None]:
    """What runs the packs of a sweep; None for this process. Disconnects in the end."""
    with contextlib.ExitStack() as stack:
        yield None if executor == "process" else Lazily(stack)


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster at RAY_ADDRESS or to one of our own, which lives as long."""
    address, folder = os.environ.get("RAY_ADDRESS"), None
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")  # on a busy machine, 20 are too few
    if not address:
        if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":  # it has read that already
            raise UserError("--executor ray: Ray was imported before and would ask nobody for a token; start anew")
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once in a process
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on any system this is what makes Ray keep to loopback
        folder = tempfile.mkdtemp(prefix="fathom-", dir="/tmp" if os.path.isdir("/tmp") else None)  # sockets: short
        options |= {"num_cpus": runtime.cores(), "include_dashboard": False, "_temp_dir": folder}
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            with warnings.catch_warnings():  # JAX's, of Ray's processes, which are other programs at once
                warnings.filterwarnings("ignore", message=r"os\.fork\(\)", category=RuntimeWarning)
                context = ray.init(address=address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the cluster at {address}" if address else "a cluster on this machine"
            raise UserError(f"--executor ray: {where} cannot be used: {str(error).splitlines()[0]}") from error
        for number, handler in handlers.items():  # Ray has put its own in their place
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        if not address and not context.address_info["node_ip_address"].startswith("127."):
            raise UserError("--executor ray: Ray was imported before and would listen to other machines; start anew")
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
