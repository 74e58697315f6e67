"""Picture files as arrays: turned upright, made opaque, of the asked number of features and size.

What a dataset of the user's own is read with, and what one picture to be classified is read with, is the same: a
picture is scaled as a whole to fit, and the rest is filled with the colour of its border.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.data import inputs
from research.data.base import Background, Description, Loaded, Split, Streamed, assemble
from research.data.inputs import FAILURES, WHITE, fit_to
from research.errors import UserError

SUFFIXES = inputs.PICTURES


class Picture(NamedTuple):
    """One picture in the units of a dataset's raw inputs (*spec.shape), and what was done to it, in words."""

    array: np.ndarray
    notes: tuple[str, ...]


def read_picture(path: str | Path, data: Description | Loaded) -> Picture:
    """A user's picture as an example of `data`: same features, size and range of values.

    What is drawn in the other sense, dark on light for data that is light on dark, is inverted. Transparent parts show
    the data's background, or its opposite where the drawing would vanish against it.
    Raises UserError for a file that is missing, damaged or no picture, and for data that has no pictures.
    """
    shape = data.spec.shape
    if data.kind != "image" or len(shape) != 3 or shape[-1] not in (1, 3) or data.maximum is None:
        what = f"{data.kind.removesuffix('s')}s of shape {'x'.join(map(str, shape))}"
        raise UserError(f"{path}: the run was trained on {what}, and not on pictures such as a file can hold")
    with _told():
        return Picture(*inputs.picture(Path(path), shape, data.background, data.maximum))


def decode(path: Path, features: int, size: tuple[int, int] | None) -> np.ndarray:
    """A picture file as uint8 (height, width, features), of `size` if given; what is transparent shows white.

    Raises UserError naming a file that is missing, damaged or no picture.
    """
    with _told():
        pixels = inputs.as_features(inputs.opaque(inputs.open_picture(path), WHITE, keep_visible=False), features)
    return pixels if size is None else fit_to(pixels, size)


def measure(path: Path) -> tuple[int, int]:
    """Height and width of a picture file as `decode` gives it, read from its head. Raises UserError as `decode`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the tag of the orientation
            return (image.width, image.height) if sideways else (image.height, image.width)
    except (*FAILURES, Image.DecompressionBombError) as error:
        raise UserError(str(inputs.unreadable(path, error))) from None


def assemble_pictures(name: str, splits: Mapping[str, Split | Streamed], names: Sequence[str]) -> Loaded:
    """`assemble` for uint8 pictures whose background is not known."""
    sample = splits["train"].read(np.arange(min(256, len(splits["train"]))))
    background = find_background(sample, WHITE)
    return assemble(name, splits, names, kind="image", scale=1 / WHITE, background=background, maximum=float(WHITE))


def find_background(pictures: np.ndarray, maximum: float) -> Background | None:
    """ "dark" or "light" where at least nine tenths of the pictures' border pixels are nearly black or white."""
    border = np.concatenate([pictures[:, edge].reshape(-1) for edge in (0, -1)])
    border = np.concatenate([border, *(pictures[:, :, edge].reshape(-1) for edge in (0, -1))])
    if np.mean(border <= 0.1 * maximum) >= 0.9:
        return "dark"
    if np.mean(border >= 0.9 * maximum) >= 0.9:
        return "light"
    return None


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a file cannot be read for, as a mistake of the user's."""
    try:
        yield
    except inputs.Unreadable as error:
        raise UserError(str(error)) from None
