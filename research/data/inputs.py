"""A user's own files as raw inputs, as the data that a network was trained on stores them.

    expected = {"kind": "image", "shape": [8, 8, 1], "background": "dark", "maximum": 16.0, ...}
    arrays, notes = read("seven.png", expected)                  # (1, 8, 8, 1)
    examples("two.npy", expected)                                # of two.npy[0] and two.npy[1], each (1, 8, 8, 1)

Pictures are scaled as a whole to fit, and the rest is filled with the colour of their border. Texts and sounds are cut
into windows of the length that the network knows, a shorter one is filled up. A `.npy` file holds raw inputs as they
are, each of which is judged by itself. This file needs NumPy and Pillow alone: it goes with an exported network as a
part of its predict.py.
"""

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TEXTS = (".txt", ".md", ".rst", ".py", ".csv", ".json", ".html", ".xml", ".log", ".tex")
SOUNDS = (".wav", ".wave")
ARRAYS = (".npy",)
WHITE, BLACK = 255, 0
SPACE = ord(" ")
UNKNOWN_SIZE = 2**32 - 1  # what a .wav file tells whose writer could not go back to its header
FAILURES = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # of Pillow over damaged files


class Unreadable(ValueError):
    """Why a file is no input of a network, in a line that begins with the file's path."""


class Example(NamedTuple):
    """What one prediction is made of."""

    name: str
    """The file; FILE.npy[0], FILE.npy[1] and so on where an array holds several."""
    raw: np.ndarray
    """(windows, *shape), over which probabilities are averaged"""
    notes: tuple[str, ...]
    """What was done to it, in words."""


def suffixes(expected: Mapping[str, Any]) -> tuple[str, ...]:
    """The endings of the files in a folder that are inputs."""
    if expected["kind"] == "image":
        return PICTURES + ARRAYS
    if expected["kind"] == "bytes":
        return TEXTS + ARRAYS
    return (SOUNDS if len(expected["shape"]) == 2 else ()) + ARRAYS


def find(path: str | Path, expected: Mapping[str, Any]) -> list[Path]:
    """A file, or the files in a folder and the folders in it, sorted; not those whose names begin with a dot."""
    if not Path(path).is_dir():
        return [Path(path)]
    found = []
    for parent, folders, files in os.walk(path):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        wanted = (file for file in files if not file.startswith("."))
        found += [Path(parent, file) for file in wanted if Path(file).suffix.lower() in suffixes(expected)]
    return sorted(found)


