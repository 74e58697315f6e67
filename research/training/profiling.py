"""Where the time of a step of training goes: a few steps are run under XLA's profiler, and nothing is trained.

told = profile(get_config(), workdir="runs")
told["parts"]         {"forward": 1.9, "backward": 4.1, ...}, milliseconds a step
told["layers"]        the same by layer, beside what the layer costs
told["operations"]    what ran, the longest first
told["trace"]         the folder of the trace, for TensorBoard and for ui.perfetto.dev
"""

import contextlib
import datetime
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from research import runtime
from research.data import feeding
from research.data.base import Loaded
from research.errors import UserError
from research.inspection import profiles
from research.models.base import stacks
from research.stacks import as_range, block_paths
from research.training import evaluation, features, loop, step
from research.training.experiment import Experiment
from research.training.inspecting import inspect_experiment
from research.training.plan import Plan, boundary, replicate
from research.training.run import prepare, rehearse
from research.training.state import State
from research.training.step import Data, train_chunk

SECONDS, MOST_STEPS = 1.0, 200
"""How long what is profiled lasts, and how many steps it takes at most: every operation of each is written down."""


def profile(experiment: Experiment, *, workdir: str = "runs") -> dict[str, Any]:
    """What a step's time is spent on, as plain data, all in milliseconds a step. Its trace is kept in a new folder.

    The steps are the first of a run in its first phase; without their compilation. "busy" is the time of all threads or
    streams, of which "cores" could be busy at once. Raises UserError as a run does.
    """
    loaded = experiment.data.load()
    plan, beginning = prepare(experiment, loaded)
    rehearse(experiment, plan, loaded)
    leaves = replicate(plan, boundary(experiment))
    source = None if beginning is None else beginning.arrays
    state, frozen = replicate(plan, step.initial_state(plan, leaves, source))
    cut = features.find_cut(plan, experiment, loaded)
    if cut is not None:  # as the run does
        plan, seen = features.on_features(plan, experiment, loaded, cut, state, frozen)
    else:
        seen = loaded
    arguments = (plan, leaves, frozen)
    data, most = _data(plan, experiment, seen)
    with _compiled_anew():
        program = train_chunk.lower(*arguments, state, data, loop.lengths(0, [1])).compile().as_text()
    state, count = _warm(arguments, state, data, most)
    folder = _new_folder(workdir, experiment.name)
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        begun = time.perf_counter()
        state = _run(arguments, state, data, count)
        seconds = time.perf_counter() - begun
    found = profiles.operations(program, folder, _layers(plan))
    flops = {} if cut is not None else _flops(experiment, plan, loaded)
    return {
        "name": experiment.name,
        "device": jax.devices()[0].device_kind,
        "cores": runtime.cores() if jax.default_backend() == "cpu" else 1,
        "steps": count,
        "ms": 1e3 * seconds / count,
        "busy_ms": 1e3 * sum(each.seconds for each in found) / count,
        "parts": _by_part(found, count),
        "layers": _by_layer(found, count, flops),
        "operations": [_operation(each, count) for each in found],
        "trace": str(folder),
    }


@contextlib.contextmanager
def _compiled_anew() -> Iterator[None]:
    """A program that is read from the disk has the names of whoever compiled it, if it computes the same."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _data(plan: Plan, experiment: Experiment, loaded: Loaded) -> tuple[Data, int]:
    """What a chunk reads, and how many steps it is enough for."""
    train = loaded.splits["train"]
    if not plan.streamed:
        return evaluation.to_device(plan, train, loaded.normalisation), MOST_STEPS
    count = min(evaluation.STREAMED_CHUNK, plan.steps)
    how = {"seed": experiment.data_seed, "first_step": 0, "steps": count, "batch_size": experiment.batch_size}
    batches = feeding.stream(train, **how)
    try:
        chunk = loop.stack(list(itertools.islice(batches, count)), loaded.normalisation)
    finally:
        batches.close()
    return replicate(plan, chunk), count


def _warm(arguments: tuple, state: State, data: Data, most: int) -> tuple[State, int]:
    """The state after some steps, and how many more of them last about as long as is profiled."""
    state, count, taken = _run(arguments, state, data, 1), 1, 0.0
    while taken < SECONDS / 4 and count < most:
        count = min(most, 4 * count)
        begun = time.perf_counter()
        state = _run(arguments, state, data, count)
        taken = time.perf_counter() - begun
    return state, max(1, min(most, round(SECONDS * count / max(taken, 1e-9))))


def _run(arguments: tuple, state: State, data: Data, count: int) -> State:
    state, _ = train_chunk(*arguments, state, data, loop.lengths(0, [count]))
    return jax.block_until_ready(state)


def _new_folder(workdir: str, name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(workdir, name or "run", f"profile-{stamp}-{os.getpid()}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from error
    return folder


def _layers(plan: Plan) -> set[str]:
    """Every path that parameters are under."""
    found = set()
    for path in (*plan.trainable, *plan.frozen):
        names = path.split("/")[:-1]
        found |= {"/".join(names[: i + 1]) for i in range(len(names))}
    return found


# ---------------------------------------------------------------------------------------------------------------------
# As plain data


def _by_part(found: Iterable[profiles.Operation], steps: int) -> dict[str, float]:
    parts = dict.fromkeys(profiles.PARTS, 0.0)
    for each in found:
        parts[each.part] += 1e3 * each.seconds / steps
    return parts


def _flops(experiment: Experiment, plan: Plan, loaded: Loaded) -> dict[str, int]:
    """Of a step, forward and backward, by layer; those of equal blocks that are stacked under the stack's name."""
    found = stacks(experiment.model).items()
    stack_of = {path: stack for stack, blocks in found for path in block_paths(stack, as_range(blocks))}
    flops: dict[str, int] = {}
    for layer in inspect_experiment(experiment, plan, loaded).layers:
        first, slash, rest = layer.path.partition("/")
        path = f"{stack_of.get(first, first)}{slash}{rest}"
        flops[path] = flops.get(path, 0) + experiment.accumulate * (layer.forward + layer.backward).flops
    return flops


def _by_layer(found: Iterable[profiles.Operation], steps: int, flops: Mapping[str, int]) -> list[dict[str, Any]]:
    """Forward and backward of each layer, the longest first, and FLOP/s where its FLOPs are known."""
    rows = []
    for path, parts in profiles.by_layer(found).items():
        forward, backward = (1e3 * parts.get(part, 0.0) / steps for part in ("forward", "backward"))
        if forward + backward:
            rate = flops.get(path, 0) / (1e-3 * (forward + backward)) or None
            rows.append({"layer": path, "forward_ms": forward, "backward_ms": backward, "flops_per_second": rate})
    return sorted(rows, key=lambda row: -(row["forward_ms"] + row["backward_ms"]))


def _operation(each: profiles.Operation, steps: int) -> dict[str, Any]:
    about = each._asdict()
    seconds = about.pop("seconds")
    return about | {"calls": each.calls / steps, "ms": 1e3 * seconds / steps}
