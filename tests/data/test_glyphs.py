import functools
import importlib.util

import numpy as np
import pytest

from research.data import Glyphs
from research.data.glyphs import ALPHABETS, FONTS, distance_fields, draw, font_folder, poses
from research.errors import UserError

PLAIN = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0, "stroke": 0.0, "blur": 0.0, "noise": 0.0}

fields_once = functools.cache(distance_fields)


@pytest.fixture(autouse=True)
def fields_are_made_once(monkeypatch):
    monkeypatch.setattr("research.data.glyphs.distance_fields", fields_once)


def few(**options):
    return Glyphs(**{"examples": 40, "validation": 20, "test": 20, **options})


def test_example_i_depends_on_seed_split_and_i_alone():
    small, large = draw(few()), draw(few(examples=600, test=30))
    assert np.array_equal(small["train_inputs"], large["train_inputs"][:40])
    assert np.array_equal(small["test_inputs"], large["test_inputs"][:20])
    assert np.array_equal(small["validation_inputs"], large["validation_inputs"])
    assert not np.array_equal(small["train_inputs"][:20], small["validation_inputs"])
    assert not np.array_equal(small["train_inputs"], draw(few(seed=1))["train_inputs"])


def test_the_pose_of_an_example_does_not_depend_on_what_it_is_drawn_with():
    whole, keys = poses(few(), "train", 21, np.arange(600))
    part, part_keys = poses(few(), "train", 21, np.arange(256, 600))
    assert len(np.unique(keys)) == 600
    assert np.array_equal(keys[256:], part_keys)
    assert all(np.array_equal(a[256:], b) for a, b in zip(whole, part, strict=True))


def test_seeds_beside_each_other_share_no_example():
    pictures = [draw(few(seed=seed))[f"{split}_inputs"] for seed in (0, 1, 2) for split in ("train", "validation")]
    flat = np.concatenate(pictures).reshape(-1, 28 * 28)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_labels_say_what_is_drawn():
    loaded = Glyphs(examples=1500, validation=10, test=500, rotation=5.0, shear=0.1, shift=0.02).load()
    train, test = loaded.splits["train"], loaded.splits["test"]

    def features(split):
        return np.column_stack([split.inputs.reshape(len(split), -1) / 255.0, np.ones(len(split))])

    x = features(train)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ np.eye(10)[train.labels])
    accuracy = np.mean((features(test) @ weights).argmax(1) == test.labels)
    assert accuracy > 0.85  # of a linear model, by ridge regression


def test_without_pose_and_noise_a_picture_is_the_font_drawn_by_pillow():
    from PIL import Image, ImageDraw, ImageFont

    size, large, digits = 56, 8 * 56, 10
    arrays = draw(Glyphs(size=size, examples=40, validation=1, test=1, **PLAIN))
    rendered = []
    for name in FONTS:
        for character in ALPHABETS["digits"]:
            font = ImageFont.truetype(str(font_folder() / f"{name}.ttf"), 100)
            left, top, right, bottom = font.getbbox(character)
            font = font.font_variant(size=100 * 0.72 * large / max(right - left, bottom - top))
            left, top, right, bottom = font.getbbox(character)
            canvas = Image.new("L", (large, large))
            corner = ((large - left - right) / 2, (large - top - bottom) / 2)
            ImageDraw.Draw(canvas).text(corner, character, fill=255, font=font)
            rendered.append(np.asarray(canvas.reduce(8), float))
    rendered = np.reshape(rendered, (len(FONTS), digits, -1))
    for picture, label in zip(arrays["train_inputs"], arrays["train_labels"], strict=True):
        correlations = [np.corrcoef(picture.reshape(-1), font[label])[0, 1] for font in rendered]
        assert max(correlations) > 0.96


def centres(pictures):
    weights = pictures[..., 0].astype(float)
    rows = np.arange(pictures.shape[1])
    total = weights.sum((1, 2))
    return np.stack([(weights.sum(2) @ rows) / total, (weights.sum(1) @ rows) / total], -1)


def test_shift_is_a_fraction_of_the_side():
    still = draw(few(examples=200, **PLAIN))["train_inputs"]
    assert np.abs(centres(still) - 13.5).max() < 4
    same_fonts = draw(few(examples=200, **{**PLAIN, "shift": 0.1}))["train_inputs"]
    moved = centres(same_fonts) - centres(still)
    assert 2.4 < np.abs(moved).max() < 2.9  # 0.1 of 28
    assert np.abs(moved.std(0) - 2.8 / 3**0.5).max() < 0.2