def read(path: str | Path, expected: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """A file as raw inputs, (windows or examples, *shape), and what was done to it, in words. Raises Unreadable.

    expected: what the network was trained on: kind, shape, background and maximum of pictures, scale of amounts.
    """
    path, shape = Path(path), tuple(expected["shape"])
    if not path.is_file():
        raise Unreadable(f"{path}: there is no such file")
    if path.suffix.lower() in ARRAYS:
        return array(path, shape), ()
    if expected["kind"] == "bytes":
        return text(path, shape[0])
    if expected["kind"] == "image" and len(shape) == 3 and shape[-1] in (1, 3) and expected["maximum"] is not None:
        pixels, notes = picture(path, shape, expected["background"], expected["maximum"])
        return pixels[None], notes
    if expected["kind"] == "array" and len(shape) == 2:
        return sound(path, shape, expected["scale"])
    what = f"{expected['kind'].removesuffix('s')}s of shape {'x'.join(map(str, shape))}"
    raise Unreadable(f"{path}: the network was trained on {what}; give those as .npy files")


def examples(path: str | Path, expected: Mapping[str, Any]) -> list[Example]:
    """A file's examples: several of an array that holds so many, else one with all its windows. Raises Unreadable."""
    raw, notes = read(path, expected)
    if Path(path).suffix.lower() not in ARRAYS or len(raw) == 1:
        return [Example(str(path), raw, notes)]
    return [Example(f"{path}[{index}]", one[None], notes) for index, one in enumerate(raw)]


def prompts(path: str | Path, expected: Mapping[str, Any]) -> list[Example]:
    """A file's examples for a language model, which tells what follows: of a text its end (1, bytes), not filled up.

    Arrays hold examples of the whole length. Raises Unreadable.
    """
    if expected["kind"] != "bytes" or not Path(path).is_file() or Path(path).suffix.lower() in ARRAYS:
        return examples(path, expected)
    content, length = _bytes(Path(path)), expected["shape"][0]
    notes = (f"what follows the last {length:,} of {len(content):,} bytes",) if len(content) > length else ()
    return [Example(str(path), content[None, -length:], notes)]


# ---------------------------------------------------------------------------------------------------------------------
# Arrays, texts, sounds


def array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The raw inputs (examples, *shape) in a .npy file that holds one or several."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(f"{path}: damaged or no .npy file ({error})") from None
    if found.shape[-len(shape) :] != shape or found.ndim not in (len(shape), len(shape) + 1) or not found.size:
        raise Unreadable(f"{path}: holds an array {found.shape}, and {shape} or (examples, *{shape}) is needed")
    if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise Unreadable(f"{path}: holds what is no finite number")
    return found.reshape(-1, *shape)


def text(path: Path, length: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The bytes of a text as windows (windows, length), uint8; the rest of a text that has a whole one is left."""
    return _windows(_bytes(path), length, SPACE, "bytes", "spaces")


def _bytes(path: Path) -> np.ndarray:
    """The bytes (n,) uint8 of a text in UTF-8."""
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read ({error.strerror})") from None
    try:
        content.tobytes().decode()
    except UnicodeDecodeError:
        raise Unreadable(f"{path}: no text in UTF-8") from None
    if not len(content):
        raise Unreadable(f"{path}: is empty")
    return content


def sound(path: Path, shape: tuple[int, int], scale: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """A .wav file as windows (windows, *shape), in units of 1 / scale of full scale; mono where that is needed.

    No dataset tells how many samples a second it has. So a sound is taken as it is, and the note tells its rate.
    """
    samples, channels = shape
    found, rate = _wave(path)
    notes = (f"{rate:,} samples a second, taken as they are",)
    if found.shape[1] != channels:
        if channels != 1:
            raise Unreadable(f"{path}: has {found.shape[1]} channels, and {channels} are needed")
        notes += (f"mean of {found.shape[1]} channels",)
        found = found.mean(1, keepdims=True)
    windows, cut = _windows((found / scale).astype(np.float32), samples, 0, "samples", "silence")
    return windows, (*notes, *cut)


def _wave(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a .wav file (samples, channels), full scale being 1, and how many there are a second."""
    import wave

    try:
        with wave.open(str(path)) as file:
            width, channels, count, rate = (
                file.getsampwidth(),
                file.getnchannels(),
                file.getnframes(),
                file.getframerate(),
            )
            content = file.readframes(count)
    except (OSError, EOFError, RuntimeError, wave.Error) as error:  # Python's reader raises a RuntimeError at the end
        if isinstance(error, OSError):
            reason = error.strerror
        else:
            reason = str(error) or ("it ends within its header" if path.stat().st_size else "it is empty")
        raise Unreadable(f"{path}: no .wav file of whole numbers, or a damaged one ({reason})") from None
    if width > 4:
        raise Unreadable(f"{path}: has {8 * width} bits a sample, and 32 are the most that is read")
    held = len(content) // (width * channels)
    if held < count < UNKNOWN_SIZE // (width * channels):
        raise Unreadable(f"{path}: truncated sound (its header tells of {count:,} samples, and {held:,} are there)")
    content = content[: held * width * channels]
    if not content:
        raise Unreadable(f"{path}: no sound in it")
    if width == 1:
        values = np.frombuffer(content, np.uint8).astype(np.float64) - 128
    else:
        octets = np.frombuffer(content, np.uint8).reshape(-1, width)
        octets = np.concatenate([np.zeros((len(octets), 4 - width), np.uint8), octets], axis=1)
        values = octets.reshape(-1).view("<i4") / 2.0 ** (8 * (4 - width))
    return values.reshape(-1, channels) / 2.0 ** (8 * width - 1), rate


def _windows(values: np.ndarray, length: int, filling: int, what: str, with_what: str):
    """Windows (windows, length, ...) one after another, and a note where they are not the whole as it is."""
    if len(values) < length:
        missing = np.full((length - len(values), *values.shape[1:]), filling, values.dtype)
        return np.concatenate([values, missing])[None], (f"{len(values)} {what}, filled up with {with_what}",)
    count, rest = divmod(len(values), length)
    notes = (f"mean over {count} windows of {length} {what}",) if count > 1 else ()
    notes += (f"the last {rest} {what} left out",) if rest else ()
    return values[: count * length].reshape(count, length, *values.shape[1:]), notes


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def picture(
    path: Path, shape: Sequence[int], background: str | None, maximum: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture file in the units of raw inputs (height, width, features), and what was done to it, in words.

    What is drawn in the other sense, dark on light for data that is light on dark, is inverted. Transparent parts show
    the data's background, or its opposite where the drawing would vanish against it.
    """
    ground = BLACK if background == "dark" else WHITE
    opened = open_picture(path)
    image = opaque(opened, ground, keep_visible=background is not None)
    pixels, notes = as_features(image, shape[-1]), _of_channels(opened, image, shape[-1])
    if background is not None and _is_light(_border(pixels)) != (background == "light"):
        pixels = WHITE - pixels
        notes += (f"inverted, since the run's data is drawn on a {background} background",)
    if pixels.shape[:2] != tuple(shape[:2]):
        notes += (f"resized from {pixels.shape[1]}x{pixels.shape[0]}",)
    pixels = fit_to(pixels, shape[:2])
    if maximum == WHITE:
        return pixels, notes
    return pixels.astype(np.float32) * np.float32(maximum / WHITE), notes


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


def open_picture(path: Path):
    """The picture in a file, in memory and upright."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise Unreadable(f"{path}: there is no such file")
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except (*FAILURES, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None
    if image.mode.startswith(("I", "F")) and _white(np.asarray(image)) is None:
        values = np.asarray(image)
        raise Unreadable(f"{path}: holds values from {values.min():g} to {values.max():g}, and no brightness")
    return image


def unreadable(path: Path, error: Exception) -> Unreadable:
    """What Pillow failed over, in our words."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return Unreadable(f"{path}: not a picture, or one of an unknown kind")
    return Unreadable(f"{path}: truncated or damaged picture ({error})")


def opaque(image, ground: int, *, keep_visible: bool):
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


def as_features(image, features: int) -> np.ndarray:
    """(height, width, features) uint8: grey for one, red, green and blue for three."""
    if image.mode.startswith(("I", "F")):
        return np.repeat(_to_8_bits(np.asarray(image))[..., None], features, -1)
    pixels = np.asarray(image.convert("L" if features == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], features)


def _of_channels(opened, image, features: int) -> tuple[str, ...]:
    """What `as_features` does to the colours of a picture, and to numbers that may mean more than one thing, in words.

    opened, image: as in the file, and without transparency.
    """
    is_grey = opened.mode in ("1", "L", "LA", "La") or opened.mode.startswith(("I", "F"))
    notes = (f"values taken as 0 to {_white(np.asarray(opened))}",) if opened.mode == "F" else ()
    if features == 3 and is_grey:
        return (*notes, "RGB of grey")
    if features == 1 and not is_grey and np.ptp(np.asarray(image.convert("RGB")), axis=-1).any():
        return (
            *notes,
            "grey of RGB" if opened.mode in ("RGB", "RGBA", "RGBX") else f"grey of the colours of {opened.mode}",
        )
    return notes


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Pillow clips what has more than eight bits; here what is white becomes 255."""
    white = _white(values) or 1
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


def _white(values: np.ndarray) -> int | None:
    """What stands for white in (height, width): 1 if they are floating-point, 255 or 65535; None if nothing can.

    Of 16 bits it is 65535. Else the least that the values do not exceed; of floating-point ones, by up to a half of it,
    for pictures that were made smaller, or sharper, go beyond.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # in any order of bytes
        return 65535
    beyond = 1.5 if values.dtype.kind == "f" else 1
    least, most = values.min(initial=0), values.max(initial=0)
    for white in (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535):
        if most <= white * beyond:
            return white if least >= white * (1 - beyond) else None
    return None


def _border(pixels: np.ndarray) -> np.ndarray:
    """The median colour (features,) uint8 along the four edges."""
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.median(np.concatenate(edges), axis=0).astype(np.uint8)


def _is_light(colour: np.ndarray) -> bool:
    return float(colour.mean()) > 127.5
