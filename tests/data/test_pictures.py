import numpy as np
import pytest
from PIL import Image

from research.data import read_picture
from research.data.base import Description, Normalisation
from research.data.pictures import decode, find_background, fit_to, measure
from research.errors import UserError
from research.spec import Spec


def data(shape=(28, 28, 1), background="dark", maximum=255.0, kind="image"):
    normalisation = Normalisation(1 / 255, np.zeros(shape[-1:], np.float32), np.ones(shape[-1:], np.float32))
    return Description(Spec(shape, 2, ("a", "b")), normalisation, kind, background, maximum)


def a_stroke(height=28, width=28, ink=255, paper=0):
    """A vertical bar with a foot to the right: no symmetry hides a wrong turn."""
    pixels = np.full((height, width), paper, np.uint8)
    pixels[height // 7 : -height // 7, width // 3 : width // 3 + width // 7] = ink
    pixels[-height // 4 : -height // 7, width // 3 : -width // 5] = ink
    return pixels


def saved(tmp_path, pixels, name="picture.png", mode=None, **options):
    image = Image.fromarray(pixels)
    path = tmp_path / name
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_a_picture_like_the_datas_is_read_as_it_is(tmp_path):
    picture = read_picture(saved(tmp_path, a_stroke()), data())
    assert np.array_equal(picture.array[..., 0], a_stroke())
    assert (picture.array.dtype, picture.notes) == (np.uint8, ())


def test_dark_on_light_is_inverted_and_said(tmp_path):
    picture = read_picture(saved(tmp_path, 255 - a_stroke()), data())
    assert np.array_equal(picture.array[..., 0], a_stroke())
    assert picture.notes == ("inverted, since the run's data is drawn on a dark background",)


def test_light_on_dark_is_inverted_for_data_on_a_light_background(tmp_path):
    picture = read_picture(saved(tmp_path, a_stroke()), data(background="light"))
    assert np.array_equal(picture.array[..., 0], 255 - a_stroke())
    assert "light background" in picture.notes[0]


def test_data_without_a_plain_background_is_not_inverted(tmp_path):
    picture = read_picture(saved(tmp_path, 255 - a_stroke()), data(background=None))
    assert np.array_equal(picture.array[..., 0], 255 - a_stroke())
    assert picture.notes == ()


def test_units_are_those_of_the_data(tmp_path):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:24, 24:32], pixels[16:24, 32:40] = 255, 51
    picture = read_picture(saved(tmp_path, pixels), data((8, 8, 1), maximum=16.0))
    assert picture.array.shape == (8, 8, 1)
    assert picture.array.dtype == np.float32
    np.testing.assert_allclose(picture.array[2, 3:5, 0], [16, 16 / 5], rtol=1e-6)
    assert np.count_nonzero(picture.array) == 2


def test_a_large_picture_becomes_means_over_blocks(tmp_path):
    large = np.random.default_rng(0).integers(0, 100, (32, 32)).astype(np.uint8)
    picture = read_picture(saved(tmp_path, large), data((8, 8, 1)))
    expected = large.reshape(8, 4, 8, 4).mean((1, 3))
    np.testing.assert_allclose(picture.array[..., 0], expected, atol=1.01)  # rounded twice, by rows and by columns


@pytest.mark.parametrize("ink", [0, 255])
def test_what_is_drawn_on_nothing_does_not_vanish(tmp_path, ink):
    alpha = a_stroke()
    pixels = np.dstack([np.full_like(alpha, ink)] * 3 + [alpha])
    for background in ("dark", "light"):
        picture = read_picture(saved(tmp_path, pixels), data(background=background))
        expected = alpha if background == "dark" else 255 - alpha
        assert np.array_equal(picture.array[..., 0], expected)


def test_transparent_palettes_are_made_opaque(tmp_path):
    image = Image.fromarray(a_stroke()).convert("P")
    path = tmp_path / "picture.gif"
    image.save(path, transparency=0)
    assert np.array_equal(read_picture(path, data()).array[..., 0], a_stroke())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_every_way_of_storing_grey_means_the_same(tmp_path, mode):
    if mode == "I;16":
        path = saved(tmp_path, a_stroke().astype(np.uint16) * 257)
    else:
        path = saved(tmp_path, a_stroke(), "picture.tif" if mode == "CMYK" else "picture.png", mode)
    for features in (1, 3):
        assert np.array_equal(decode(path, features, None), np.repeat(a_stroke()[..., None], features, -1))


@pytest.mark.parametrize(("dtype", "white", "name"), [(np.uint16, 65535, "p.png"), (np.float32, 1.0, "p.tif")])
def test_more_than_eight_bits_are_scaled_and_not_clipped(tmp_path, dtype, white, name):
    ramp = np.tile(np.linspace(0, 1, 52), (4, 1))
    path = saved(tmp_path, (ramp * white).astype(dtype), name)
    np.testing.assert_allclose(decode(path, 1, None)[..., 0], ramp * 255, atol=0.51)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floating_point_pictures_mean_the_same_whatever_white_is(tmp_path, white):
    ramp = np.tile(np.linspace(0, 1, 52), (4, 1))
    path = saved(tmp_path, (ramp * white * 1.02).astype(np.float32), "p.tif")  # a little beyond, as after resampling
    np.testing.assert_allclose(decode(path, 1, None)[..., 0], np.minimum(ramp * 1.02, 1) * 255, atol=0.51)
    assert read_picture(path, data((4, 52, 1), background=None)).notes == (f"values taken as 0 to {white}",)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        *((np.float32, values) for values in ([-1, 1], [0, 1e6], [0, np.nan], [0, np.inf], [-np.inf, 0], [-300, 0])),
        *((np.int32, values) for values in ([-1, 1], [0, 65536], [-300, 0])),
    ],
)
def test_values_that_are_no_brightness_are_refused(tmp_path, dtype, values):
    path = saved(tmp_path, np.tile(np.array(values, dtype), (4, 2)), "p.tif")
    with pytest.raises(UserError, match=r"p.tif: holds values from \S+ to \S+, and no brightness"):
        read_picture(path, data())


