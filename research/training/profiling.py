"""Where the time of a step of training goes: a few steps are run under XLA's profiler, and nothing is trained.

told = profile(get_config(), workdir="runs")
told["parts"]         {"forward": 1.9, "backward": 4.1, ...}, milliseconds a step
told["layers"]        the same by layer, beside what the layer costs
told["operations"]    what ran, the longest first
told["trace"]         the folder of the trace, for TensorBoard and for ui.perfetto.dev
"""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from research.data.base import Loaded
from research.errors import UserError
from research.inspection import profiles
from research.models.base import stacks
from research.stacks import as_range, block_paths
from research.training.experiment import Experiment
from research.training.first_steps import FirstSteps
from research.training.inspecting import inspect_experiment
from research.training.plan import Plan

SECONDS = 1.0
"""About how long what is profiled lasts, if the most steps that are taken at once are enough for it."""


def profile(experiment: Experiment, *, workdir: str = "runs") -> dict[str, Any]:
    """What a step's time is spent on, as plain data, all in milliseconds a step. Its trace is kept in a new folder.

    The steps are the first of a run in its first phase; without their compilation. "busy_ms" is the time in which any
    operation ran, and "operations_ms" that of all of them, which is more where several run at once. Raises UserError as
    a run does.
    """
    with _compiled_anew():  # names in a program that is read from the disk are those of whoever compiled it
        steps = FirstSteps(experiment)
        program = steps.program()
    count = steps.warm(SECONDS)
    folder = _new_folder(workdir, experiment.name)
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        seconds = steps.take(count)
    found, busy = profiles.profile(program, folder, _layers(steps.plan))
    flops = {} if steps.cut is not None else _flops(experiment, steps.plan, steps.loaded)
    return {
        "name": experiment.name,
        "device": jax.devices()[0].device_kind,
        "steps": count,
        "ms": 1e3 * seconds / count,
        "busy_ms": 1e3 * busy / count,
        "operations_ms": 1e3 * sum(each.seconds for each in found) / count,
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
