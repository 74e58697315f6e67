"""Picture files as arrays: turned upright, made opaque, of the asked number of features and size.

What a dataset of the user's own is read with, and what one picture to be classified is read with, is the same: a
picture is scaled as a whole to fit, and the rest is filled with the colour of its border.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.data.base import Background, Description, Loaded, Split, Streamed, assemble
from research.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
WHITE, BLACK = 255, 0
FAILURES = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # of Pillow over damaged files


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
    ground = BLACK if data.background == "dark" else WHITE
    image = _opaque(_open(Path(path)), ground, keep_visible=data.background is not None)
    pixels = _features(image, shape[-1])
    notes = ()
    if data.background is not None and _is_light(_border(pixels)) != (data.background == "light"):
        pixels = WHITE - pixels
        notes = (f"inverted, since the run's data is drawn on a {data.background} background",)
    pixels = fit_to(pixels, shape[:2])
    if data.maximum == WHITE:
        return Picture(pixels, notes)
    return Picture(pixels.astype(np.float32) * np.float32(data.maximum / WHITE), notes)


def decode(path: Path, features: int, size: tuple[int, int] | None) -> np.ndarray:
    """A picture file as uint8 (height, width, features), of `size` if given; what is transparent shows white.

    Raises UserError naming a file that is missing, damaged or no picture.
    """
    pixels = _features(_opaque(_open(path), WHITE, keep_visible=False), features)
    return pixels if size is None else fit_to(pixels, size)


def measure(path: Path) -> tuple[int, int]:
    """Height and width of a picture file as `decode` gives it, read from its head. Raises UserError as `decode`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the tag of the orientation
            return (image.width, image.height) if sideways else (image.height, image.width)
    except (*FAILURES, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def fit_to(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (height, width, features) uint8 at the largest scale that fits `size`, in the middle.

    Its aspect is kept; what remains is filled with the median of its border. Smaller, a pixel is a mean over an area;
    larger, it is interpolated.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels
    ratio = min(size[0] / height, size[1] / width)
    new = max(1, round(height * ratio)), max(1, round(width * ratio))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = image.resize(new[::-1], Image.Resampling.BOX if ratio < 1 else Image.Resampling.BILINEAR)
    canvas = np.broadcast_to(_border(pixels), (*size, pixels.shape[-1])).copy()
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    canvas[top : top + new[0], left : left + new[1]] = np.asarray(image).reshape(*new, -1)
    return canvas


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


# ---------------------------------------------------------------------------------------------------------------------


def _open(path: Path):
    """The picture in a file, in memory and upright."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (*FAILURES, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path}: not a picture, or one of an unknown kind")
    return UserError(f"{path}: truncated or damaged picture ({error})")


def _opaque(image, ground: int, *, keep_visible: bool):
    """The image without transparency, over `ground`; over its opposite where what is drawn is nearer to `ground`."""
    from PIL import Image

    if "transparency" not in image.info and not image.mode.endswith(("A", "a")):
        return image
    image = image.convert("RGBA")
    if keep_visible:
        drawn = np.asarray(image.convert("LA"), np.float64)
        ink, alpha = drawn[..., 0], drawn[..., 1]
        mean = (ink * alpha).sum() / max(alpha.sum(), 1)
        if abs(mean - ground) < 127.5 and alpha.min() < 128:
            ground = WHITE - ground
    under = Image.new("RGBA", image.size, (ground, ground, ground, 255))
    return Image.alpha_composite(under, image).convert("RGB")


def _features(image, features: int) -> np.ndarray:
    """(height, width, features) uint8: grey for one, red, green and blue for three."""
    if image.mode.startswith(("I", "F")):
        return np.repeat(_to_8_bits(np.asarray(image))[..., None], features, -1)
    pixels = np.asarray(image.convert("L" if features == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], features)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Pillow clips what has more than eight bits; here 65535, or 1.0 of floating-point pictures, becomes 255."""
    white = 65535 if np.issubdtype(values.dtype, np.integer) else 1.0
    if values.max(initial=0) <= 255 and white == 65535 and values.dtype != np.uint16:
        white = 255
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _border(pixels: np.ndarray) -> np.ndarray:
    """The median colour (features,) uint8 along the four edges."""
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.median(np.concatenate(edges), axis=0).astype(np.uint8)


def _is_light(colour: np.ndarray) -> bool:
    return float(colour.mean()) > 127.5
