"""Batch norms folded into what is before them: the same answers, without the norms."""

import numpy as np
import pytest

from research.deployment.compression.folding import folded
from research.models import MLP, ConvNet


@pytest.mark.parametrize(
    "model",
    [ConvNet(features=(3, 4), convolutions=2, norm="batch"), MLP(depth=2, width=5, residual=True, norm="batch")],
)
def test_the_answers_are_the_same(make, answers, model):
    trained = make(model)
    without = folded(trained)
    assert without.model.norm is None and not without.model_state
    assert not any("norm" in path for path in without.parameters)
    np.testing.assert_allclose(answers(without), answers(trained), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [ConvNet(features=(3,)), ConvNet(features=(3,), norm="group")])
def test_what_cannot_be_without_is_left_alone(make, model):
    trained = make(model)
    assert folded(trained) is trained
