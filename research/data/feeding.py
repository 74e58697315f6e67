"""From a split to batches: gathered on the device where the data fits in memory, streamed from the host where not.

Both follow `research.data.order`, so that the batch at a step is the same examples either way, and a run may go on from
any step without a reader's state being saved:

    batch = gather({"inputs": inputs, "labels": labels}, order.indices(seed, step, batch_size=64, examples=1437))
    batches = stream(split, seed=seed, first_step=step, steps=100, batch_size=64)
"""

from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np

from research.data import order
from research.data.base import Split, Streamed

Arrays = TypeVar("Arrays")

THREADS = 4
AHEAD = 16
"""Batches that are read before they are asked for, and so are held in memory."""


def gather(arrays: Arrays, indices: jax.Array | np.ndarray) -> Arrays:
    """The rows of every array at `indices`: {"inputs": (examples, ...), ...} gives {"inputs": (batch, ...), ...}."""
    return jax.tree.map(lambda array: array[indices], arrays)


def stream(
    split: Split | Streamed,
    *,
    seed: int,
    first_step: int,
    steps: int,
    batch_size: int,
    threads: int = THREADS,
    ahead: int = AHEAD,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `steps` steps from `first_step`, raw as stored, read ahead of time by threads.

    Yields {"inputs": (batch_size, *shape), "labels": (batch_size,)}; closing it early lets the threads end. Raises, at
    the step that it belongs to, what `split.read` raised, and ends. The order does not depend on `threads` or `ahead`.
    """
    import grain

    def read(step: int) -> dict[str, np.ndarray]:
        indices = order.indices(seed, step, batch_size=batch_size, examples=len(split))
        return {"inputs": split.read(indices), "labels": split.labels[indices]}

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    batches = iter(grain.MapDataset.range(first_step, first_step + steps).map(read).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()
