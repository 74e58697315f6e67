"""Reading what a run left behind: its experiment, its data and plan, its best checkpoint."""

import hashlib

import jax
import numpy as np

from research.commandline.loading import load_config
from research.data.base import Loaded, Streamed
from research.errors import UserError
from research.training import display, phases
from research.training.checkpoints import Checkpoints, match
from research.training.experiment import Experiment
from research.training.folder import RunFolder
from research.training.plan import Plan, make_plan, replicate
from research.training.state import Parameters, State, as_flat, from_flat
from research.training.step import state_shapes


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


def load_best(run: RunFolder, experiment: Experiment, plan: Plan) -> tuple[State, Parameters]:
    """The best checkpoint of a run, or the latest where the best is damaged: its state, and the frozen parameters."""
    with Checkpoints(run.checkpoints) as checkpoints:
        try:
            found = checkpoints.restore_best()
        except UserError as error:
            if not checkpoints.steps("best") or not checkpoints.steps():
                raise
            display.note(f"{error}; using the latest checkpoint in its place")
            found = checkpoints.restore_latest()
        at_the_start = restore_frozen(checkpoints, plan, experiment)
    for line in found.notes:
        display.note(line)
    phase = phases.plan_of(plan, found.step, found.arrays)
    template, _ = state_shapes(phase, experiment)
    state = from_flat(match(found.arrays, as_flat(template), str(run.path)), template)
    if phase == plan:
        return replicate(plan, (state, at_the_start))
    return replicate(plan, phases.to_use(plan, state, at_the_start))


def restore_frozen(checkpoints: Checkpoints, plan: Plan, experiment: Experiment) -> Parameters:
    """What was frozen when a run began, as it was saved then; the plan is that of its first phase."""
    _, frozen = state_shapes(plan, experiment)
    if not frozen:
        return {}
    return from_flat(match(checkpoints.restore_frozen(), as_flat(frozen), str(checkpoints.folder.parent)), frozen)


def data_fingerprint(loaded: Loaded) -> str:
    """Sixteen hexadecimal digits that change when any example or label does (labels alone where data is streamed)."""
    digest = hashlib.blake2b(digest_size=8)
    for name, split in sorted(loaded.splits.items()):
        digest.update(f"{name} {len(split)}".encode())
        digest.update(np.ascontiguousarray(split.labels))
        if not isinstance(split, Streamed):
            digest.update(np.ascontiguousarray(split.inputs))
    return digest.hexdigest()


def parameters_fingerprint(arrays: Parameters) -> str:
    """The SHA-256 of arrays by path, which changes with any bit of them, that of a zero's sign or a NaN's included."""
    digest = hashlib.sha256()
    for path in sorted(arrays):
        array = np.ascontiguousarray(jax.device_get(arrays[path]))
        digest.update(f"{path} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
