"""Where parameters sit is read off the network, and is the same whatever a stack is stored as."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from research.errors import UserError
from research.models import BERT, GPT, MLP, ConvNet, LeNet, SmallResNet, ViT, network
from research.parameters import (
    Partition,
    below,
    but,
    either,
    first,
    flatten,
    freeze,
    last,
    last_blocks,
    layerwise_decay,
    linear_probe,
    norm_and_bias,
    of_kind,
    onwards,
    others,
    train,
    unflatten,
)
from research.parameters.depth import blocks, heights, order_of_use
from research.parameters.partition import claims, groups, lay_out
from research.spec import Spec

PICTURES = Spec((16, 16, 1), 3, ("a", "b", "c"))
TOKENS = Spec((6,), 7, ("",) * 7, 7)


def order(model, spec=PICTURES):
    """The paths of a model's parameters in the order of use; its shapes and stacks."""
    net = network(model, spec)
    variables = jax.eval_shape(net.init, jax.random.key(0))
    state = {kind: tree for kind, tree in variables.items() if kind != "params"}
    parameters = flatten(variables["params"])

    def forward(parameters, state, inputs):
        return net.apply({"params": unflatten(parameters), **state}, inputs, train=False)[0]

    inputs = jax.ShapeDtypeStruct((1, *spec.shape), np.float32 if spec.tokens is None else np.int32)
    return order_of_use(forward, parameters, state, inputs, stacks=net.stacks), parameters, net.stacks


def layers(paths):
    return list(dict.fromkeys(path.split("/")[0] for path in paths))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    ("model", "spec", "expected"),
    [
        (
            ViT(depth=3, width=8, heads=2, patch=4),
            PICTURES,
            ["embedding", "class_token", "positions", "block_00", "block_01", "block_02", "norm", "head"],
        ),
        (
            GPT(depth=2, width=8, heads=2, context=6),
            TOKENS,
            ["tokens", "positions", "block_00", "block_01", "norm"],
        ),
        (
            BERT(depth=2, width=8, heads=2, context=6, head="tokens"),
            TOKENS,
            ["tokens", "positions", "segments", "norm", "block_00", "block_01", "dense", "head_norm", "bias"],
        ),
        (MLP(depth=3, width=8), PICTURES, ["block_00", "block_01", "block_02", "head"]),
    ],
)
def test_the_order_of_use_is_that_of_the_data_whatever_the_names_are(model, spec, expected, scan):
    found, parameters, stacks = order(dataclasses.replace(model, scan=scan), spec)
    assert layers(found) == expected
    assert len(set(found)) == len(found)
    assert bool(stacks) == scan
    assert sum(1 for path in found if path.startswith("block_01/")) == sum(
        1 for path in parameters if path.startswith("block/" if scan else "block_01/")
    )


def test_what_is_not_used_comes_last():
    class Net(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs):
            self.param("a_spare", nn.initializers.zeros, (2,))
            return nn.Dense(self.classes, name="head")(nn.Dense(2, name="z")(inputs.reshape(len(inputs), -1)))

    assert layers(order(Net())[0]) == ["z", "head", "a_spare"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ConvNet(features=(2, 2)), ["stage_0", "stage_1"]),
        (SmallResNet(depth=8), ["stage_0/block_0", "stage_1/block_0", "stage_2/block_0"]),
        (LeNet(), ["convolution_0", "convolution_1", "dense_0", "dense_1"]),
        (MLP(depth=0), []),
    ],
)
def test_blocks_are_numbered_layers_from_the_input_on(model, expected):
    assert list(blocks(order(model)[0])) == expected


def test_a_numbered_norm_beside_numbered_layers_is_no_block():
    order = [
        f"{layer}/{name}" for layer, name in (("Dense_0", "kernel"), ("Dense_0", "bias"), ("LayerNorm_0", "scale"))
    ]
    order += ["Dense_1/kernel", "LayerNorm_1/scale", "LayerNorm_1/bias", "head/kernel"]
    assert list(blocks(order)) == ["Dense_0", "Dense_1"]
    assert [heights(order)[path] for path in order] == [2, 2, 2, 1, 0, 0, 0]


def test_heights_count_blocks_from_the_end():
    found = heights(order(ViT(depth=3, width=8, heads=2, patch=4, scan=True))[0])
    by_layer = {path.split("/")[0]: height for path, height in found.items()}
    assert by_layer == {
        "embedding": 4,
        "class_token": 4,
        "positions": 4,
        "block_00": 3,
        "block_01": 2,
        "block_02": 1,
        "norm": 0,
        "head": 0,
    }
    between = heights(["stem/kernel", "block_0/a/kernel", "middle/kernel", "block_1/a/kernel", "head/kernel"])
    assert list(between.values()) == [3, 2, 2, 1, 0]
    assert set(heights(["a/kernel", "b/kernel"]).values()) == {0}


RESNET = SmallResNet(depth=8)
SELECTED = [
    (last(0), ["head"]),
    (last(1), ["stage_2", "head"]),
    (last(3), ["stage_0", "stage_1", "stage_2", "head"]),
    (first(0), ["stem"]),
    (first(2), ["stem", "stage_0", "stage_1"]),
    (below("stage_2"), ["stem", "stage_0", "stage_1"]),
    (onwards("stage_1"), ["stage_1", "stage_2", "head"]),
    (onwards("stage_1/block_0"), ["stage_1", "stage_2", "head"]),
    (but(onwards("stage_1"), "head/.*", onwards("stage_2")), ["stage_1"]),
    (either("stem/.*", last(0)), ["stem", "head"]),
]


