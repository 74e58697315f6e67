import dataclasses

import numpy as np
import pytest
from scipy.signal import hilbert

from research.config import validate
from research.data import Tones
from research.data.draws import keys_of
from research.data.tones import KINDS, LOUDEST, _draw, make
from research.errors import UserError

CLEAR = Tones(samples=1024, examples=240, validation=24, test=24, snr=100.0, level=0.0)


@pytest.fixture(scope="module")
def clear():
    """Sounds without noise, of each kind (30, 1024), at full scale 1; and what they were made of."""
    split = make(CLEAR, "train", CLEAR.examples)
    clips = split.inputs[..., 0] / 2.0**15
    sounds, _ = _draw(CLEAR, keys_of(CLEAR.seed, "train", np.arange(CLEAR.examples)))
    rows = {kind: np.flatnonzero(split.labels == label) for label, kind in enumerate(KINDS)}
    return {kind: clips[r] for kind, r in rows.items()}, {kind: sounds.of(r) for kind, r in rows.items()}


def spectrum(clips):
    """Power (clips, frequencies), and the frequencies in cycles a sample; finely spaced."""
    size = 8 * clips.shape[1]
    return np.abs(np.fft.rfft(clips, size)) ** 2, np.fft.rfftfreq(size)


def centre(clips):
    """The mean frequency of each clip, by power."""
    power, frequencies = spectrum(clips)
    return power @ frequencies / power.sum(1)


def inside(sounds, low, high):
    """Which samples are between two ages."""
    return (sounds.age >= low) & (sounds.age < high)


def test_a_tone_has_its_pitch_from_onset_to_end_and_silence_around(clear):
    clips, sounds = clear[0]["tone"], clear[1]["tone"]
    power, frequencies = spectrum(clips)
    np.testing.assert_allclose(frequencies[power.argmax(1)], sounds.pitch[:, 0], atol=1e-3)
    assert np.abs(clips[~inside(sounds, 0, 1)]).max() < 1e-4
    assert ((sounds.length >= 0.4 * 1024 - 1) & (sounds.length <= 0.8 * 1024 + 1)).all()
    assert (inside(sounds, 0, 1).sum(1, keepdims=True) == sounds.length).all()  # nothing is cut off


def test_two_tones_have_two_peaks(clear):
    clips, sounds = clear[0]["two tones"], clear[1]["two tones"]
    power, frequencies = spectrum(clips)
    for row, pitch, ratio in zip(power, sounds.pitch[:, 0], 1.4 + 1.2 * sounds.first[:, 0], strict=True):
        near = [row[np.abs(frequencies - f) < 2e-3].max() for f in (pitch, ratio * pitch)]
        assert min(near) > 0.5 * row.max()


@pytest.mark.parametrize(("kind", "sign"), [("rising chirp", 1), ("falling chirp", -1), ("tone", 0), ("tremolo", 0)])
def test_pitch_rises_falls_or_stays(clear, kind, sign):
    clips, sounds = clear[0][kind], clear[1][kind]
    early, late = (centre(clips * inside(sounds, *ages)) for ages in ((0.1, 0.4), (0.6, 0.9)))
    change = (late - early) / sounds.pitch[:, 0]
    expected = sign * 0.5 * (0.7 + 0.6 * sounds.first[:, 0])  # half of it, between the middles of the two parts
    np.testing.assert_allclose(change, expected, atol=0.25)


def test_the_mean_pitch_of_a_chirp_does_not_tell_its_direction(clear):
    for kind in ("rising chirp", "falling chirp"):
        np.testing.assert_allclose(centre(clear[0][kind]) / clear[1][kind].pitch[:, 0], 1, atol=0.1)


def beats(values, ages):
    """How often each row of values goes up and down from age 0 to 1: the strongest frequency, by least squares."""
    candidates = np.arange(2, 8, 0.05)
    found = []
    for row, age in zip(values, ages, strict=True):
        fit = [np.abs(((row - row.mean()) * np.exp(-2j * np.pi * c * age)).sum()) for c in candidates]
        found.append(candidates[np.argmax(fit)])
    return np.array(found)


