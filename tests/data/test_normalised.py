"""Data normalised by given figures: the same examples, and what a network sees of them by the formula."""

import numpy as np
import pytest

from research.config import from_json, override, to_json, validate
from research.data import Digits, Few, Normalised, PythonTopics, from_description, normalise
from research.data.base import describe
from research.errors import UserError
from research.training import Task, Tasks


def test_inputs_are_what_the_formula_says_and_nothing_else_changes():
    plain, given = Digits().load(), Normalised(Digits(), mean=(0.3,), deviation=(0.2,)).load()
    inputs = plain.splits["train"].inputs[:5]
    expected = (inputs.astype(np.float64) * plain.normalisation.scale - 0.3) / 0.2
    np.testing.assert_allclose(normalise(given.normalisation, inputs), expected, rtol=1e-5, atol=1e-5)
    assert given.spec == plain.spec
    for name, split in plain.splits.items():
        np.testing.assert_array_equal(given.splits[name].inputs, split.inputs)
    again = from_description(describe(given)).normalisation
    np.testing.assert_array_equal(again.mean, given.normalisation.mean)


def test_it_goes_around_few():
    loaded = Normalised(Few(Digits(), 20), (0.1,), (0.5,)).load()
    assert len(loaded.splits["train"]) == 20
    assert loaded.normalisation.mean.tolist() == [np.float32(0.1)]


def test_it_is_a_config():
    given = Normalised(Digits(), (0.3,), (0.2,))
    assert from_json(to_json(given), Normalised) == given
    assert override(given, "mean", (0.4,)) == Normalised(Digits(), (0.4,), (0.2,))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Normalised(Digits(), (0.1, 0.2)).load(), "data.mean: 2 are given, and Digits has 1 features"),
        (lambda: Normalised(PythonTopics()).load(), "PythonTopics has tokens"),
        (lambda: Normalised(Tasks(a=Task(Digits()))).load(), "several tasks"),
        (lambda: validate(Normalised(Digits(), (0.1,), (0.0,))), "deviation: .*above 0"),
        (lambda: validate(Normalised(Digits(), (float("nan"),))), "mean: .*no finite"),
    ],
)
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(UserError, match=words):
        make()
