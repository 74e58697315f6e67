"""Examples made harder: nothing at strength 0, what is meant beyond, the same for every network."""

import numpy as np
import pytest
from scipy import ndimage

from research.data.base import Split, assemble
from research.data.corruptions import OF_NUMBERS, OF_PICTURES, OF_TOKENS, corrupt, corruptions

ALL = {each.name: each for each in (*OF_PICTURES, *OF_NUMBERS[1:], *OF_TOKENS)}


def loaded_of(inputs, kind, **how):
    labels = (np.arange(len(inputs)) % 2).astype(np.int32)
    split = Split(inputs, labels)
    return assemble("made", dict.fromkeys(("train", "validation", "test"), split), ("a", "b"), kind=kind, **how)


@pytest.fixture(scope="module")
def pictures():
    raw = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 1)).astype(np.uint8)
    return loaded_of(raw, "image", scale=1 / 255, background="dark", maximum=255.0)


@pytest.fixture(scope="module")
def numbers():
    raw = np.random.default_rng(0).normal(5, 3, (400, 5)).astype(np.float32)
    return loaded_of(raw, "table")


@pytest.fixture(scope="module")
def tokens():
    return loaded_of(np.random.default_rng(0).integers(0, 40, (50, 60)).astype(np.int32), "bytes", tokens=256)


def changed(loaded, name, strength, some=slice(None), first=0):
    split = loaded.splits["test"]
    corruption = next(each for each in (*corruptions(loaded),) if each.name == name)
    return corrupt(corruption, strength, loaded, split.inputs[some], split.labels[some], first)


def test_what_makes_sense_follows_from_the_data(pictures, numbers, tokens):
    assert [each.name for each in corruptions(pictures)] == ["rotation", "shift", "noise", "blur", "contrast"]
    assert corruptions(numbers) == OF_NUMBERS and corruptions(tokens) == OF_TOKENS
    assert all(list(each.strengths) == sorted(set(each.strengths)) for each in ALL.values())


@pytest.mark.parametrize("data", ["pictures", "numbers", "tokens"])
def test_strength_0_is_the_identity(data, request):
    loaded = request.getfixturevalue(data)
    for corruption in corruptions(loaded):
        np.testing.assert_allclose(
            changed(loaded, corruption.name, 0), loaded.splits["test"].inputs, atol=1e-3, err_msg=corruption.name
        )


@pytest.mark.parametrize("data", ["pictures", "numbers", "tokens"])
def test_it_follows_from_the_place_of_an_example_alone(data, request):
    loaded = request.getfixturevalue(data)
    for corruption in corruptions(loaded):
        strength = corruption.strengths[-1]
        whole = changed(loaded, corruption.name, strength)
        part = changed(loaded, corruption.name, strength, slice(3, 5), first=3)
        np.testing.assert_allclose(whole[3:5], part, atol=1e-3, err_msg=corruption.name)
        assert np.abs(whole - loaded.splits["test"].inputs).max() > 0


def test_a_rotation_by_90_degrees_is_numpys_one_way_or_the_other(pictures):
    raw, turned = pictures.splits["test"].inputs.astype(np.float32), changed(pictures, "rotation", 90)
    ways = []
    for before, after in zip(raw, turned, strict=True):
        fits = [np.allclose(np.rot90(before, k), after, atol=0.01) for k in (1, -1)]
        assert any(fits)
        ways.append(fits.index(True))
    assert len(set(ways)) == 2


def test_a_picture_that_looks_the_same_turned_stays_as_it_is():
    cross = np.zeros((4, 9, 9, 1), np.float32)
    cross[:, 4] = cross[:, :, 4] = 200
    loaded = loaded_of(cross + np.arange(4).reshape(4, 1, 1, 1) * 1e-3, "image", background="dark", maximum=255.0)
    np.testing.assert_allclose(changed(loaded, "rotation", 90), loaded.splits["test"].inputs, atol=0.01)


def test_a_shift_moves_by_the_share_of_the_side():
    dot = np.zeros((8, 21, 21, 1), np.float32)
    dot[:, 10, 10] = 100
    loaded = loaded_of(dot, "image", background="dark", maximum=255.0)
    moved = changed(loaded, "shift", 20)[..., 0]
    centres = [ndimage.center_of_mass(each) for each in moved]
    np.testing.assert_allclose([np.hypot(y - 10, x - 10) for y, x in centres], 0.2 * 21, atol=0.02)
    assert len({round(np.degrees(np.arctan2(y - 10, x - 10))) for y, x in centres}) > 4


def test_blur_is_scipys_gaussian(pictures):
    raw = pictures.splits["test"].inputs[..., 0].astype(np.float64)
    expected = [ndimage.gaussian_filter(each, 0.1 * 9, mode="nearest", truncate=4.5) for each in raw]
    np.testing.assert_allclose(changed(pictures, "blur", 10)[..., 0], expected, atol=0.05)


def test_contrast_that_is_all_lost_leaves_the_mean(pictures):
    raw = pictures.splits["test"].inputs.astype(np.float32)
    pale = changed(pictures, "contrast", 100)
    np.testing.assert_allclose(pale, np.broadcast_to(raw.mean((1, 2), keepdims=True), raw.shape), rtol=1e-5)
    np.testing.assert_allclose(changed(pictures, "contrast", 50), (raw + pale) / 2, rtol=1e-5)


def test_noise_has_the_deviation_that_it_says_and_stays_in_the_range(pictures, numbers):
    noise = changed(numbers, "noise", 50) - numbers.splits["test"].inputs
    np.testing.assert_allclose(noise.std(0), 0.5 * numbers.splits["test"].inputs.std(0), rtol=0.12)
    noisy = changed(pictures, "noise", 40)
    assert noisy.min() >= 0 and noisy.max() <= 255


def test_what_is_missing_is_the_mean_of_the_training_split(numbers):
    lost = changed(numbers, "missing", 40)
    raw = numbers.splits["test"].inputs
    gone = ~np.isclose(lost, raw)
    assert gone.mean() == pytest.approx(0.4, abs=0.04)
    mean = np.broadcast_to(raw.mean(0), raw.shape)
    np.testing.assert_allclose(lost[gone], mean[gone], rtol=1e-4)


def test_tokens_come_from_the_same_example(tokens):
    raw, other = tokens.splits["test"].inputs, changed(tokens, "exchange", 40)
    assert other.dtype == np.int32 and all(set(b) <= set(a) for a, b in zip(raw, other, strict=True))
    assert 0.3 < (raw != other).mean() < 0.42
