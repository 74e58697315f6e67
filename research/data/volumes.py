"""Volumes of a character that turns: pictures one behind another, of which none alone says which way it turns.

    Volumes(frames=8, size=16)      (8, 16, 16, 1): frames, height, width; classes "2 clockwise", "2 anticlockwise", ...

The first angle is anything from 0 to 360 degrees, so a picture of a character that turns clockwise is as likely in a
volume of one that does not; and as a clockwise volume played backwards is an anticlockwise one, not even all of the
pictures together tell, without their order. Two pictures that follow each other do: this wants kernels that reach
from one to the next. The pictures are those of `glyphs`, drawn in poses that turn.
"""

import numpy as np

from research.config import config, fingerprint, structure
from research.data import cache, glyphs
from research.data.base import SPLITS, Dataset, Loaded, Split, assemble, hashed
from research.data.draws import uniform

GENERATOR = 1  # raised whenever the volumes change, so that none are taken from an old cache
DIRECTIONS = ("clockwise", "anticlockwise")
CHUNK = 64  # examples drawn at a time


@config
class Volumes(Dataset):
    """Characters that turn clockwise or anticlockwise: two classes for each character.

    With turn=0.0 they stand still: what a network can then tell is the character, which is half of it.
    """

    characters: str = structure("2457", "which characters, no two of which should look the same upside down")
    frames: int = structure(8, "pictures in a volume", within="[1, 256]")
    size: int = structure(16, "pixels a side of each", within="[4, 256]")
    examples: int = structure(4000, "how many to train on", within="[1, inf)")
    validation: int = structure(400, "how many to choose by", within="[1, inf)")
    test: int = structure(1200, "how many to be judged by", within="[1, inf)")
    turn: float = structure(
        20.0, "largest angle between a picture and the next, degrees; the least is half of it", within="[0, 45]"
    )
    noise: float = structure(0.1, "largest deviation of the noise, of white", within="[0, 1]")
    seed: int = structure(0, "which volumes; part of the data, not of a trial", within="[0, 4294967295]")

    def problems(self):
        if not self.characters or len(set(self.characters)) < len(self.characters):
            yield "characters", f"'{self.characters}' should be one character or several, each of them once"
        unknown = set(self.characters) - set(glyphs.ALPHABETS["alphanumeric"])
        if unknown:
            yield "characters", f"{', '.join(sorted(unknown))} cannot be drawn"

    def load(self) -> Loaded:
        arrays = cache.cached(f"volumes-{GENERATOR}-{fingerprint(self)}", lambda: draw(self))
        splits = {name: Split(arrays[f"{name}_inputs"], arrays[f"{name}_labels"]) for name in SPLITS}
        names = [f"{character} {direction}" for character in self.characters for direction in DIRECTIONS]
        return assemble("Volumes", splits, names, kind="array", scale=1 / 255)


def draw(volumes: Volumes) -> dict[str, np.ndarray]:
    """All splits: "train_inputs" (examples, frames, size, size, 1) uint8, "train_labels" (examples,), and so on."""
    fields = glyphs.distance_fields(volumes.characters)
    arrays = {}
    for split, count in zip(SPLITS, (volumes.examples, volumes.validation, volumes.test), strict=True):
        indices = np.arange(count)
        chunks = [_draw_chunk(volumes, fields, split, indices[i : i + CHUNK]) for i in range(0, count, CHUNK)]
        shape = (volumes.frames, volumes.size, volumes.size, 1)
        arrays[f"{split}_inputs"] = np.concatenate(chunks or [np.zeros((0, *shape), np.uint8)])
        arrays[f"{split}_labels"] = _labels(volumes, indices)
    return arrays


def _labels(volumes: Volumes, indices: np.ndarray) -> np.ndarray:
    """Classes in turn: character, and direction the faster."""
    return (indices % (len(DIRECTIONS) * len(volumes.characters))).astype(np.int32)


def _draw_chunk(volumes: Volumes, fields: np.ndarray, split: str, indices: np.ndarray) -> np.ndarray:
    """Volumes (len(indices), frames, size, size, 1) uint8 of the examples with these indices."""
    glyph = glyphs.Glyphs(size=volumes.size, rotation=180.0, shear=0.0, noise=volumes.noise, seed=volumes.seed)
    pose, keys = glyphs.poses(glyph, split, len(fields), indices)
    labels = _labels(volumes, indices)
    angles = _angles(volumes, keys, labels)
    back = np.stack(
        [np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], -1
    )  # rows are (x, y), y downwards
    turned = pose.inverse[:, None] @ back.reshape(*angles.shape, 2, 2)
    every = glyphs.Pose(*(np.repeat(values, volumes.frames, axis=0) for values in pose))
    pictures = glyphs.render(
        glyph,
        fields,
        np.repeat(labels // len(DIRECTIONS), volumes.frames),
        every._replace(inverse=turned.reshape(-1, 2, 2)),
        hashed(keys[:, None] + np.uint64(2**33) + np.arange(volumes.frames, dtype=np.uint64)).reshape(-1),
    )
    return pictures.reshape(len(indices), volumes.frames, *pictures.shape[1:])


def _angles(volumes: Volumes, keys: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(examples, frames) radians, clockwise as seen, by which each picture is turned from the first."""
    speed = np.deg2rad(volumes.turn) * (0.5 + 0.5 * uniform(keys, 11)[:, 10])  # glyphs' poses take the first ten
    direction = np.where(labels % len(DIRECTIONS) == DIRECTIONS.index("clockwise"), 1, -1)
    return (direction * speed)[:, None] * np.arange(volumes.frames)
