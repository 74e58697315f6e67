"""Every parameter in exactly one group, and every mistake told at once."""

import jax
import numpy as np
import pytest

from research.config import from_json, to_json, validate
from research.errors import UserError
from research.parameters import Partition, freeze, groups, is_kernel, merge, others, split, train
from research.parameters.partition import undecayed

PATHS = ["stage_0/convolution_0/kernel", "stage_0/convolution_0/bias", "stage_1/convolution_0/kernel", "head/kernel"]


def problems(*rules, paths=PATHS):
    with pytest.raises(UserError) as caught:
        groups(Partition(rules=rules), paths)
    return caught.value.problems


def test_by_default_everything_is_trained():
    assert groups(Partition(), PATHS) == dict.fromkeys(PATHS, "train")


def test_rules_match_whole_paths():
    chosen = groups(Partition(rules=(freeze("stage_.*"), train("head/.*"))), PATHS)
    assert chosen == dict(zip(PATHS, ["freeze", "freeze", "freeze", "train"], strict=True))
    assert problems(train("head"), freeze("stage.*")) == (
        "partition: train('head') matches no parameter's whole path; did you mean 'head/.*'?",
    )


def test_a_rule_that_matches_nothing_is_named_with_the_nearest_path():
    (line,) = problems(train(".*"), freeze("stage_1/convolutoin_0/.*"))
    assert line.startswith("partition: freeze('stage_1/convolutoin_0/.*') matches no parameter's whole path")
    assert "did you mean 'stage_1/convolution_0/.*'" in line


def test_all_mistakes_are_told_at_once():
    rules = freeze("stage_0/.*"), freeze(".*/kernel")
    both = f"partition: freeze('stage_0/.*') and freeze('.*/kernel') both match {PATHS[0]}"
    nothing = "partition: nothing is left to train"
    unclaimed = "partition: no rule for head/bias; freeze(others()) keeps them"
    assert problems(*rules, paths=[*PATHS, "head/bias"]) == (unclaimed, both, nothing)


def test_what_a_rule_may_be_meant_for_is_not_told_as_well():
    lines = problems(freeze("stage_0/.*"), freeze(".*/kernel"), train("tail"), paths=[*PATHS, "head/bias"])
    assert len(lines) == 2
    assert lines[0].startswith("partition: train('tail') matches no parameter")
    assert lines[1] == f"partition: freeze('stage_0/.*') and freeze('.*/kernel') both match {PATHS[0]}"


def test_two_rules_of_one_group_may_not_overlap_either():
    assert problems(train(".*"), train("head/.*")) == (
        "partition: train('.*') and train('head/.*') both match head/kernel",
    )


def test_long_lists_are_cut():
    (line,) = problems(train("head.*"), paths=["head/kernel", *(f"block_{i:02d}/kernel" for i in range(20))])
    assert "block_07/kernel and 12 more; " in line


def test_what_is_no_regular_expression_is_named():
    assert problems(train("(")) == (
        "partition.rules.0.pattern: '(' is no regular expression: missing ), unterminated subpattern at position 0",
    )
    with pytest.raises(UserError, match=r"rules.1.pattern: '\*' is no regular expression"):
        validate(Partition(rules=(train("a"), freeze("*"))))


def test_no_rules_train_nothing():
    unclaimed = f"partition: no rule for {', '.join(PATHS)}; freeze(others()) keeps them"
    assert problems() == (unclaimed, "partition: nothing is left to train")


def test_adapters_that_no_rule_trains_are_told_with_the_rule_that_does():
    (line,) = problems(train("dense/.*"), paths=["dense/kernel", "dense/lora_a", "dense/lora_b"])
    assert line == "partition: no rule for dense/lora_a, dense/lora_b; train(of_adapters()) trains them"


@pytest.mark.parametrize("shapes_only", [False, True])
def test_split_and_merge_are_inverse(shapes_only):
    parameters = {path: np.full(2, i) for i, path in enumerate(PATHS)}
    if shapes_only:
        parameters = jax.eval_shape(lambda: parameters)
    trainable, frozen = split(
        parameters, groups(Partition(rules=(freeze("stage_0.*"), train("stage_1.*|head.*"))), parameters)
    )
    assert set(frozen) == set(PATHS[:2])
    assert set(trainable) == set(PATHS[2:])
    merged = merge(trainable, frozen)
    assert all(merged[path] is parameters[path] for path in PATHS)


def test_a_parameter_may_be_in_one_dict_only():
    with pytest.raises(ValueError, match="a cannot be trainable and frozen"):
        merge({"a": 1}, {"a": 2})
    with pytest.raises(KeyError, match="b"):
        split({"b": 1}, {"a": "train"})


def test_decay_is_for_kernels_and_embeddings():
    decayed = [
        path
        for path in ("head/kernel", "kernel", "tokens/embedding", "head/bias", "norm/scale", "kernel/bias")
        if is_kernel(path)
    ]
    assert decayed == ["head/kernel", "kernel", "tokens/embedding"]


def test_a_partition_survives_json():
    partition = Partition(rules=(freeze("a"), train("b")))
    assert from_json(to_json(partition), Partition) == partition


def test_numbers_of_layers_may_be_left_out_of_what_is_not_decayed():
    paths = ["stem/norm/scale", "stage_0/norm_0/scale", "stage_0/norm_11/scale", "stage_0/norms/scale", "norm_0/bias"]
    assert undecayed(("norm/scale",), paths) == set(paths[:3])
    assert undecayed(("norm_0/scale", "bias"), paths) == {paths[1], paths[4]}
    with pytest.raises(UserError, match="'norm/scale' and 'norm_0/scale' both match"):
        undecayed(("norm/scale", "norm_0/scale"), paths)


def test_where_nothing_is_near_the_layers_are_named():
    paths = [f"Conv_{i}/{name}" for i in range(40) for name in ("kernel", "bias")]
    (line,) = problems(train("head/.*"), freeze(others()), paths=paths)
    assert line.endswith("matches no parameter's whole path")  # of so many
    (line,) = problems(train("head/.*"), freeze(others()), paths=[*paths[:12], "Dense_1/kernel"])
    assert line.endswith(f"there is {', '.join(f'Conv_{i}/.*' for i in range(6))}, Dense_1/.*")
