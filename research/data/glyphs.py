"""Digits and letters drawn from the fonts that ship with matplotlib: as many pictures as are asked for, offline.

Each character of each font is drawn once, large, and kept as its *signed distance field*: at every place the distance
to the outline, positive inside. Sampling that field through an affine map gives the character in any pose and size;
where it exceeds -w the stroke is w thicker on either side; and a ramp in place of the edge smooths or blurs it.

Example i of a split is a function of (seed, split, i): asking for more examples changes none of the earlier ones.
"""

import importlib.util
import io
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from research.config import config, fingerprint, structure
from research.data import cache
from research.data.base import SPLITS, Dataset, Loaded, Split, assemble
from research.data.draws import keys_of, normal, uniform
from research.errors import UserError

GENERATOR = 1  # raised whenever the pictures change, so that none are taken from an old cache

# The fonts with upright or slanted digits and letters. Left out: symbols (STIXNonUni, STIXSiz*, cmex10, cmsy10,
# *Display), old-style digits (cmmi10) and boxes (LastResort). Shuffled, so that any number of the last is a mixture.
FONTS = (
    "DejaVuSans",
    "cmti10",
    "DejaVuSerif-Bold",
    "STIXGeneralItalic",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSans-Oblique",
    "cmtt10",
    "STIXGeneralBol",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "cmb10",
    "DejaVuSans-Bold",
    "STIXGeneralBolIta",
    "DejaVuSerif",
    "DejaVuSansMono-Oblique",
    "cmr10",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
    "DejaVuSerif-BoldItalic",
    "cmss10",
)

# Of the small letters only those that do not look like their capitals, as in EMNIST Balanced (Cohen et al., 2017).
ALPHABETS = {
    "digits": "0123456789",
    "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "alphanumeric": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
}

# In a field, the longest side of a character goes from -1 to 1, and the field itself from -EXTENT to EXTENT.
EXTENT = 1.4
DRAWN = 144  # pixels a side in which a character is drawn
FIELD = 72  # and to which its field is averaged
SUPERSAMPLED = 32  # samples a side, at least about; small pictures are means over blocks, as scikit-learn's digits
CHUNK = 256  # examples drawn at a time


@config
class Glyphs(Dataset):
    """Digits or letters drawn from fonts in random pose, stroke and noise: any size, any number, offline.

    With size=8, fill=1.0 and blur=0.0 they are as large and as bright as scikit-learn's digits.
    """

    alphabet: Literal["digits", "letters", "alphanumeric"] = structure(
        "digits", "which characters: 10, 37 or 47 classes"
    )
    size: int = structure(28, "pixels a side", within="[4, 256]")
    examples: int = structure(10_000, "how many to train on", within="[1, inf)")
    validation: int = structure(1000, "how many to choose by", within="[1, inf)")
    test: int = structure(2000, "how many to be judged by", within="[1, inf)")
    held_out_fonts: int = structure(0, "how many of the 21 fonts only the test split is drawn from", within="[0, 20]")
    fill: float = structure(0.72, "longest side of a character, of the picture's; 0.72 is MNIST's", within="(0, 1]")
    rotation: float = structure(15.0, "largest angle, degrees", within="[0, 180]")
    scale: float = structure(0.2, "largest relative change of height, and of width", within="[0, 0.9]")
    shear: float = structure(0.25, "largest sideways slant, of the height", within="[0, 2]")
    shift: float = structure(0.07, "largest displacement, of the picture's side", within="[0, 0.5]")
    stroke: float = structure(0.2, "width up to which strokes are thickened, of the height", within="[0, 0.5]")
    blur: float = structure(0.06, "largest width of blurred edges, of the picture's side", within="[0, 0.5]")
    noise: float = structure(0.05, "largest deviation of the noise, of white", within="[0, 1]")
    seed: int = structure(0, "which pictures; part of the data, not of a trial", within="[0, 4294967295]")

    def load(self) -> Loaded:
        arrays = cache.cached(f"glyphs-{GENERATOR}-{fingerprint(self)}", lambda: draw(self))
        splits = {name: Split(arrays[f"{name}_inputs"], arrays[f"{name}_labels"]) for name in SPLITS}
        names = tuple(ALPHABETS[self.alphabet])
        return assemble("Glyphs", splits, names, kind="image", scale=1 / 255, background="dark", maximum=255.0)


