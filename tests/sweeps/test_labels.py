"""Values that stand side by side are told apart, in few words."""

import dataclasses

import pytest

from research.parameters import (
    LoRA,
    Partition,
    freeze,
    full,
    gradual,
    head_then_all,
    last_blocks,
    linear_probe,
    others,
    train,
)
from research.parameters.strategies import as_text, from_text
from research.sweeps.labels import as_structure, labels
from research.training import Finetuning, Pretrained, epochs, steps


def tuned(partition, path="runs/a"):
    return Finetuning(source=Pretrained(path), partition=partition)


def test_ways_to_fine_tune_are_told_by_the_names_of_their_partitions():
    ways = [None, tuned(linear_probe()), tuned(last_blocks(1, new_head=True)), tuned(gradual(2, epochs(1)))]
    assert labels(ways, as_structure) == [
        "none",
        "Finetuning(partition linear_probe)",
        "Finetuning(partition last_blocks(1, new_head=True))",
        "Finetuning(partition gradual(2, 1 epoch))",
    ]


def test_a_part_is_told_once_as_a_whole_or_by_its_fields():
    assert labels([tuned(full()), tuned(full(), "runs/b")], as_structure) == [
        "Finetuning(source Pretrained(path='runs/a'))",
        "Finetuning(source Pretrained(path='runs/b'))",
    ]
    own = tuned(Partition(train("head/.*"), freeze(others())), "runs/b")
    assert "partition train('head/.*') freeze(others())" not in labels([own, tuned(full())], as_structure)[0]
    assert "partition linear_probe(new_head=False)" in labels([own, tuned(full())], as_structure)[0]


def test_what_is_empty_is_told_as_missing():
    adapted = Finetuning(partition=linear_probe(), adapters=(LoRA("head/kernel", rank=2),))
    assert labels([tuned(linear_probe()), dataclasses.replace(adapted, source=Pretrained("runs/a"))], as_structure) == [
        "Finetuning(no adapters)",
        "Finetuning(adapters LoRA('head/kernel', rank=2))",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "full",
        "full(new_head=True)",
        "linear_probe",
        "linear_probe(new_head=False)",
        "norm_and_bias",
        "last_blocks(2)",
        "last_blocks(3, new_head=True)",
        "layerwise_decay(0.75)",
        "layerwise_decay(1e-05)",
        "head_then_all(2 epochs)",
        "head_then_all(2.5%, new_head=False)",
        "gradual(2, 1 epoch)",
        "gradual(3, 20 steps, new_head=False)",
    ],
)
def test_a_partition_that_has_a_name_is_called_by_it(text):
    assert str(from_text(text)) == text


@pytest.mark.parametrize(
    "text",
    ["gradual(2, '1 epoch')", 'gradual(blocks=2, every="1epoch")', "Gradual(2, 1epochs)", "gradual(2,every=1 epoch)"],
)
def test_durations_may_be_quoted_or_not(text):
    assert from_text(text) == gradual(2, epochs(1))
    assert from_text("head-then-all(50)") == head_then_all(steps(50))


def test_one_that_has_none_is_told_by_its_rules():
    partition = Partition(train("head/.*", learning_rate=0.5), freeze(others()))
    assert as_text(partition) is None
    assert str(partition) == "train('head/.*', learning_rate=0.5) freeze(others())"
    assert str(head_then_all(epochs(2))) == "head_then_all(2 epochs)"
    assert str(gradual(2, epochs(1))) == "gradual(2, 1 epoch)"
