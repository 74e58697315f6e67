"""Parameters fitted to inputs of another size: position embeddings to another grid, a kernel to other channels."""

import math

import numpy as np

KEYS = -0.5  # of the cubic kernel (Keys, 1981), as in timm and Pillow when they antialias


def resize_positions(positions: np.ndarray, old: tuple[int, int], new: tuple[int, int], others: int) -> np.ndarray:
    """Position embeddings (others + positions, width) of a grid of `old` size at one of `new` size, bicubic.

    The first `others` are kept: those of the class token. Antialiased and with pixels' centres at halves, as timm's
    `resample_abs_pos_embed` does by default, that is torch's `interpolate(..., "bicubic", antialias=True)`.
    """
    kept, grid = positions[:others], positions[others:].astype(np.float64).reshape(*old, -1)
    rows, columns = (cubic_weights(*sizes) for sizes in zip(old, new, strict=True))
    resized = np.einsum("ai,bj,ijd->abd", rows, columns, grid).reshape(math.prod(new), -1)
    return np.concatenate([kept, resized.astype(positions.dtype)])


def cubic_weights(old: int, new: int) -> np.ndarray:
    """(new, old), by which a line of `old` values becomes one of `new`; each row sums to 1."""
    scale = old / new
    wide = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distances = np.abs(np.arange(old) + 0.5 - centres[:, None]) / wide
    near = ((KEYS + 2) * distances - (KEYS + 3)) * distances**2 + 1
    far = KEYS * (((distances - 5) * distances + 8) * distances - 4)
    weights = np.where(distances < 1, near, np.where(distances < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def change_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel (..., in, out) for so many channels, which answers an input the same in all channels as before.

    Fewer: each gets the mean of the old ones, times how many there were for each. More: the old ones are repeated, and
    each is divided by how often it is there. For one channel, and for a multiple of the old ones, this is what timm's
    `adapt_input_conv` does.
    """
    old = kernel.shape[-2]
    wide = kernel.astype(np.float64)
    if channels < old:
        wide = np.repeat(wide.mean(axis=-2, keepdims=True), channels, axis=-2) * (old / channels)
    else:
        chosen = np.arange(channels) % old
        wide = wide[..., chosen, :] / np.bincount(chosen)[chosen][:, None]
    return wide.astype(kernel.dtype)
