"""The two networks of the tutorials: their counts with padding and without, and how ConvNet pads."""

import jax
import pytest

from research.errors import UserError
from research.models import ConvNet, OneConvolution, TwoConvolutions, network
from research.parameters import by_prefix, flatten, total
from research.spec import Spec

MNIST = Spec((28, 28, 1), 10, tuple("0123456789"))


def shapes(model, spec=MNIST):
    return flatten(jax.eval_shape(network(model, spec).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("model", "flattened", "count"),
    [
        (OneConvolution(), 14 * 14 * 16, 387_614),
        (OneConvolution(padding="VALID"), 13 * 13 * 16, 335_774),
        (TwoConvolutions(), 7 * 7 * 64, 3_274_634),
        (TwoConvolutions(padding="VALID"), 4 * 4 * 64, 1_111_946),
    ],
)
def test_counts_are_those_of_the_tutorials(model, flattened, count):
    found = shapes(model)
    assert found["dense_0/kernel"].shape[0] == flattened
    assert total(found).parameters == count


def test_most_parameters_are_in_the_first_dense_layer():
    for model in (OneConvolution(), TwoConvolutions()):
        found = shapes(model)
        assert by_prefix(found)["dense_0"].parameters > 0.95 * total(found).parameters


def test_a_kernel_that_leaves_nothing_is_refused_without_padding():
    spec = Spec((8, 8, 1), 10, tuple("0123456789"))
    with pytest.raises(UserError, match=r"stage_1 would shrink \(2, 2\) by 4 to nothing; inputs of \(8, 8, 1\) have"):
        network(TwoConvolutions(padding="VALID"), spec)
    model = ConvNet(features=(4, 4), padding="VALID", pooling=None, head="average", convolutions=1)
    assert shapes(model, spec)["head/kernel"].shape == (4, 10)
