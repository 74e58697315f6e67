"""Sounds made by formulas, in noise: eight kinds, told apart by how pitch and loudness change, never by pitch itself.

    tone             one pitch                               tremolo        loudness goes up and down
    two tones        two pitches at once                     vibrato        pitch goes up and down
    rising chirp     pitch rises as time passes              noise burst    noise, louder than that around it
    falling chirp    pitch falls                             clicks         short pulses at equal distances

Pitch, phase, onset, length, loudness and what belongs to a kind (how far a chirp rises, say) are drawn for each
example. Example i of a split is a function of (seed, split, i): asking for more examples changes none of the earlier.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from research.config import config, structure
from research.data.base import SPLITS, Dataset, Loaded, Split, assemble, hashed
from research.data.draws import keys_of, normal, uniform

TAU = 2 * np.pi
LOWEST, HIGHEST = (
    0.03,
    0.12,
)  # pitch in cycles a sample; what is above it, a second tone or a chirp's end, is below 0.32
SHORTEST, LONGEST = 0.4, 0.8  # how long a sound lasts, of the clip
FADE = 0.1  # of its length, at either end
LOUDEST = 0.125  # root mean square of the loudest sound, of full scale: -18 dB, which leaves room for peaks
FULL_SCALE = 2**15
CHUNK = 1024  # examples made at a time


@config
class Tones(Dataset):
    """Tones, chirps, tremolo, vibrato, bursts and clicks in white noise, as clips of 16-bit sound.

    Time is told in samples, so no sampling rate is needed; at 4 kHz pitches would be 120 to 480 Hz.
    """

    samples: int = structure(512, "samples in a clip", within="[128, 65536]")
    examples: int = structure(8000, "how many to train on", within="[1, inf)")
    validation: int = structure(800, "how many to choose by", within="[1, inf)")
    test: int = structure(1600, "how many to be judged by", within="[1, inf)")
    snr: float = structure(
        3.0, "power of the sound, while it lasts, over that of the noise; decibels", within="[-60, 120]"
    )
    level: float = structure(20.0, "how far the quietest clip is below the loudest; decibels", within="[0, 60]")
    seed: int = structure(0, "which sounds; part of the data, not of a trial", within="[0, 4294967295]")

    def load(self) -> Loaded:
        counts = zip(SPLITS, (self.examples, self.validation, self.test), strict=True)
        return assemble("Tones", {split: make(self, split, n) for split, n in counts}, tuple(KINDS), **AS_SOUND)


AS_SOUND = {"kind": "array", "scale": 1 / FULL_SCALE}


def make(tones: Tones, split: str, count: int) -> Split:
    """The first examples of a split: clips (count, samples, 1) int16, kinds in turn."""
    indices = np.arange(count)
    chunks = [_clips(tones, split, indices[start : start + CHUNK]) for start in range(0, count, CHUNK)]
    inputs = np.concatenate(chunks or [np.zeros((0, tones.samples, 1), np.int16)])
    return Split(inputs, _labels(indices))


def _labels(indices: np.ndarray) -> np.ndarray:
    return (indices % len(KINDS)).astype(np.int32)


class _Sounds(NamedTuple):
    """What n sounds are made of: arrays (n, 1), and those of time (n, samples)."""

    keys: np.ndarray  # (n,)
    pitch: np.ndarray  # cycles a sample
    phase: np.ndarray  # in radians
    length: np.ndarray  # in samples
    time: np.ndarray  # samples since the onset
    age: np.ndarray  # 0 at the onset, 1 at the end
    first: np.ndarray  # of [0, 1), for a kind to use
    second: np.ndarray

    def of(self, rows: np.ndarray) -> "_Sounds":
        """Some of the sounds."""
        return _Sounds(*(array[rows] for array in self))


def _clips(tones: Tones, split: str, indices: np.ndarray) -> np.ndarray:
    keys = keys_of(tones.seed, split, indices)
    sounds, level = _draw(tones, keys)
    wave = np.empty((len(indices), tones.samples))
    for label, kind in enumerate(KINDS.values()):
        rows = _labels(indices) == label
        wave[rows] = kind(sounds.of(rows))
    fade = np.clip(np.minimum(sounds.age, 1 - sounds.age) / FADE, 0, 1)
    wave *= 0.5 - 0.5 * np.cos(np.pi * fade)
    wave /= np.sqrt(np.square(wave).sum(1, keepdims=True) / sounds.length)  # to a root mean square of 1 while it lasts
    noise = 10 ** (-tones.snr / 20) * normal(keys, tones.samples)
    clips = LOUDEST * level * (wave + noise)
    return np.rint(np.clip(clips * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1)).astype(np.int16)[..., None]


def _draw(tones: Tones, keys: np.ndarray) -> tuple[_Sounds, np.ndarray]:
    """The sounds of these keys, and how loud each clip is: (n, 1), at most 1."""
    pitch, phase, onset, length, level, first, second = uniform(keys, 7).T[..., None]
    length = np.rint((SHORTEST + (LONGEST - SHORTEST) * length) * tones.samples)
    time = np.arange(tones.samples) - np.floor(onset * (tones.samples - length + 1))
    pitch = LOWEST * (HIGHEST / LOWEST) ** pitch
    return _Sounds(keys, pitch, TAU * phase, length, time, time / length, first, second), 10 ** (
        -tones.level * level / 20
    )


# ---------------------------------------------------------------------------------------------------------------------
# Kinds: `_Sounds` of n to waves (n, samples), as if they went on for ever and with any root mean square


def _tone(sounds: _Sounds) -> np.ndarray:
    return np.sin(TAU * sounds.pitch * sounds.time + sounds.phase)


def _two_tones(sounds: _Sounds) -> np.ndarray:
    ratio = 1.4 + 1.2 * sounds.first
    return _tone(sounds) + np.sin(TAU * ratio * sounds.pitch * sounds.time + TAU * sounds.second)


def _rising_chirp(sounds: _Sounds) -> np.ndarray:
    """Pitch times 1 + change (age - 1/2), which is integrated over time."""
    change = 0.7 + 0.6 * sounds.first
    cycles = sounds.pitch * sounds.time * (1 + change * (sounds.age - 1) / 2)
    return np.sin(TAU * cycles + sounds.phase)


def _falling_chirp(sounds: _Sounds) -> np.ndarray:
    """A rising chirp backwards."""
    return _rising_chirp(sounds._replace(time=sounds.length - sounds.time, age=1 - sounds.age))


def _tremolo(sounds: _Sounds) -> np.ndarray:
    beats = 3 + 3 * sounds.first
    return _tone(sounds) * (1 + 0.9 * np.cos(TAU * (beats * sounds.age + sounds.second)))


def _vibrato(sounds: _Sounds) -> np.ndarray:
    """Pitch times 1 + depth cos(TAU beats age), which is integrated over time."""
    beats, depth = 3 + 3 * sounds.first, 0.2 + 0.2 * sounds.second
    cycles = sounds.pitch * (sounds.time + depth * sounds.length / (TAU * beats) * np.sin(TAU * beats * sounds.age))
    return np.sin(TAU * cycles + sounds.phase)


def _noise_burst(sounds: _Sounds) -> np.ndarray:
    return normal(hashed(sounds.keys), sounds.time.shape[1])  # not the noise around it, which is that of the keys


def _clicks(sounds: _Sounds) -> np.ndarray:
    """Pulses exp(-t^2 / 2), t being the samples to the nearest one."""
    cycles = sounds.pitch * sounds.time + sounds.phase / TAU
    return np.exp(-0.5 * np.square((cycles - np.rint(cycles)) / sounds.pitch))


KINDS: dict[str, Callable[[_Sounds], np.ndarray]] = {
    "tone": _tone,
    "two tones": _two_tones,
    "rising chirp": _rising_chirp,
    "falling chirp": _falling_chirp,
    "tremolo": _tremolo,
    "vibrato": _vibrato,
    "noise burst": _noise_burst,
    "clicks": _clicks,
}
