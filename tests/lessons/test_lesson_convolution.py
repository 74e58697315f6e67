"""What the lesson shows, against NumPy, SciPy and formulas."""

import math

import numpy as np
import pytest
from scipy.signal import convolve2d, correlate2d

from research.lessons import convolution as lesson
from research.ops.convolution.formulations import FORMULATIONS


def test_every_formulation_gives_the_right_numbers_for_the_5x5_example():
    rows = lesson.textbook_example().rows
    assert [row["method"] for row in rows] == list(FORMULATIONS)
    for row in rows:
        assert row["outputs"].tolist() == [[35, 40, 45], [60, 65, 70], [85, 90, 95]]
        assert row["largest rounding error"] < 1e-4


def test_true_convolution_of_an_impulse_is_the_kernel_and_the_fields_is_the_kernel_turned_round():
    (row,) = lesson.true_convolution().rows
    np.testing.assert_array_equal(row["true_convolve"], row["kernel"])
    np.testing.assert_array_equal(row["convolve"], row["kernel"][::-1, ::-1])
    np.testing.assert_array_equal(row["true_convolve"], convolve2d(row["picture"], row["kernel"], "same"))


def test_kernels_do_to_even_brightness_what_their_sum_says():
    section = lesson.famous_kernels()
    sums = {row["kernel"]: row["sum"] for row in section.rows}
    assert sums == {"edges": 0, "upright edges": 0, "blur": 1, "sharpen": 1, "texture": 0}
    for row in section.rows:
        assert abs(row["mean after"] - row["sum"] * row["mean before"]) < 2e-3
    assert [axes.get_title() for axes in section.figure.axes] == ["photograph", *sums]


@pytest.mark.parametrize("angle", [0.0, math.pi / 2])
def test_texture_answers_most_to_stripes_of_its_wavelength_and_angle(angle):
    y, x = np.mgrid[:40, :40]

    def answer(wavelength, angle):
        stripes = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength)
        return np.abs(correlate2d(stripes, lesson.texture(angle=angle_of_kernel), "valid")).max()

    angle_of_kernel = angle
    own = answer(4, angle)
    assert own > 10 * answer(4, angle + math.pi / 2)
    assert own > 10 * answer(16, angle)


def test_a_shift_moves_the_outputs_and_does_not_leave_them_alone():
    for row in lesson.shifted_picture().rows:
        whole_steps = row["shift"] % row["stride"] == 0
        assert (row["shifted outputs"] < 1e-5) == whole_steps
        assert row["the same outputs"] > 0.5


def test_sizes_and_costs_are_those_of_the_formulas():
    for row in lesson.sizes_and_costs().rows:
        window = int(row["kernel"][0])
        changed = dict(part.split(" ") for part in row["changed"].split(", ") if part)
        stride, dilation, groups = (int(changed.get(name, 1)) for name in ("stride", "dilation", "groups"))
        reach = dilation * (window - 1) + 1
        zeros = {"SAME": None, "VALID": 0, "1": 2}[changed.get("padding", "SAME")]
        size = -(-32 // stride) if zeros is None else (32 + zeros - reach) // stride + 1
        assert row["size"] == f"{size} x {size}"
        assert row["sees"] == f"{reach} x {reach}"
        assert row["parameters"] == window**2 * 16 * 32 // groups + 32
        assert row["multiply-adds"] == size**2 * window**2 * 16 * 32 // groups


def test_first_layers_that_everybody_knows_cost_what_is_known():
    assert lesson.size_and_cost((28, 28, 1), (5, 5), 32)["parameters"] == 832  # 5 * 5 * 32 + 32
    assert lesson.size_and_cost((224, 224, 3), (7, 7), 64, stride=2)["multiply-adds"] == 112**2 * 64 * 7**2 * 3


def test_times_are_told_for_every_method(monkeypatch):
    monkeypatch.setattr(lesson, "_looped", lambda *_: iter([0.001, 0.003, 0.002]).__next__)
    for row in lesson.times(rounds=3).rows:
        assert list(row)[1:] == [*FORMULATIONS, "chosen"]
        assert all(row[method] == 2 for method in FORMULATIONS)


def test_a_timed_loop_takes_time():
    assert lesson._looped((2, 4, 4, 2), (3, 3, 2, 2), 1, None)() > 0
