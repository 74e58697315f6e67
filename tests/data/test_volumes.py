import functools
import itertools

import numpy as np
import pytest
from scipy.ndimage import rotate

from research.config import validate
from research.data import Volumes
from research.data.glyphs import distance_fields
from research.data.volumes import DIRECTIONS, draw
from research.errors import UserError

fields_once = functools.cache(distance_fields)


@pytest.fixture(autouse=True)
def fields_are_made_once(monkeypatch):
    monkeypatch.setattr("research.data.glyphs.distance_fields", fields_once)


def few(**options):
    return Volumes(**{"characters": "24", "examples": 40, "validation": 8, "test": 8, **options})


def best_turn(picture, following):
    """The angle, anticlockwise as seen, by which a picture is most like the one that follows."""
    angles = np.arange(-40, 41, 4)
    turned = [rotate(picture, angle, reshape=False, order=1) for angle in angles]
    return angles[np.argmax([np.corrcoef(t.reshape(-1), following.reshape(-1))[0, 1] for t in turned])]


def test_characters_turn_as_their_class_says_and_at_the_speed_of_the_field():
    arrays = draw(few(size=32, frames=4, turn=24.0, noise=0.0, examples=24))
    for volume, label in zip(arrays["train_inputs"][..., 0].astype(float), arrays["train_labels"], strict=True):
        # about the character's own centre, which is moved to the middle
        moved = [np.roll(p, _to_the_middle(volume), (0, 1)) for p in volume]
        turns = np.array([best_turn(a, b) for a, b in itertools.pairwise(moved)])
        clockwise = DIRECTIONS[label % 2] == "clockwise"
        assert np.all(turns < 0 if clockwise else turns > 0)
        assert 8 <= np.abs(turns).mean() <= 28


def _to_the_middle(volume):
    weights = volume.sum(0)
    rows = np.arange(weights.shape[0])
    centre = np.array([weights.sum(1) @ rows, weights.sum(0) @ rows]) / weights.sum()
    return tuple(np.rint((weights.shape[0] - 1) / 2 - centre).astype(int))


def test_a_volume_played_backwards_turns_the_other_way(monkeypatch):
    """So that all pictures of a volume, without their order, do not tell its direction."""
    from research.data import volumes as room

    forwards = draw(few(noise=0.0))["train_inputs"]
    angles = room._angles

    def reversed_angles(*arguments):  # beginning where the other ends, and going the other way
        given = angles(*arguments)
        return given[:, ::-1]

    monkeypatch.setattr(room, "_angles", reversed_angles)
    backwards = draw(few(noise=0.0))["train_inputs"]
    np.testing.assert_array_equal(backwards, forwards[:, ::-1])


def nearest_class_accuracy(features, labels):
    """Of a classifier of nearest neighbours, each example judged by the others."""
    x = features.reshape(len(features), -1).astype(float)
    distances = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return np.mean(labels[distances.argmin(1)] == labels)


def test_one_picture_tells_the_character_and_not_its_direction_but_the_change_of_pictures_does():
    arrays = draw(Volumes(characters="7", examples=600, validation=2, test=2, noise=0.0, frames=3, size=8, turn=40.0))
    volumes, labels = arrays["train_inputs"][..., 0].astype(float), arrays["train_labels"]
    assert 0.42 < nearest_class_accuracy(volumes[:, 1], labels) < 0.58
    assert nearest_class_accuracy(volumes, labels) > 0.75


def test_standing_still_every_picture_is_the_same_but_for_the_noise():
    still = draw(few(turn=0.0, noise=0.0))["train_inputs"]
    assert (still == still[:, :1]).all()
    noisy = draw(few(turn=0.0, noise=0.2))["train_inputs"].astype(float)
    residue = noisy - noisy.mean(1, keepdims=True)
    between = [
        np.corrcoef(residue[:, 0].reshape(-1), np.roll(residue[:, 1], shift, 2).reshape(-1))[0, 1]
        for shift in (-1, 0, 1)
    ]
    assert np.abs(between).max() < 0.2  # a picture's noise is not the other's, nor that moved by a pixel


def test_the_first_angle_is_any():
    firsts = draw(few(characters="7", examples=400, size=16, noise=0.0))["train_inputs"][:, 0, :, :, 0].astype(float)
    rows = np.arange(16) - 7.5
    sums = firsts.sum((1, 2))
    lean = np.stack([(firsts.sum(1) @ rows) / sums, (firsts.sum(2) @ rows) / sums])
    lean = np.arctan2(*(lean - np.median(lean, axis=1, keepdims=True)))
    assert np.histogram(lean, 4, (-np.pi, np.pi))[0].min() > 60


def test_example_i_depends_on_seed_split_and_i_alone():
    small, large = draw(few()), draw(few(examples=100))
    assert np.array_equal(small["train_inputs"], large["train_inputs"][:40])
    assert not np.array_equal(small["train_inputs"][:8], small["validation_inputs"])
    assert not np.array_equal(small["test_inputs"], small["validation_inputs"])
    assert not np.array_equal(small["train_inputs"], draw(few(seed=1))["train_inputs"])


def test_it_is_loaded_with_two_classes_for_each_character_and_kept(cache_folder, monkeypatch):
    loaded = few().load()
    assert loaded.spec.shape == (8, 16, 16, 1)
    assert loaded.spec.names == ("2 clockwise", "2 anticlockwise", "4 clockwise", "4 anticlockwise")
    assert (np.bincount(loaded.splits["train"].labels) == 10).all()
    monkeypatch.setattr("research.data.volumes.draw", lambda volumes: pytest.fail("drawn again"))
    assert np.array_equal(few().load().splits["test"].inputs, loaded.splits["test"].inputs)


@pytest.mark.parametrize(
    ("characters", "message"),
    [("", "one character or several"), ("22", "each of them once"), ("2é", "é cannot be drawn")],
)
def test_characters_that_cannot_be_are_refused(characters, message):
    with pytest.raises(UserError, match=message):
        validate(Volumes(characters=characters))