def test_tremolo_changes_loudness_and_vibrato_pitch_three_to_six_times(clear):
    for kind in ("tremolo", "vibrato"):
        clips, sounds = clear[0][kind], clear[1][kind]
        wave = hilbert(clips, axis=1)
        values = np.abs(wave) if kind == "tremolo" else np.diff(np.unwrap(np.angle(wave), axis=1), append=0, axis=1)
        middle = [inside(sounds, 0.15, 0.85)[i] for i in range(len(clips))]
        counted = beats(
            [v[m] for v, m in zip(values, middle, strict=True)], [a[m] for a, m in zip(sounds.age, middle, strict=True)]
        )
        np.testing.assert_allclose(counted, 3 + 3 * sounds.first[:, 0], atol=0.4)


def test_clicks_come_at_their_pitch_and_a_burst_has_none(clear):
    clips, sounds = clear[0]["clicks"], clear[1]["clicks"]
    for clip, pitch, middle in zip(clips, sounds.pitch[:, 0], inside(sounds, 0.15, 0.85), strict=True):
        part = clip[middle]
        peaks = np.flatnonzero((part[1:-1] > part[:-2]) & (part[1:-1] >= part[2:]) & (part[1:-1] > 0.3 * part.max()))
        assert np.diff(peaks).mean() == pytest.approx(1 / pitch, rel=0.05)
    power, _ = spectrum(clear[0]["noise burst"])
    assert np.max(power / power.mean(1, keepdims=True)) < 30  # spread over all frequencies; a tone's peak is hundreds


def test_the_sound_is_as_much_above_the_noise_as_the_field_says():
    quiet, noisy = (
        make(dataclasses.replace(CLEAR, snr=snr), "train", 240).inputs[..., 0] / 2.0**15 for snr in (100, 6)
    )
    noise = noisy - quiet
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(LOUDEST * 10 ** (-6 / 20), rel=0.02)
    sounds, _ = _draw(CLEAR, keys_of(0, "train", np.arange(240)))
    sizes = np.sqrt((quiet**2).sum(1) / sounds.length[:, 0])
    np.testing.assert_allclose(sizes, LOUDEST, rtol=0.01)


def test_level_makes_clips_quieter_by_at_most_so_much():
    loud, mixed = (make(dataclasses.replace(CLEAR, level=level), "train", 240).inputs.std(1)[:, 0] for level in (0, 20))
    decibels = 20 * np.log10(loud / mixed)
    assert -0.1 < decibels.min() < 1
    assert 19 < decibels.max() < 20.1


def test_example_i_depends_on_seed_split_and_i_alone():
    small, large = Tones(), Tones(examples=40)
    first = make(small, "train", 1500).inputs
    assert np.array_equal(first[:40], make(large, "train", 40).inputs)
    assert not np.array_equal(first[:40], make(small, "test", 40).inputs)
    assert not np.array_equal(first[:40], make(Tones(seed=1), "train", 40).inputs)
    both = np.concatenate([first, make(small, "validation", 500).inputs, make(small, "test", 500).inputs])
    assert len(np.unique(both[..., 0], axis=0)) == 2500


def test_it_is_loaded_as_sound_with_balanced_classes():
    loaded = Tones(examples=80, validation=16, test=16).load()
    assert loaded.spec.shape == (512, 1)
    assert loaded.spec.names == tuple(KINDS)
    assert loaded.splits["train"].dtype == np.int16
    assert (np.bincount(loaded.splits["train"].labels) == 10).all()
    assert (loaded.kind, loaded.background, loaded.maximum) == ("array", None, None)


def test_loudness_alone_tells_little():
    loaded = Tones(examples=1600).load()
    sizes, labels = loaded.splits["train"].inputs.astype(float).std(1)[:, 0], loaded.splits["train"].labels
    bins = np.digitize(sizes, np.quantile(sizes, np.linspace(0, 1, 41)[1:-1]))
    guesses = np.array([np.bincount(labels[bins == b], minlength=8).argmax() for b in range(40)])
    assert np.mean(guesses[bins] == labels) < 0.35


def test_too_few_examples_and_too_short_clips_are_refused():
    with pytest.raises(UserError, match="Tones: no training examples of class noise burst, clicks"):
        Tones(examples=6).load()
    with pytest.raises(UserError, match="samples: 16 is not in"):
        validate(Tones(samples=16))
