"""Training steps against PyTorch and against a plain Flax loop, time from nothing to 99 % on MNIST, and cost by size.

    python experiments/benchmarks/training.py                              everything, about an hour on two cores
    python experiments/benchmarks/training.py --quick                      tiny networks: does it run?
    python experiments/benchmarks/training.py --only steps --models W1 W5  one section, some networks
    python experiments/benchmarks/training.py --only steps --settings ours "compiled"   some rows
    python experiments/benchmarks/training.py --only steps --write FOLDER  also all times, a table and a figure, there

    steps       of the networks in `training_subjects`: milliseconds, share of what a matrix product reaches, memory,
                and the first step, by our own compiled chunk, by a plain Flax loop and by PyTorch in several settings
    start       from the start of a process to its end, 99 % on MNIST: launch.py and a plain PyTorch script
                (left out where MNIST_DIR does not name the folder of its files)
    size        cost of ours against batch, width, depth and positions, and the slope of that on logarithmic axes
    devices     a step of ours whose batch 1 to 8 devices share, all of one processor: as they share its cores as well,
                1 is all that can be hoped for, and what is more is the price of dividing

That PyTorch computes the same is checked before anything is timed: with our initial parameters and one batch, the loss
must agree to 1e-4 of itself, and parameters after a step of AdamW that takes them up to 0.01 away to 1e-4.

Each row is a process of its own. They take turns, each as many steps as last `--seconds`, `--rounds` times; printed are
medians, in brackets the least and the most, and ratios taken round by round: "x ours" is how many times as long as ours
a step takes. FLOPs are those of our inspection, forward and backward. PyTorch has the best of one, two and all threads.
Ours are compiled with the flags that launch.py sets, and with oneDNN, where jaxlib has it, as `--tune measure` may
choose; "tuned" is a process whose C library keeps memory that is freed, as launch.py has it, which is no setting of
either framework. Where there is a GPU, batches are larger, two large networks come besides, and the processes of a
network start together, so that first steps are those of a busy machine.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import training_cost  # noqa: E402
import training_figure  # noqa: E402
import training_start  # noqa: E402
import training_subjects as subjects  # noqa: E402
from core import ratios, table  # noqa: E402
from training_rows import EAGER, FLAX, OURS, OURS_ONEDNN, TUNED, WIDTH, Failed, How, Row, end, spread  # noqa: E402

from research import runtime  # noqa: E402

ONEDNN = "products and convolutions to oneDNN"
TOLERANCE = 1e-4
PEAK_SIZES = {"cpu": 1536, "gpu": 8192}
"""Rows of the matrices whose product is the peak."""


def main(arguments: Sequence[str]) -> None:
    """Prints the sections asked for, or all."""
    sections = {"steps": steps, "start": start, "size": training_cost.size, "devices": training_cost.devices}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections), metavar="SECTION")
    parser.add_argument("--models", nargs="+", choices=subjects.NAMES, metavar="MODEL", help="W1 to W5, ...")
    parser.add_argument("--settings", nargs="+", default=(), metavar="PART", help="rows whose name has any of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for training.json, training.md and training.png")
    parser.add_argument("--quick", action="store_true", help="tiny networks, two short rounds")
    asked = parser.parse_args(arguments)
    gpu = has_gpu()
    models = asked.models or (subjects.NAMES if gpu or asked.quick else subjects.WORKLOADS)
    rounds, seconds = (2, 0.05) if asked.quick else (asked.rounds, asked.seconds)
    how = How(tuple(models), rounds, seconds, tuple(asked.settings), gpu, asked.quick, asked.write)
    print(f"{title(how)}; {rounds} rounds of {seconds:g} s\n", flush=True)
    begun = time.perf_counter()
    for name in asked.only:
        sections[name](how)
    print(f"{time.perf_counter() - begun:.0f} s in all")


def title(how: How) -> str:
    """When, where and with what."""
    return f"{datetime.date.today()}, {device_name(how.gpu)}, {versions()}"


def has_gpu() -> bool:
    """Whether JAX's default device is one; asked in a process of its own, which lets go of it."""
    asked = "import jax; print(jax.default_backend())"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout
    return told.strip() in ("gpu", "cuda", "rocm")


def device_name(gpu: bool) -> str:
    """What is measured on."""
    if not gpu:
        return f"{os.cpu_count()} cores, {platform.machine()}"
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        if told := subprocess.run(asked, capture_output=True, text=True).stdout.strip():
            return told.splitlines()[0]
    return "a GPU"


