"""The convolutional network for text: its closed count, where it looks, errors."""

import jax
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import TextCNN, network
from research.parameters import flatten, total
from research.spec import Spec


def spec(positions, tokens=11, classes=3):
    return Spec((positions,), classes, ("",) * classes, tokens)


@pytest.mark.parametrize("windows", [(3, 4, 5), (2,)])
def test_the_number_of_parameters_is_the_closed_formula(windows):
    net = network(TextCNN(width=6, windows=windows, features=7), spec(9))
    found = flatten(jax.eval_shape(net.init, jax.random.key(0))["params"])
    expected = 11 * 6 + sum((w * 6 + 1) * 7 for w in windows) + (len(windows) * 7 + 1) * 3
    assert total(found).parameters == expected
    assert {path for path in found if "convolution" in path} == {
        f"convolution_{w}/{name}" for w in windows for name in ("kernel", "bias")
    }


def test_where_a_phrase_stands_does_not_matter():
    net = network(TextCNN(width=6, windows=(2, 3), features=7), spec(12))
    run = jax.jit(lambda tokens: net.apply(net.init(jax.random.key(0)), tokens, train=False)[0])
    texts = np.zeros((3, 12), int)
    texts[0, 3:6] = texts[1, 6:9] = (4, 9, 2)
    texts[2, 6:9] = (2, 9, 4)
    logits = run(texts)
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits[0], logits[2])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"TextCNN: inputs \(4,\) are shorter than a kernel of 5 tokens"):
        network(TextCNN(), spec(4))
    with pytest.raises(UserError, match=r"TextCNN needs inputs of tokens \(positions,\); these are numbers \(64,\)"):
        network(TextCNN(), Spec((64,), 2, ("a", "b")))
    with pytest.raises(UserError, match="same width twice"):
        validate(TextCNN(windows=(3, 3)))