def draw(glyphs: Glyphs) -> dict[str, np.ndarray]:
    """All splits: "train_inputs" (examples, size, size, 1) uint8, "train_labels" (examples,) int32, and so on."""
    fields = distance_fields(ALPHABETS[glyphs.alphabet])
    seen = len(FONTS) - glyphs.held_out_fonts
    arrays = {}
    for name, count in zip(SPLITS, (glyphs.examples, glyphs.validation, glyphs.test), strict=True):
        fonts = np.arange(seen, len(FONTS)) if name == "test" and seen < len(FONTS) else np.arange(seen)
        chunks = [
            _draw_chunk(glyphs, fields[fonts], name, np.arange(start, min(start + CHUNK, count)))
            for start in range(0, count, CHUNK)
        ]
        arrays[f"{name}_inputs"] = np.concatenate(chunks or [np.zeros((0, glyphs.size, glyphs.size, 1), np.uint8)])
        arrays[f"{name}_labels"] = _labels(fields, np.arange(count))
    return arrays


def _labels(fields: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Classes in turn, so that any number of examples is balanced to one."""
    return (indices % fields.shape[1]).astype(np.int32)


class Pose(NamedTuple):
    """How characters are drawn, one of each for each picture. Lengths are those of a field, in which a height is 2."""

    font: np.ndarray
    inverse: np.ndarray  # (examples, 2, 2): from the picture's coordinates, -1 to 1, to the field's
    centre: np.ndarray  # (examples, 2), in the picture's coordinates
    thickness: np.ndarray  # 0 to 1: how far to go from the font's stroke to the thickest
    softness: np.ndarray  # width of the blurred edge, of the picture's side
    noise: np.ndarray


def poses(glyphs: Glyphs, split: str, fonts: int, examples: np.ndarray) -> tuple[Pose, np.ndarray]:
    """The poses of the examples with these indices, and their keys."""
    keys = keys_of(glyphs.seed, split, examples)
    random = uniform(keys, 10).T
    signed = 2 * random - 1
    angle = np.deg2rad(glyphs.rotation) * signed[1]
    height, width = 1 + glyphs.scale * signed[2], 1 + glyphs.scale * signed[3]
    cos, sin, slant = np.cos(angle), np.sin(angle), glyphs.shear * signed[4]
    rotated = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    sheared = np.stack(
        [np.stack([width, -slant * height], -1), np.stack([np.zeros_like(height), height], -1)], -2
    )  # rows are (x, y), with y downwards
    pose = Pose(
        font=(random[0] * fonts).astype(int),
        inverse=np.linalg.inv(glyphs.fill * rotated @ sheared),
        centre=2 * glyphs.shift * signed[5:7].T,
        thickness=random[7],
        softness=glyphs.blur * random[8],
        noise=glyphs.noise * random[9],
    )
    return pose, keys


def _draw_chunk(glyphs: Glyphs, fields: np.ndarray, split: str, examples: np.ndarray) -> np.ndarray:
    """Pictures (len(examples), size, size, 1) uint8 of the examples with these indices."""
    pose, keys = poses(glyphs, split, len(fields), examples)
    return render(glyphs, fields, _labels(fields, examples), pose, keys)


def render(glyphs: Glyphs, fields: np.ndarray, characters: np.ndarray, pose: Pose, keys: np.ndarray) -> np.ndarray:
    """Pictures (n, size, size, 1) uint8 of n characters in their poses, with noise that is a function of the keys.

    fields (fonts, characters, FIELD, FIELD), as `distance_fields` gives them.
    """
    fonts, classes = fields.shape[:2]
    factor = max(1, round(SUPERSAMPLED / glyphs.size))
    side = glyphs.size * factor
    line = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    x, y = line[None, None, :], line[None, :, None]
    centre, inverse = pose.centre.astype(np.float32), pose.inverse.astype(np.float32)
    x, y = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    u = inverse[:, 0, 0, None, None] * x + inverse[:, 0, 1, None, None] * y
    v = inverse[:, 1, 0, None, None] * x + inverse[:, 1, 1, None, None] * y

    which = pose.font * classes + characters
    flat = fields.reshape(fonts * classes, FIELD, FIELD)
    distance = _sample(flat, which, u, v)
    own = flat.max((1, 2))[which]  # half the width of the character's widest stroke
    distance += (pose.thickness * np.maximum(glyphs.stroke - own, 0)).astype(np.float32)[:, None, None]

    edge = glyphs.fill * distance / 2 * side  # in samples, near enough: the scale of the pose is left out
    ramp = (1 + pose.softness * side).astype(np.float32)[:, None, None]
    ink = np.clip(0.5 + edge / ramp, 0, 1)
    ink = ink.reshape(len(keys), glyphs.size, factor, glyphs.size, factor).mean((2, 4))
    ink += pose.noise.astype(np.float32)[:, None, None] * normal(keys, glyphs.size**2).reshape(ink.shape)
    return np.rint(np.clip(ink, 0, 1) * 255).astype(np.uint8)[..., None]


def _sample(fields: np.ndarray, which: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`fields[which]` at the coordinates (u, v), interpolated linearly; beyond its border a field is its border."""
    column = np.clip((u / EXTENT + 1) / 2 * FIELD - 0.5, 0, FIELD - 1.001)
    row = np.clip((v / EXTENT + 1) / 2 * FIELD - 0.5, 0, FIELD - 1.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    corner = top * FIELD + left + (which * FIELD**2).astype(np.int32)[:, None, None]
    values = fields.reshape(-1)
    upper = values[corner] * (1 - column) + values[corner + 1] * column
    lower = values[corner + FIELD] * (1 - column) + values[corner + FIELD + 1] * column
    return upper * (1 - row) + lower * row


# ---------------------------------------------------------------------------------------------------------------------
# Fonts


def distance_fields(characters: str) -> np.ndarray:
    """(fonts, characters, FIELD, FIELD) float32: the signed distance to the outline, inside positive."""
    from PIL import ImageFont

    folder = font_folder()
    rows = []
    for name in FONTS:
        try:
            # from memory, since by a path Pillow would go on to look for a font of that name in the system
            font = ImageFont.truetype(io.BytesIO((folder / f"{name}.ttf").read_bytes()), DRAWN)
            rows.append([_distance_field(font, character) for character in characters])
        except OSError as error:
            raise UserError(f"Glyphs: {folder / name}.ttf cannot be read ({error}); reinstall matplotlib") from None
    return np.array(rows, np.float32)


def font_folder() -> Path:
    """Where matplotlib keeps its fonts; matplotlib itself, slow to import, is not."""
    package = importlib.util.find_spec("matplotlib")
    if package is None:
        raise UserError("Glyphs: needs the package matplotlib, whose fonts it draws from: pip install matplotlib")
    return Path(package.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def _distance_field(font, character: str) -> np.ndarray:
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    left, top, right, bottom = font.getbbox(character)
    fitted = font.font_variant(size=font.size * DRAWN / EXTENT / max(right - left, bottom - top))
    left, top, right, bottom = fitted.getbbox(character)
    picture = Image.new("L", (DRAWN, DRAWN))
    corner = ((DRAWN - left - right) / 2, (DRAWN - top - bottom) / 2)
    ImageDraw.Draw(picture).text(corner, character, fill=255, font=fitted)
    inside = np.asarray(picture) >= 128
    distance = np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside))
    blocks = distance.reshape(FIELD, DRAWN // FIELD, FIELD, DRAWN // FIELD)
    return blocks.mean((1, 3)) * (2 * EXTENT / DRAWN)
