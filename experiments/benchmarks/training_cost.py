"""What a step of ours costs by the size of a network, and by the number of devices that share its batch.

Two sections of `training.py`: cost by size beside the FLOPs, and what it costs to divide a batch over devices that are
all one processor.
"""

import contextlib
import math
import statistics

import training_subjects as subjects
from core import ratios, table
from training_rows import WIDTH, How, Row, Worker, end, spread

GROWN = (
    ("batch", "W3", (32, 64, 128, 256, 512)),
    ("width", "W3", (128, 256, 512, 1024)),
    ("depth", "W3", (2, 4, 8, 16)),
    ("batch", "W1", (25, 50, 100, 200)),
    ("depth", "W5", (2, 4, 8)),
    ("positions", "W5", (32, 64, 128, 256)),
)
"""What of which network is made larger, and how large."""


def size(how: How) -> None:
    """Milliseconds of a step by size, and how fast they grow beside the FLOPs: slopes on logarithmic axes."""
    import numpy as np

    rows = []
    for part, name, values in GROWN:
        if name not in how.models:
            continue
        base = subjects.workload(name, gpu=how.gpu, tiny=how.tiny)
        if how.tiny:
            values = values[:2]
        elif how.gpu and part == "batch":
            values = tuple(base.batch * value // values[-1] for value in values)
        each = [grown(base, part, value)._asdict() for value in values]
        with contextlib.closing(Worker("training_ours.py", each[0], gpu=how.gpu)) as worker:
            told = worker("sizes", each, how.seconds / 2, min(3, how.rounds))
        ms = [statistics.median(times) for times in told["ms"]]
        slopes = [np.polyfit(np.log(values), np.log(costs), 1)[0] for costs in (ms, told["flops"])]
        shown = ", ".join(f"{value}: {cost:.3g}" for value, cost in zip(values, ms, strict=True))
        rows.append((f"{part} of {name}", shown, *(f"{slope:.2f}" for slope in slopes)))
    header = ("", "ms a step", "slope", "of FLOPs")
    table("Cost by size: slopes on logarithmic axes (1 is in proportion)", header, rows, width=WIDTH)


def grown(base: subjects.Workload, part: str, value: int) -> subjects.Workload:
    """A workload, one part of which is so large."""
    if part == "batch":
        return base._replace(batch=value)
    if part == "positions":
        return base._replace(shape=(value,), sizes=base.sizes | {"context": value})
    return base._replace(sizes=base.sizes | {part: value})


SHARING, SHARED = (1, 2, 4, 8), ("W2", "W3", "W4", "W5")
"""How many devices share a batch, and the networks whose batch all of these divide."""


def devices(how: How) -> None:
    """Milliseconds of a step by the number of devices, and how many times as long as by one."""
    if how.gpu:
        print("devices: left out, for there is a GPU, and these are a processor's\n")
        return
    counts, rows = SHARING[:2] if how.tiny else SHARING, []
    for name in (name for name in SHARED if name in how.models):
        workload = subjects.workload(name, tiny=how.tiny)._asdict()
        workers = [Row(f"{count}", "training_ours.py", workload, {"devices": count}) for count in counts]
        try:
            for count, row in zip(counts, workers, strict=True):
                row.start()
                row.begun = row.told()
                assert row.failed or row.begun["devices"] == count, f"{row.begun} is not of {count}"
                row.told("settle", how.seconds)
            for _ in range(how.rounds):
                for row in workers:
                    row.times.append(row.told("turn").get("ms", math.nan))
        finally:
            end(workers)
        if failed := [row for row in workers if row.failed]:
            print(f"{name}: {failed[0].name} devices: {failed[0].failed}\n", flush=True)
            continue
        others = (spread(ratios(row.times, workers[0].times)) for row in workers[1:])
        rows.append((name, spread(workers[0].times, 3), *others))
    header = ("", "1 device, ms a step", *(f"{count}, x 1" for count in counts[1:]))
    table("Devices of one processor that share a batch", header, rows, width=WIDTH)
