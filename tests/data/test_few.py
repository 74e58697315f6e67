"""Few labelled examples are of each class alike, nested, and change no other split."""

import numpy as np
import pytest

from research.config import override
from research.data import Digits, Few, PythonTopics
from research.data.base import fit
from research.data.few import in_turns
from research.errors import UserError
from research.training import Task, Tasks


def rows(split):
    return {(example.tobytes(), int(label)) for example, label in zip(split.inputs, split.labels, strict=True)}


@pytest.mark.parametrize("count", [10, 37, 100, 1257])
def test_each_class_has_its_share_to_one_and_all_are_training_examples(count):
    few, whole = Few(Digits(), count).load(), Digits().load()
    counts = np.bincount(few.splits["train"].labels, minlength=10)
    assert counts.sum() == count
    if count < 1000:  # beyond, the rarest class has no more
        assert counts.max() - counts.min() <= 1
    assert rows(few.splits["train"]) <= rows(whole.splits["train"])
    for split in ("validation", "test"):
        assert rows(few.splits[split]) == rows(whole.splits[split])
    np.testing.assert_array_equal(few.normalisation.mean, fit(few.splits["train"], 1 / 16).mean)


def test_more_keep_the_fewer_and_another_draw_takes_others():
    fewer, more, others = (
        rows(few.load().splits["train"]) for few in (Few(Digits(), 20), Few(Digits(), 50), Few(Digits(), 50, seed=1))
    )
    assert fewer < more
    assert len(more & others) < 25


def test_none_is_all_and_the_number_is_a_field_like_any_other():
    assert len(Few(Digits()).load().splits["train"]) == 1257
    assert override(Few(Digits()), "examples", 20) == Few(Digits(), 20)


def test_turns_are_a_permutation_by_rank_within_the_class():
    labels = np.random.default_rng(0).integers(0, 4, 50)
    order = in_turns(labels, 3)
    assert sorted(order) == list(range(50))
    seen = np.zeros(4, int)
    turns = []
    for label in labels[order]:
        turns.append(seen[label])
        seen[label] += 1
    assert turns == sorted(turns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Few(Digits(), 9), "9 are fewer than the 10 classes of Digits"),
        (lambda: Few(Digits(), 2000), "2000 are asked for, and Digits has 1257 to train on"),
        (lambda: Few(Tasks(a=Task(Digits()), b=Task(PythonTopics())), 20), "tasks"),
        (lambda: Few(Tasks(a=Task(Digits())), 20), "take few of each"),
    ],
)
def test_what_cannot_be_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make().load()