def test_scale_changes_height_and_width_by_at_most_its_share():
    extents = []
    for picture in draw(few(examples=200, size=56, **{**PLAIN, "scale": 0.25}))["train_inputs"][..., 0] > 127:
        extents.append(np.ptp(np.flatnonzero(picture.any(1))) + 1)
    assert abs(max(extents) - 56 * 0.72 * 1.25) < 2
    assert abs(min(extents) - 56 * 0.72 * 0.75) < 2


def test_stroke_thickens_and_noise_and_blur_do_what_they_say():
    plain = draw(few(**PLAIN))["train_inputs"].astype(float)
    thick = draw(few(**{**PLAIN, "stroke": 0.3}))["train_inputs"].astype(float)
    noisy = draw(few(**{**PLAIN, "noise": 0.2}))["train_inputs"].astype(float)
    blurred = draw(few(**{**PLAIN, "blur": 0.2}))["train_inputs"].astype(float)
    assert (thick >= plain).all()
    assert thick.mean() > 1.2 * plain.mean()
    assert 5 < np.abs(noisy - plain).mean() < 20
    assert np.abs(np.diff(blurred, axis=1)).max((1, 2, 3)).mean() < np.abs(np.diff(plain, axis=1)).max((1, 2, 3)).mean()


@pytest.mark.parametrize(("alphabet", "classes"), [("letters", 37), ("alphanumeric", 47)])
def test_every_character_of_an_alphabet_is_a_class(alphabet, classes):
    loaded = Glyphs(alphabet=alphabet, size=12, examples=2 * classes, validation=classes, test=classes).load()
    assert loaded.spec.classes == classes == len(set(loaded.spec.names))
    assert loaded.spec.shape == (12, 12, 1)
    assert (np.bincount(loaded.splits["train"].labels) == 2).all()
    assert loaded.splits["train"].inputs.max((1, 2, 3)).min() > 60  # none is empty


def test_small_glyphs_are_as_bright_as_digits():
    from research.data.digits import read_digits

    glyphs = draw(few(size=8, fill=1.0, blur=0.0, examples=500))["train_inputs"] / 255
    digits = read_digits()[0] / 16
    assert abs(glyphs.mean() - digits.mean()) < 0.05
    assert abs(glyphs.std() - digits.std()) < 0.05


def test_every_font_has_every_character_and_no_two_fonts_are_the_same():
    fields = fields_once(ALPHABETS["digits"])
    inside = (fields > 0).mean((2, 3))
    assert inside.min() > 0.02
    assert len(np.unique(fields.reshape(len(FONTS), -1), axis=0)) == len(FONTS)


def test_held_out_fonts_are_in_the_test_split_alone():
    arrays = draw(Glyphs(examples=600, validation=300, test=100, held_out_fonts=1, **PLAIN))
    kinds = {
        split: {tuple(x) for x in arrays[f"{split}_inputs"].reshape(-1, 784)}
        for split in ("train", "validation", "test")
    }
    assert len(kinds["test"]) == 10  # without pose, one picture for each digit of the one font
    assert not kinds["test"] & (kinds["train"] | kinds["validation"])


def test_pictures_are_kept_and_taken_from_the_cache(cache_folder, monkeypatch):
    first = few().load()
    monkeypatch.setattr("research.data.glyphs.draw", lambda glyphs: pytest.fail("drawn again"))
    again = few().load()
    for name in first.splits:
        assert np.array_equal(first.splits[name].inputs, again.splits[name].inputs)
    with pytest.raises(pytest.fail.Exception):
        few(noise=0.5).load()


def test_a_split_without_a_class_is_refused():
    with pytest.raises(UserError, match="Glyphs: no training examples of class 7, 8, 9"):
        few(examples=7).load()


def test_zero_examples_are_refused():
    with pytest.raises(UserError, match="Glyphs: the test split has no examples"):
        few(test=0).load()


def test_missing_fonts_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("research.data.glyphs.font_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf cannot be read .* reinstall matplotlib"):
        distance_fields("0")


def test_without_matplotlib_the_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        font_folder()