@pytest.mark.parametrize(("selector", "expected"), SELECTED, ids=[str(selector) for selector, _ in SELECTED])
def test_selectors_pick_by_depth(selector, expected):
    found = order(RESNET)[0]
    picked = selector.select(found)
    assert layers(path for path in found if path in picked) == expected


def test_kinds_are_told_by_name():
    found = order(ViT(depth=2, width=8, heads=2, patch=4))[0]
    norms, biases, embeddings = (of_kind(kind).select(found) for kind in ("norm", "bias", "embedding"))
    assert {path.split("/")[-2] for path in norms} == {"norm", "norm_0", "norm_1"}
    assert {path.split("/")[-1] for path in norms} == {"scale", "bias"}
    assert biases == {path for path in found if path.endswith("/bias")}
    assert embeddings == {"embedding/kernel", "embedding/bias", "positions", "class_token"}
    assert of_kind("norm", "bias").select(found) == norms | biases


def test_norms_are_told_by_what_they_have_as_well():
    order = ["conv1/kernel", "bn1/scale", "bn1/bias", "ln2/scale", "dense/kernel", "dense/scale", "temperature"]
    assert of_kind("norm").select(order) == {"bn1/scale", "bn1/bias", "ln2/scale"}


def test_a_selector_of_what_is_not_there_is_told_with_the_nearest():
    found = order(RESNET)[0]
    with pytest.raises(UserError) as caught:
        claims(Partition(train(last(9)), freeze(below("stage_7")), train("haed/.*")), found)
    assert caught.value.problems[0] == (
        "partition: last(9) asks for 9 blocks; this model has 3 blocks, stage_0/block_0 to stage_2/block_0"
    )
    assert caught.value.problems[1].startswith("partition: below('stage_7'): no layer 'stage_7'; did you mean 'stage_")
    assert caught.value.problems[2].startswith("partition: train('haed/.*') matches no parameter's whole path")
    assert len(caught.value.problems) == 3


def test_two_selectors_may_not_pick_the_same():
    with pytest.raises(UserError, match=r"train\(last\(1\)\) and freeze\(first\(3\)\) both match"):
        claims(Partition(train(last(1)), freeze(first(3))), order(RESNET)[0])


STRATEGIES = {
    "probe": (linear_probe(), ["head"]),
    "last": (last_blocks(1), ["block_03", "norm", "head"]),
    "new head": (last_blocks(2, new_head=True), ["block_02", "block_03", "norm", "head"]),
}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_train_what_they_say(name, scan):
    partition, expected = STRATEGIES[name]
    found = order(ViT(depth=4, width=8, heads=2, patch=4, scan=scan))[0]
    trained = [path for path, group in groups(partition, found).items() if group == "train"]
    assert layers(trained) == expected


def test_norm_and_bias_trains_norms_biases_and_the_head():
    found = order(ViT(depth=2, width=8, heads=2, patch=4))[0]
    trained = {path for path, group in groups(norm_and_bias(new_head=True), found).items() if group == "train"}
    assert trained == {path for path in found if path.split("/")[-1] in ("bias", "scale")} | {"head/kernel"}


@pytest.mark.parametrize("scan", [False, True])
def test_layerwise_decay_cuts_no_stack(scan):
    found, parameters, stacks = order(ViT(depth=4, width=8, heads=2, patch=4, scan=scan))
    layout = lay_out(layerwise_decay(0.5), parameters, found, stacks=stacks)
    by_path = dict(layout.trained)
    if scan:
        assert dict(layout.points) == {"block": ()}
        assert by_path["block/dense_0/kernel"].heights == (4, 3, 2, 1)
    else:
        assert [by_path[f"block_0{i}/dense_0/kernel"].heights for i in range(4)] == [(4,), (3,), (2,), (1,)]
    assert by_path["head/kernel"].heights == (0,)
    assert by_path["positions"].heights == (5,)


@pytest.mark.parametrize(
    ("partition", "points"),
    [
        (Partition(train(last(2)), freeze(others())), (2,)),
        (Partition(freeze("block_02/.*"), train(others())), (2, 3)),
        (Partition(freeze("block_02/dense_0/.*"), train(others())), (2, 3)),
        (Partition(freeze(of_kind("kernel")), train(others())), ()),
        (Partition(train("block_0[01]/.*", learning_rate=0.1), train(others())), ()),
        (Partition(train("block_0[01]/.*", decay=0.1), train(others())), (2,)),
        (Partition(train("block_0[01]/.*", reinitialise=True), train(others())), (2,)),
    ],
)
def test_a_stack_is_cut_where_blocks_are_treated_apart_and_nowhere_else(partition, points):
    found, parameters, stacks = order(ViT(depth=4, width=8, heads=2, patch=4, scan=True))
    layout = lay_out(partition, parameters, found, stacks=stacks)
    assert dict(layout.points) == {"block": points}
    stored = {path for path, _ in layout.trained} | {path for path, _ in layout.frozen}
    ends = zip((0, *points), (*points, 4), strict=True)
    expected = {f"block[{start:02d}:{stop:02d}]" for start, stop in ends} if points else {"block"}
    assert {path.split("/")[0] for path in stored if path.startswith("block")} == expected
    assert {name for name, _ in layout.stacks} == expected
