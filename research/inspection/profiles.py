"""Where the time of a compiled program goes, by what XLA's profiler saw of it.

    found = profile(compiled.as_text(), folder_of_a_trace, layers)
    by_layer(found.operations)     {"stage_0/convolution_0": {"forward": seconds, "backward": seconds}, ...}

The profiler tells how long each operation of the program took, wherever it ran; the program tells of each operation
what it was traced from: "jit(train_chunk)/while/body/transpose(jvp(Net))/stage_0/convolution_0/dot_general" is of the
backward pass of the layer stage_0/convolution_0. XLA fuses operations, and what it fused counts for the last of them.

On a CPU, a convolution is computed by threads that the profiler does not see; all that it tells is how long it took to
hand the work to them, a tenth of it. Others may run meanwhile, until one needs what is convolved, and nothing is seen.
So the first time after a convolution in which nothing is seen, until the next operation begins, counts for it.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from research.inspection.program import innermost

Part = Literal["batch", "forward", "backward", "update", "other"]
PARTS: tuple[Part, ...] = ("batch", "forward", "backward", "update", "other")
"""Of a step: `batch` and `update` are name scopes of `training.step`."""
CONTROL = frozenset(("while", "conditional", "call", "async-start", "async-done", "async-update"))
"""Operations whose time is that of others."""
BETWEEN = 2e-5
"""Seconds that may pass, at most, from the end of one operation to the next where there is nothing to wait for."""
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?\s([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ORIGIN = re.compile(r'metadata=\{[^}]*op_name="([^"]*)"')
_CALLS = re.compile(r"calls=%?([\w.\-]+)")


class Operation(NamedTuple):
    """An operation of a compiled program, in all the times that it ran."""

    name: str
    """XLA's: "dot.15"."""
    kind: str
    """Its operation: "dot", "fusion"; "kernel" for what the program does not name."""
    origin: str
    """The last word of what it was traced from: "conv_general_dilated"; "" if that is not known."""
    layer: str
    """The path of the layer; "" if it is of none."""
    part: Part
    calls: int
    seconds: float
    """Of all threads or streams together."""


class Profile(NamedTuple):
    """What ran while a program was traced."""

    operations: list[Operation]
    """The longest first."""
    busy: float
    """Seconds in which any of them ran."""


class Event(NamedTuple):
    """One time that an operation ran."""

    name: str
    start: float
    """In seconds, as the length."""
    seconds: float


class Instruction(NamedTuple):
    """What a program says of one of its operations."""

    kind: str
    origin: str
    """Where it was traced: the path of name scopes, and the primitive. "" if that is not known."""


UNKNOWN = Instruction("kernel", "")
"""What the program does not name."""


def profile(program: str, folder: Path | str, layers: Collection[str]) -> Profile:
    """What ran, by what the profiler wrote.

    program: the text of the compiled program (`compiled.as_text()`); folder: what `jax.profiler.trace` wrote to;
    layers: the paths of all layers. Raises ValueError for a folder that holds no trace.
    """
    planes = _planes(Path(folder))
    return summed(instructions(program), events_of(planes), layers, on_cpu=not _devices(planes))


def summed(
    program: Mapping[str, Instruction], events: Iterable[Event], layers: Collection[str], *, on_cpu: bool
) -> Profile:
    """The operations of some events."""
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    busy, until, convolution = 0.0, -math.inf, None  # the convolution begun since there was last nothing to be seen
    for event in sorted(events, key=lambda event: event.start):
        kind = program.get(event.name, UNKNOWN).kind
        if kind in CONTROL:
            continue
        if convolution is not None and (unseen := event.start - until) > BETWEEN:
            seconds[convolution] += unseen
            busy += unseen
            convolution = None
        end = event.start + event.seconds
        busy += max(0.0, end - max(until, event.start))
        until = max(until, end)
        calls[event.name] += 1
        seconds[event.name] += event.seconds
        if on_cpu and kind == "convolution":
            convolution = event.name
    found = []
    for name, taken in seconds.most_common():
        kind, origin = program.get(name, UNKNOWN)
        last = origin.rpartition("/")[2]
        found.append(Operation(name, kind, last, innermost(origin, layers), part_of(origin), calls[name], taken))
    return Profile(found, busy)


def part_of(origin: str) -> Part:
    """The part of a step that an operation is of, by where it was traced."""
    if "transpose(" in origin:
        return "backward"
    if "jvp(" in origin:
        return "forward"
    names = origin.split("/")
    return next((part for part in ("batch", "update") if part in names), "other")


def by_layer(found: Iterable[Operation]) -> dict[str, dict[Part, float]]:
    """Seconds of each layer by part, in the order in which layers first come; those of no layer are under ""."""
    layers: dict[str, dict[Part, float]] = {}
    for each in found:
        parts = layers.setdefault(each.layer, {})
        parts[each.part] = parts.get(each.part, 0.0) + each.seconds
    return layers


# ---------------------------------------------------------------------------------------------------------------------
# The program


def instructions(program: str) -> dict[str, Instruction]:
    """The operations of a compiled program by name. One that says not where it is from has it of what it calls."""
    found, origins, called, computation = {}, {}, {}, ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
            continue
        if not (match := _INSTRUCTION.match(line)):
            continue
        name, kind = match.groups()
        origin = _ORIGIN.search(line)
        found[name] = Instruction(kind, origin[1] if origin else "")
        if origin:
            origins.setdefault(computation, Counter())[origin[1]] += 1
        elif calls := _CALLS.search(line):
            called[name] = calls[1]
    for name, callee in called.items():
        if callee in origins:
            found[name] = found[name]._replace(origin=origins[callee].most_common(1)[0][0])
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The trace


def _planes(folder: Path) -> list[Any]:
    from jax.profiler import ProfileData

    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise ValueError(f"{folder}: holds no trace of JAX's profiler")
    return [plane for file in files for plane in ProfileData.from_file(str(file)).planes]


def _devices(planes: Sequence[Any]) -> list[Any]:
    """The planes of a GPU or a TPU."""
    return [plane for plane in planes if plane.name.startswith("/device:")]


def events_of(planes: Sequence[Any]) -> Iterator[Event]:
    """Each time that an operation ran, by the planes of a trace.

    On a CPU these are the events of all threads that name an operation; on other devices those of their own, whether or
    not the profiler knows of what operation a kernel is. A TPU has a line of operations, and a GPU one for each stream;
    lines that sum up others are left out.
    """
    devices = _devices(planes)
    for plane in devices or planes:
        lines = list(plane.lines)
        if devices:
            streams = [line for line in lines if not line.name.startswith(("XLA", "Steps", "Framework", "Source"))]
            lines = [line for line in lines if line.name == "XLA Ops"] or streams
        for line in lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op") or (event.name if devices else None)
                if name is not None and not event.name.startswith("end: "):
                    yield Event(name, event.start_ns / 1e9, event.duration_ns / 1e9)