def test_what_is_done_to_size_and_colours_is_said(tmp_path):
    colours = np.dstack([a_stroke(48, 64), a_stroke(48, 64) // 2, a_stroke(48, 64) // 4])
    grey = np.dstack([a_stroke()] * 3)
    cases = [
        ((28, 28, 1), colours, None, ("grey of RGB", "resized from 64x48")),
        ((48, 64, 1), colours, "P", ("grey of the colours of P",)),
        ((48, 64, 3), colours, "RGBA", ()),
        ((28, 28, 1), grey, None, ()),
        ((28, 28, 3), a_stroke(), None, ("RGB of grey",)),
        (
            (28, 28, 1),
            255 - a_stroke(10, 20),
            "1",
            ("inverted, since the run's data is drawn on a dark background", "resized from 20x10"),
        ),
    ]
    for shape, pixels, mode, notes in cases:
        assert read_picture(saved(tmp_path, pixels, mode=mode), data(shape)).notes == notes


def test_colours_stay_in_order(tmp_path):
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 50
    picture = read_picture(saved(tmp_path, pixels), data((28, 28, 3), background=None))
    assert np.array_equal(picture.array, pixels)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, np.rot90), (2, lambda x: x[:, ::-1])],
)
def test_a_photograph_is_turned_upright(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = a_stroke(32, 24)
    path = saved(tmp_path, pixels, "photo.png", exif=exif)
    assert np.array_equal(decode(path, 1, None)[..., 0], turned(pixels))
    assert measure(path) == turned(pixels).shape


@pytest.mark.parametrize("shape", [(60, 30), (30, 60), (10, 7), (28, 28), (1, 100)])
def test_aspect_is_kept_and_the_rest_is_background(shape):
    pixels = np.full((*shape, 1), 40, np.uint8)
    top, left = shape[0] // 4, shape[1] // 4
    pixels[top : shape[0] - top, left : shape[1] - left] = 240
    fitted = fit_to(pixels, (28, 28))
    assert fitted.shape == (28, 28, 1)
    ratio = 28 / max(shape)
    inked = fitted[..., 0] > 140
    if min(shape) > 1:
        assert fitted[0, 0] == fitted[-1, -1] == 40
        height, width = inked.any(1).sum(), inked.any(0).sum()
        assert abs(height - (shape[0] - 2 * top) * ratio) <= 2
        assert abs(width - (shape[1] - 2 * left) * ratio) <= 2
        rows, columns = np.nonzero(inked)
        assert abs(rows.mean() - 13.5) < 1
        assert abs(columns.mean() - 13.5) < 1


def test_background_is_what_nearly_all_borders_show():
    dark = np.zeros((5, 9, 9, 1), np.uint8)
    dark[:, 3:6, 3:6] = 255
    assert find_background(dark, 255) == "dark"
    assert find_background(255 - dark, 255) == "light"
    assert find_background(dark.astype(np.float32) / 255, 1.0) == "dark"
    photographs = np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3)).astype(np.uint8)
    assert find_background(photographs, 255) is None
    assert find_background(photographs // 4, 255) is None  # dark scenes, and no plain background


# ---------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png: there is no such file"):
        read_picture(tmp_path / "nothing.png", data())


def test_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "words.png"
    path.write_text("these are words")
    with pytest.raises(UserError, match=r"words\.png: not a picture"):
        read_picture(path, data())
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"words\.png: not a picture"):
        read_picture(path, data())


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.bmp", "picture.gif", "picture.tif"])
@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_a_truncated_picture_is_refused(tmp_path, name, kept):
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{name}: (truncated or damaged|not a) picture"):
        read_picture(path, data())


def test_a_flipped_bit_is_refused_where_the_format_has_checksums(tmp_path):
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged picture"):
        read_picture(path, data())


@pytest.mark.parametrize(
    "other",
    [
        data((4,), kind="table", background=None, maximum=None),
        data((28, 28), kind="array", background=None, maximum=None),
        data((28, 28, 2)),
        data(maximum=None),
    ],
)
def test_a_run_on_other_data_takes_no_pictures(tmp_path, other):
    with pytest.raises(UserError, match="the run was trained on .*, and not on pictures"):
        read_picture(saved(tmp_path, a_stroke()), other)


def test_a_digit_of_the_data_saved_and_read_again_is_the_same(tmp_path):
    from research.data import Digits

    loaded = Digits().load()
    digit = loaded.splits["test"].inputs[3]
    path = saved(tmp_path, np.rint(digit[..., 0] * 255 / 16).astype(np.uint8))
    np.testing.assert_allclose(read_picture(path, loaded).array, digit, atol=0.04)
