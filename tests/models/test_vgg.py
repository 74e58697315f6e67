"""VGG: published counts, stages, errors."""

import jax
import jax.numpy as jnp
import pytest

from research.config import validate
from research.errors import UserError
from research.models import VGG, network
from research.parameters import flatten, total
from research.spec import Spec


def shapes(model, shape, classes):
    net = network(model, Spec(shape, classes, ("",) * classes))
    return flatten(jax.eval_shape(net.init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("depth", "norm", "count"),
    [  # torchvision's tables
        (11, None, 132_863_336),
        (13, None, 133_047_848),
        (16, None, 138_357_544),
        (19, None, 143_667_240),
    ],
)
def test_counts_are_the_published_ones(depth, norm, count):
    found = shapes(VGG(depth=depth, norm=norm), (224, 224, 3), 1000)
    assert total(found).parameters == count
    assert sum(path.endswith("/kernel") for path in found) == depth


def test_a_small_one_runs_on_small_pictures():
    net = network(VGG(depth=11, width=2, hidden=(4,), norm="batch", dropout=0.5), Spec((32, 32, 1), 3, ("",) * 3))

    def run(key):
        variables, inputs = net.init(key), jnp.ones((2, 32, 32, 1))
        return variables, *net.apply(variables, inputs, train=True, key=key, features=("stage_4",))

    variables, logits, changed = jax.eval_shape(run, jax.random.key(0))
    assert logits.shape == (2, 3)
    assert changed["features"]["stage_4"].shape == (2, 1, 1, 16)
    assert "bias" not in variables["params"]["stage_0"]["convolution_0"]


def test_pictures_too_small_and_unknown_depths_are_refused():
    with pytest.raises(UserError, match=r"needs at least 32 positions in each dimension; these have \(28, 28, 1\)"):
        shapes(VGG(), (28, 28, 1), 3)
    with pytest.raises(UserError, match=r"these have \(64,\); use MLP"):
        shapes(VGG(), (64,), 3)
    with pytest.raises(UserError, match="depth: 17 is none of 11, 13, 16, 19"):
        validate(VGG(depth=17))
