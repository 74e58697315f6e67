"""Small networks before and after a change: a step of each on one core, by two checkouts in processes that take turns.

    git worktree add ../before HEAD~1
    python experiments/benchmarks/small.py --against ../before                 about four minutes
    python experiments/benchmarks/small.py --against ../before ConvNet ViT     those whose names hold one of the words
    python experiments/benchmarks/small.py                                     this checkout alone

Of a small network, as sweeps train them by hundreds, no single operation takes long, so what counts is how XLA fuses
them: a formulation that is faster alone, and in a large network, may have what comes before it computed anew for one
reader more, and make these two or three times slower. Printed are microseconds a step, medians with the least and the
most in brackets, how many times as fast this checkout is, round by round, and seconds to trace and compile.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BATCH, SECONDS = 64, 0.1
"""Examples in a step, and how long a turn is about."""


def networks() -> dict[str, Any]:
    """By name, those of several kinds of layers, norms and activations."""
    from research.models import MLP, ConvNet, LeNet, SmallResNet, ViT

    flat = {"pooling": None, "head": "average"}
    return {
        "MLP 2x64": MLP(depth=2, width=64),
        "MLP 8x128": MLP(depth=8, width=128),
        "MLP 4x64, layer norms": MLP(depth=4, width=64, norm="layer"),
        "MLP 4x64, batch norms": MLP(depth=4, width=64, norm="batch"),
        "ConvNet 8, 16": ConvNet(features=(8, 16)),
        "ConvNet 8, 16, batch norms": ConvNet(features=(8, 16), norm="batch"),
        "ConvNet 16, 32, group norms": ConvNet(features=(16, 32), norm="group"),
        "ConvNet 8, 16, gelu": ConvNet(features=(8, 16), activation="gelu"),
        "ConvNet 16, 16 by 5x5, silu": ConvNet(features=(16, 16), kernel_size=5, activation="silu"),
        "ConvNet 8, four layers": ConvNet(features=(8,), convolutions=4, **flat),
        "ConvNet 8, four layers, residual": ConvNet(features=(8,), convolutions=4, residual=True, **flat),
        "LeNet": LeNet(),
        "SmallResNet 8, group norms": SmallResNet(depth=8, width=8, norm="group"),
        "SmallResNet 8, batch norms": SmallResNet(depth=8, width=8, norm="batch"),
        "ViT 2x32": ViT(depth=2, width=32, heads=4, patch=2),
    }


# ---------------------------------------------------------------------------------------------------------------------
# One checkout


def work(root: str) -> None:
    """A worker: for each name on a line of the standard input, its turns, until the next name."""
    sys.path[:0] = [root, str(Path(root, "experiments/benchmarks"))]
    from research import runtime

    runtime.tune()
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    found = networks()
    turns: Iterator[float] = iter(())
    for line in sys.stdin:
        if name := line.strip():
            turns = of(found[name])
        print(json.dumps(next(turns)), flush=True)


def of(model: Any) -> Iterator[float]:
    """Seconds to the first step, compilation and all, and then without end those of a step."""
    import jax
    from core import Prepared, seconds_until_computed

    from research.data import Digits
    from research.training import AdamW, Experiment, steps
    from research.training.loop import lengths
    from research.training.step import train_chunk

    how = {"optimizer": AdamW(weight_decay=1e-2), "duration": steps(10**6), "batch_size": BATCH}
    it = Prepared.of(Experiment(data=Digits(), model=model, norms="none", devices=1, **how))
    kept = [it.state()]

    def seconds(count: int) -> float:
        def steps() -> Any:
            kept[0], logged = train_chunk(it.plan, it.leaves, {}, kept[0], it.data, lengths(0, [count]))
            return kept[0], logged

        return seconds_until_computed(steps) / count

    jax.clear_caches()
    yield seconds(1)
    count = max(1, round(SECONDS / seconds(10)))
    while True:
        yield seconds(count)


# ---------------------------------------------------------------------------------------------------------------------
# Both


class Checkout:
    """A process of a checkout's, on one core."""

    def __init__(self, root: Path):
        begin = [sys.executable, str(Path(__file__).resolve()), "--work", str(root)]
        self._process = subprocess.Popen(begin, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with contextlib.suppress(AttributeError):  # where a process can be bound to a core
            os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})

    def turn(self, name: str = "") -> float:
        """Seconds of the next turn, or to the first step of a network that is named."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        if not (told := self._process.stdout.readline()):
            raise SystemExit(f"{name}: the process ended with status {self._process.wait()}")
        return json.loads(told)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def row(name: str, checkouts: Sequence[Checkout], rounds: int) -> tuple[str, ...]:
    """Microseconds of each, the ratio, and seconds to the first step."""
    firsts = [checkout.turn(name) for checkout in checkouts]
    turns = [[checkout.turn() for checkout in checkouts] for _ in range(rounds)]
    taken = [spread([1e6 * turn[i] for turn in turns], 0) for i in range(len(checkouts))]
    ratio = [spread([turn[0] / turn[-1] for turn in turns], 2)] if len(checkouts) > 1 else []
    return name, *taken, *ratio, *(f"{first:.1f}" for first in firsts)


def spread(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main(arguments: Sequence[str]) -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="networks whose names hold one of these; all")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, as it was before")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        return work(asked.work)
    if asked.against and not Path(asked.against, "research").is_dir():
        parser.error(f"--against {asked.against}: holds no research/")
    sys.path.insert(0, str(ROOT))
    names = [name for name in networks() if not asked.words or any(word in name for word in asked.words)]
    if not names:
        parser.error(f"no network of {', '.join(asked.words)}; there are {'; '.join(networks())}")
    begun = time.perf_counter()
    roots = {"before": asked.against.resolve(), "now": ROOT} if asked.against else {"now": ROOT}
    header = [f"{when}, us" for when in roots] + ["times as fast"] * (len(roots) - 1)
    header = ["network", *header, *(f"first step {when}, s" for when in roots)]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    with contextlib.ExitStack() as stack:
        checkouts = [stack.enter_context(contextlib.closing(Checkout(root))) for root in roots.values()]
        for name in names:
            print(f"| {' | '.join(row(name, checkouts, asked.rounds))} |", flush=True)
    print(f"\n{asked.rounds} rounds, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main(sys.argv[1:])
