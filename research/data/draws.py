"""Random numbers that are addressed: those of an example are a function of (seed, split, index) and of nothing else.

    keys = keys_of(seed, "train", np.arange(256))
    pitch, level = uniform(keys, 2).T                # the first two numbers of each of the 256 examples

So made data is the same on every machine and with every version of NumPy (see `base.hashed`), and asking for more
examples, or for more numbers of an example, changes none of the earlier ones.
"""

import numpy as np

from research.data.base import SPLITS, hashed


def keys_of(seed: int, split: str, examples: np.ndarray) -> np.ndarray:
    """(len(examples),) uint64 keys of the examples with these indices of a split; no two are the same."""
    stream = hashed(np.uint64(seed * len(SPLITS) + SPLITS.index(split)))
    return hashed(stream + examples.astype(np.uint64))


def uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """(len(keys), count) numbers in [0, 1), a function of the keys."""
    return (hashed(keys[:, None] + np.arange(count, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def normal(keys: np.ndarray, count: int) -> np.ndarray:
    """(len(keys), count) numbers, nearly normal with deviation 1: sums of four uniform ones (Irwin and Hall).

    They are other numbers than those that `uniform` makes of the same keys.
    """
    addresses = np.arange(count, dtype=np.uint64) + np.uint64(2**32)
    quarters = hashed(keys[:, None] + addresses).view(np.uint16).reshape(len(keys), count, 4)
    return (quarters.sum(-1, dtype=np.int32) - 2 * 65535).astype(np.float32) / (65536 * np.float32(3**-0.5))