def versions() -> str:
    """Of Python and of the frameworks."""
    found = [f"Python {platform.python_version()}"]
    for name in ("jax", "flax", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


# ---------------------------------------------------------------------------------------------------------------------
# Steps


def rows_of(workload: subjects.Workload, how: How) -> list[Row]:
    """All settings of a workload, ours first. Of what is not installed there are none."""
    found: list[tuple] = [(OURS, "training_ours.py", workload)]
    if ONEDNN in runtime.choices() and not how.gpu:
        found.append((OURS_ONEDNN, "training_ours.py", workload, {"handed": ONEDNN}))
    if importlib.util.find_spec("flax"):
        found.append((FLAX, "training_peers.py", workload, {"peer": "flax"}))
    if importlib.util.find_spec("torch"):
        for name, setting in torch_settings(pictures=not workload.of_tokens and workload.family != "mlp", gpu=how.gpu):
            device = {"device": "cuda" if how.gpu else "cpu"}
            found.append((f"{EAGER}{name}", "training_peers.py", workload, setting | device))
    as_json = [
        (name, script, first._asdict(), *others) for name, script, first, *others in found if wanted(name, how.settings)
    ]
    allocators = (False, True) if platform.system() == "Linux" and not (how.gpu or how.tiny) else (False,)
    return [
        Row(*each, tuned=tuned, gpu=how.gpu)
        for each in as_json
        for tuned in allocators
        if not (tuned and each[0] == FLAX)
    ]


def wanted(name: str, parts: Sequence[str]) -> bool:
    """Whether a row is asked for; ours, and PyTorch as it is, which others are compared with, always are."""
    return not parts or name in (OURS, EAGER) or any(part in name for part in parts)


def torch_settings(*, pictures: bool, gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What PyTorch may be told, and how that is called."""
    last = {"channels_last": True}
    yield "", {}
    if not gpu:  # there everything costs dear time, and the compiler lays pictures out by itself
        yield ", AdamW unfused", {"fused": False}
    if not gpu or not pictures:
        yield ", compiled", {"compiled": "default"}
    if pictures:
        yield ", channels last", last
        yield ", compiled, channels last", last | {"compiled": "default"}
    if gpu:
        how = ", channels last" if pictures else ""
        yield f", reduce-overhead{how}", {"compiled": "reduce-overhead"} | (last if pictures else {})


def steps(how: How) -> None:
    """A table for each workload, and one of them all."""
    summary, times = [], {}
    for name in how.models:
        workload = subjects.workload(name, gpu=how.gpu, tiny=how.tiny)
        rows = rows_of(workload, how)
        try:
            flops, rate = measure(workload, rows, how)
        except Failed as error:
            print(f"{name}: {error}\n", flush=True)
            continue
        finally:
            end(rows)
        show(workload, rows, flops, rate)
        summary.append(summary_of(name, rows))
        times[name] = {row.name: row.times for row in rows if row.times}
        if how.write:
            training_figure.write(how.write, title(how), times)
    header = ("network", "fastest PyTorch", "times as long", "Flax loop", "tuned, both", "and ours oneDNN")
    table("Times as long as ours: the fastest setting of PyTorch, and Flax", header, summary, width=WIDTH)


def measure(workload: subjects.Workload, rows: list[Row], how: How) -> tuple[int, float]:
    """Starts, checks and times all rows; returns the FLOPs of a step, and FLOP/s of a matrix product.

    Raises Failed where ours cannot be run or PyTorch does something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        compared = (subjects.checked(workload)._asdict(), str(Path(folder, "step.npz")))
        flops = begin(rows, compared, together=how.gpu)
        torch = next((row for row in rows if row.is_torch and not row.failed), None)
        if torch is not None:
            told = torch.told("check", *compared)
            check(told, torch)
            print(f"{workload.name} compared: loss to {told['loss']:.0e}, parameters to {told['parameters']:.0e}")
        elif any(row.is_torch for row in rows):
            print(f"{workload.name} not compared: nothing of PyTorch could be run")
    counts = {row.begun["parameters"] for row in rows if row.begun}
    if len(counts) > 1:
        raise Failed(f"the networks have {' and '.join(map(str, sorted(counts)))} parameters")
    size = 256 if how.tiny else PEAK_SIZES["gpu" if how.gpu else "cpu"]
    rate = max(row.told("peak", size).get("rate", 0.0) for row in (rows[0], torch) if row is not None)
    for row in rows:
        row.threads = row.told("settle", how.seconds).get("threads")
    for _ in range(how.rounds):
        for row in rows:
            if told := row.told("turn"):
                row.times.append(told["ms"])
    for row in rows:
        row.bytes = row.told("memory").get("bytes")
    return flops, rate


def begin(rows: list[Row], compared: tuple[dict[str, Any], str], *, together: bool) -> int:
    """The first step of each, one row after another or all at once; ours also writes the step that is compared.

    What finds no memory while others have it is told again alone. Returns the FLOPs of a step. Raises Failed where ours
    cannot do any of this.
    """
    ours = rows[0]

    def first(row: Row) -> None:
        row.start()
        if row is ours:
            row.worker.tell("flops")
            row.worker.tell("check", *compared)

    flops = 0
    if together:
        for row in rows:
            first(row)
    for row in rows:
        if not together:
            first(row)
        row.begun = row.told()
        if row is ours:
            flops, _ = row.told().get("flops", 0), row.told()
            if row.failed:
                raise Failed(f"ours: {row.failed}")
    for row in rows:
        if together and "memory" in row.failed.lower():
            row.failed = ""
            row.begun = row.told("begin")
    return flops


def check(told: dict[str, Any], torch: Row) -> None:
    """Raises Failed where a step of PyTorch is not ours, by what its worker told, or where it could not take it."""
    if torch.failed:
        raise Failed(f"{torch.name} could not be compared: {torch.failed}")
    if not (told["loss"] <= TOLERANCE and told["parameters"] <= TOLERANCE):  # NaN is no agreement
        raise Failed(
            f"PyTorch computes something else: the loss differs by {told['loss']:.1g} of itself, and after a step "
            f"{told['worst']} by {told['parameters']:.1g}"
        )


def show(workload: subjects.Workload, rows: list[Row], flops: int, rate: float) -> None:
    """Prints what was found of a workload."""
    bases = [row for row in rows if row.name in (OURS, OURS + TUNED) and row.times]
    cells, unit = [], "TFLOP/s" if rate > 1e13 else "GFLOP/s"
    of_unit = 1e12 if unit == "TFLOP/s" else 1e9
    for row in rows:
        if row.failed:
            cells.append((row.name, row.failed))
            continue
        threads = f", {row.threads} threads" if row.threads and row.threads > 1 else ""
        reached = flops / (1e-3 * statistics.median(row.times))
        cells.append(
            (
                row.name + threads,
                spread(row.times, 3),
                *("1" if row is base else spread(ratios(row.times, base.times)) for base in bases),
                f"{reached / of_unit:,.1f}",
                f"{100 * reached / rate:.1f} %" if rate else "",
                f"{row.bytes / 2**20:,.0f}" if row.bytes else "",
                f"{row.begun['from_start']:.1f}",
                f"{row.begun['call']:.2f}",
            )
        )
    failures = [cell for cell in cells if len(cell) == 2]
    told = " x ".join(map(str, workload.shape))
    title = (
        f"{workload.name}: {told}, batch {workload.batch}, {workload.precision}, {flops / 1e9:.3g} GFLOP a step; a "
        f"matrix product reaches {rate / of_unit:,.0f} {unit}"
    )
    bases_named = tuple(f"x {base.name}" for base in bases)
    header = ("", "ms a step", *bases_named, unit, "of product", "MiB", "s to first step", "its call")
    table(title, header, [cell for cell in cells if len(cell) > 2], width=WIDTH)
    for name, why in failures:
        print(f"  {name}: {why}")
    print(end="\n" if failures else "", flush=True)


def summary_of(name: str, rows: list[Row]) -> tuple[str, ...]:
    """The fastest setting of PyTorch and how many times as long it takes, and so Flax; tuned, beside ours tuned."""
    by_name = {row.name: row for row in rows if row.times}

    def beside(row: Row | None, ours: str) -> str:
        return spread(ratios(row.times, by_name[ours].times)) if row and ours in by_name else ""

    fastest, tuned = (fastest_torch(by_name, tuned=tuned) for tuned in (False, True))
    cells = [beside(row, OURS) for row in (fastest, by_name.get(FLAX))]
    cells += [beside(tuned, ours + TUNED) for ours in (OURS, OURS_ONEDNN)]
    return (name, fastest.name if fastest else "", *cells)


def fastest_torch(rows: dict[str, Row], *, tuned: bool) -> Row | None:
    """PyTorch's, by the median."""
    found = [row for row in rows.values() if row.is_torch and row.name.endswith(TUNED) is tuned]
    return min(found, key=lambda row: statistics.median(row.times), default=None)


# ---------------------------------------------------------------------------------------------------------------------
# From nothing


EPOCHS = 3


def start(how: How) -> None:
    """Seconds of a process that trains to 99 % on MNIST, and its test accuracy."""
    if not os.environ.get("MNIST_DIR"):
        print("start: left out, for MNIST_DIR does not say where MNIST is\n")
        return
    epochs = 1 if how.tiny else EPOCHS
    found = training_start.measure(1 if how.tiny else min(3, how.rounds), epochs)
    bases = [[seconds for seconds, _ in told] for name, told in found.items() if name.startswith(OURS)]
    rows = []
    for name, told in found.items():
        seconds, accuracies = zip(*told, strict=True)
        shown = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
        rows.append((name, spread(seconds, 1), *(spread(ratios(seconds, base)) for base in bases), shown))
    header = ("", "seconds", "x cold", "x compiled before", "test accuracy, % (goal: 99)")
    table(f"MNIST, {epochs} epochs, from the start of a process to its end", header, rows, width=WIDTH)


if __name__ == "__main__":
    main(sys.argv[1:])
