"""Augmentation: geometry against scipy, chance against closed forms, and strengths that never retrace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from scipy import stats

from research.config import ConfigError, as_arrays, validate
from research.data import augmentation
from research.data.augmentation import DRAWS, Augmentation
from research.errors import UserError

RNG = np.random.default_rng(0)
PICTURES = RNG.random((6, 9, 12, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0], np.int32)
KEY = jax.random.key(0)
augment = jax.jit(augmentation.augment, static_argnames="classes")
source = jax.jit(augmentation.source, static_argnums=(2, 3, 4))
cut_out = jax.jit(augmentation.cut_out, static_argnums=2)
symmetric_beta = jax.jit(augmentation.symmetric_beta)
EVERYTHING = {
    "rotation": 20.0,
    "scale": 0.2,
    "shift": 2.0,
    "elastic": 1.0,
    "flip": 0.5,
    "cutout": 0.3,
    "mixup": 0.4,
}


def warp(pictures, angle=0.0, zoom=1.0, down=0.0, right=0.0, fill=0.0):
    numbers = [np.full(len(pictures), value, np.float32) for value in (angle, zoom, down, right)]
    return np.asarray(_warp(pictures, numbers, fill))


@jax.jit
def _warp(pictures, numbers, fill):
    coordinates = augmentation.affine_source(*numbers, *pictures.shape[1:3])
    return augmentation.sample(pictures, *coordinates, fill)


@pytest.mark.parametrize(
    "pose",
    [
        {"angle": 23.0},
        {"zoom": 1.3},
        {"zoom": 0.7},
        {"down": 1.3, "right": -2.6},
        {"angle": -75.0, "zoom": 0.8, "down": -0.4, "right": 3.1},
    ],
)
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_poses_are_those_of_scipy(pose, fill):
    radians = np.deg2rad(pose.get("angle", 0.0))
    cosine, sine = np.cos(radians), np.sin(radians)
    matrix = np.array([[cosine, sine], [-sine, cosine]]) / pose.get("zoom", 1.0)
    centre = (np.array(PICTURES.shape[1:3]) - 1) / 2
    offset = centre - matrix @ (centre + np.array([pose.get("down", 0.0), pose.get("right", 0.0)]))
    want = np.empty(PICTURES.shape)
    for i, j in np.ndindex(len(PICTURES), PICTURES.shape[-1]):
        picture = PICTURES[i, ..., j].astype(np.float64)
        want[i, ..., j] = scipy.ndimage.affine_transform(
            picture, matrix, offset, order=1, mode="grid-constant", cval=fill
        )
    np.testing.assert_allclose(warp(PICTURES, **pose, fill=fill), want, atol=2e-5)


def test_a_right_angle_is_a_turn_anticlockwise():
    square = PICTURES[:, :, :9]
    np.testing.assert_allclose(warp(square, angle=90.0), np.rot90(square, axes=(1, 2)), atol=1e-5)


def test_a_shift_by_whole_pixels_is_a_roll_with_fill_behind_it():
    want = np.roll(PICTURES, (2, -3), axis=(1, 2))
    want[:, :2], want[:, :, -3:] = 0.25, 0.25
    np.testing.assert_array_equal(warp(PICTURES, down=2.0, right=-3.0, fill=0.25), want)


def test_what_lies_far_outside_is_fill_of_each_feature():
    fill = np.array([0.1, 0.9], np.float32)
    np.testing.assert_array_equal(warp(PICTURES, down=1e6, fill=fill), np.broadcast_to(fill, PICTURES.shape))


def test_strength_0_is_the_identity_to_the_bit():
    nothing = Augmentation(**dict.fromkeys(DRAWS, 0.0))
    inputs, targets = augment(nothing, KEY, PICTURES, LABELS, classes=5, fill=0.3)
    np.testing.assert_array_equal(inputs, PICTURES)
    np.testing.assert_array_equal(targets, np.eye(5)[LABELS])


def test_absence_traces_nothing():
    jaxpr = jax.make_jaxpr(lambda key, x, y: augmentation.augment(Augmentation(), key, x, y, classes=5))(
        KEY, PICTURES, LABELS
    )
    assert not jaxpr.eqns


@pytest.mark.parametrize("name", DRAWS)
def test_every_change_changes_something_and_differs_between_examples_and_keys(name):
    same = np.broadcast_to(PICTURES[:1], (20, *PICTURES.shape[1:]))
    if name == "mixup":
        same = RNG.random(same.shape).astype(np.float32)
    labels = np.zeros(20, np.int32)
    config = Augmentation(**{name: EVERYTHING[name]})
    a, b = (np.asarray(augment(config, jax.random.key(seed), same, labels, classes=5)[0]) for seed in (0, 1))
    assert not np.array_equal(a, b)
    changed = [not np.array_equal(x, y) for x, y in zip(a, same, strict=True)]
    assert sum(changed) >= 5
    assert len(np.unique(a.reshape(20, -1), axis=0)) > 1
    assert a.dtype == np.float32 and np.isfinite(a).all()


def test_changing_a_strength_does_not_retrace():
    traces = []

    @jax.jit
    def run(config, key):
        traces.append(config)
        return augmentation.augment(config, key, PICTURES, LABELS, classes=5)

    outputs = [run(as_arrays(Augmentation(**{k: v * s for k, v in EVERYTHING.items()})), KEY)[0] for s in (0, 0.5, 1)]
    assert len(traces) == 1
    assert not np.array_equal(outputs[1], outputs[2])


def test_stacked_strengths_are_those_alone():
    configs = [as_arrays(Augmentation(**{k: v * s for k, v in EVERYTHING.items()})) for s in (0.3, 1.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *configs)
    together, _ = jax.vmap(lambda c: augment(c, KEY, PICTURES, LABELS, classes=5))(stacked)
    for config, inputs in zip(configs, together, strict=True):
        np.testing.assert_allclose(augment(config, KEY, PICTURES, LABELS, classes=5)[0], inputs, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DRAWS if name != "mixup"])
def test_draws_follow_from_the_place_in_the_batch_and_not_its_length(name):
    config = Augmentation(**{name: EVERYTHING[name]})
    whole, _ = augment(config, KEY, PICTURES, LABELS, classes=5)
    part, _ = augment(config, KEY, PICTURES[:4], LABELS[:4], classes=5)
    np.testing.assert_allclose(whole[:4], part, atol=1e-6)


def test_adding_one_change_leaves_the_draws_of_others():
    alone = source(Augmentation(rotation=10.0), KEY, 5, 8, 8)
    also = source(Augmentation(rotation=10.0, scale=0.0, shift=0.0, elastic=0.0), KEY, 5, 8, 8)
    for a, b in zip(alone, also, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_poses_stay_within_their_strengths_and_fill_them():
    height, width, batch = 9, 11, 4000
    rows, columns = source(Augmentation(shift=3.0), KEY, batch, height, width)
    down, right = -rows[:, 0, 0], -columns[:, 0, 0]
    for shift in (down, right):
        assert stats.kstest(np.asarray(shift), stats.uniform(-3, 6).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.06
    _, columns = source(Augmentation(scale=0.2), KEY, batch, height, width)
    assert (
        stats.kstest(10 / np.asarray(columns[:, 4, -1] - columns[:, 4, 0]), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-4
    )
    rows, columns = source(Augmentation(rotation=30.0), KEY, batch, height, width)
    angle = np.rad2deg(np.arctan2(-(rows[:, 4, -1] - rows[:, 4, 0]), columns[:, 4, -1] - columns[:, 4, 0]))
    assert stats.kstest(angle, stats.uniform(-30, 60).cdf).pvalue > 1e-4


def test_draws_of_different_changes_are_independent():
    rows, columns = source(Augmentation(rotation=30.0, scale=0.2, shift=2.0), KEY, 4000, 9, 11)
    across = np.stack([rows[:, 4, -1] - rows[:, 4, 0], columns[:, 4, -1] - columns[:, 4, 0]])
    angle, zoom = np.arctan2(-across[0], across[1]), 10 / np.hypot(*across)
    flipped = augment(
        Augmentation(flip=0.5), KEY, np.tile([[0.0], [1.0]], (4000, 1, 1)), np.zeros(4000, int), classes=2
    )
    mixed = symmetric_beta(1.0, jax.random.uniform(jax.random.fold_in(KEY, DRAWS.index("mixup")), (2, 4000)))
    table = np.corrcoef([angle, zoom, rows[:, 4, 5], columns[:, 4, 5], flipped[0][:, 0, 0], mixed])
    assert np.abs(table - np.eye(6)).max() < 0.07


def test_elastic_displacements_have_the_deviation_asked_for_everywhere_and_are_smooth():
    noise = np.asarray(augmentation.smooth_noise(KEY, 3000, 14, 10), np.float64)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.07)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.08)
    # Of neighbours a seventh of the picture apart, Gaussians have the correlation exp(-1/4).
    assert np.corrcoef(noise[:, 0, 6, 5], noise[:, 0, 8, 5])[0, 1] == pytest.approx(np.exp(-0.25), abs=0.05)
    assert abs(np.corrcoef(noise[:, 0, 6, 5], noise[:, 1, 6, 5])[0, 1]) < 0.07


@pytest.mark.parametrize("shape", [(4, 9, 12, 2), (4, 30, 3), (4, 3, 4, 5, 1)])
def test_a_certain_flip_reverses_the_last_axis_of_space(shape):
    inputs = RNG.random(shape).astype(np.float32)
    flipped, labels = augment(Augmentation(flip=1.0), KEY, inputs, LABELS[:4], classes=5)
    np.testing.assert_array_equal(flipped, np.flip(inputs, -2))
    np.testing.assert_array_equal(labels, LABELS[:4])


def test_flips_come_as_often_as_asked():
    inputs = np.tile(np.array([[0.0], [1.0]], np.float32), (4000, 1, 1))
    flipped, _ = augment(Augmentation(flip=0.3), KEY, inputs, np.zeros(4000, np.int32), classes=2)
    assert np.mean(flipped[:, 0, 0]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("side", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(20_000, 8, 6, 1), (20_000, 20, 3)])
def test_cutout_blanks_the_area_expected(side, shape):
    # Along an axis of length 1, with a centre uniform on it, a box that is cut at the ends covers side - side^2 / 4.
    covered = np.asarray(cut_out(side, KEY, shape))
    axes = len(shape) - 2
    assert covered.shape == (*shape[:-1], 1)
    assert covered.mean() == pytest.approx((side - side**2 / 4) ** axes, abs=0.01)


def test_cutout_writes_fill_and_leaves_the_rest():
    inputs, _ = augment(Augmentation(cutout=0.5), KEY, PICTURES, LABELS, classes=5, fill=(2.0, 3.0))
    covered = np.broadcast_to(cut_out(0.5, KEY, PICTURES.shape), PICTURES.shape)
    np.testing.assert_array_equal(inputs, np.where(covered, np.array([2.0, 3.0], np.float32), PICTURES))
    assert 0 < covered.mean() < 1


@pytest.mark.parametrize("shape", [(6, 9, 12, 2), (6, 5), (6, 4, 3)])
def test_mixup_mixes_labels_as_it_mixes_inputs(shape):
    labels = np.array([0, 1, 2, 3, 4, 2], np.int32)
    inputs = RNG.random(shape).astype(np.float32)
    mixed, targets = augment(Augmentation(mixup=0.8), KEY, inputs, labels, classes=5)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    after = np.roll(np.eye(5)[labels], -1, axis=0)
    share = np.take_along_axis(np.asarray(targets), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(targets, share[:, None] * np.eye(5)[labels] + (1 - share)[:, None] * after, atol=1e-6)
    share = share.reshape(-1, *[1] * (len(shape) - 1))
    np.testing.assert_allclose(mixed, share * inputs + (1 - share) * np.roll(inputs, -1, axis=0), atol=1e-5)
    assert (share >= 0.5).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 3.0])
def test_proportions_of_mixup_are_distributed_as_beta(alpha):
    uniform = np.random.default_rng(1).random((2, 20_000)).astype(np.float32)
    numbers = np.asarray(symmetric_beta(alpha, uniform), np.float64)
    assert ((numbers >= 0) & (numbers <= 1)).all()
    edge = 1e-3  # so near to 0 and 1, float32 no longer tells numbers apart
    clipped = np.clip(numbers, edge, 1 - edge)
    inner = (clipped > edge) & (clipped < 1 - edge)
    law = stats.beta(alpha, alpha)
    assert np.mean(inner) == pytest.approx(law.cdf(1 - edge) - law.cdf(edge), abs=0.02)
    low, high = law.cdf(edge), law.cdf(1 - edge)
    assert stats.kstest(numbers[inner], lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 1e-4


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "elastic"])
@pytest.mark.parametrize("shape", [(4, 7), (4, 20, 3), (4, 3, 4, 5, 1)])
def test_geometry_needs_pictures(name, shape):
    with pytest.raises(UserError, match=rf"augmentation\.{name}: only for pictures"):
        augment(Augmentation(**{name: 0.1}), KEY, jnp.zeros(shape), jnp.zeros(4, int), classes=2)


@pytest.mark.parametrize("name", ["flip", "cutout"])
def test_flip_and_cutout_need_an_extent(name):
    with pytest.raises(UserError, match=rf"augmentation\.{name}: these examples have features alone"):
        augment(Augmentation(**{name: 0.1}), KEY, jnp.zeros((4, 7)), jnp.zeros(4, int), classes=2)


def test_strengths_out_of_range_are_refused_by_name():
    with pytest.raises(ConfigError) as caught:
        validate(Augmentation(rotation=-1.0, flip=1.5, scale=1.0))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["rotation", "scale", "flip"]
