"""What became of layers: trees that are changed on purpose, and must be told so."""

import jax
import numpy as np
import pytest
from rich.console import Console

from research.inspection.differences import differences, rows, show, totals
from research.models import GPT, MLP, LeNet, network
from research.parameters import counts, flatten
from research.spec import Spec

DIGITS = Spec((28, 28, 1), 10, ())
BYTES = Spec((8,), 256, (), 256)


def shapes(model, spec=DIGITS):
    return flatten(jax.eval_shape(network(model, spec).init, jax.random.key(0))["params"])


def trained(model, spec=DIGITS, seed=0):
    return jax.device_get(flatten(network(model, spec).init(jax.random.key(seed))["params"]))


def told(changes):
    return {(change.what, change.before, change.after) for change in changes if change.what != "same"}


def renamed(parameters, **names):
    def path(path):
        for old, new in names.items():
            path = path.replace(old, new)
        return path

    return {path(key): leaf for key, leaf in parameters.items()}


@pytest.fixture(params=[shapes, trained])
def made(request):
    """Parameters as shapes, and as numbers."""
    return request.param


def test_nothing_became_of_the_same(made):
    changes = differences(made(MLP(depth=3)), made(MLP(depth=3)))
    assert told(changes) == set()
    assert [change.after for change in changes] == ["block_00/dense", "block_01/dense", "block_02/dense", "head"]


def test_trees_may_be_nested_or_flat():
    nested = jax.eval_shape(network(MLP(), DIGITS).init, jax.random.key(0))["params"]
    assert told(differences(nested, shapes(MLP()))) == set()


def test_deeper_is_new_and_shallower_gone(made):
    few, many = made(MLP(depth=2)), made(MLP(depth=4))
    assert told(differences(few, many)) >= {("new", None, "block_02/dense"), ("new", None, "block_03/dense")}
    assert told(differences(many, few)) >= {("gone", "block_02/dense", None), ("gone", "block_03/dense", None)}


def test_wider_is_resized_where_it_stands():
    changes = differences(shapes(MLP(depth=1, width=16)), shapes(MLP(depth=1, width=32)))
    assert told(changes) == {("resized", "block_00/dense", "block_00/dense"), ("resized", "head", "head")}
    first = changes[0]
    assert (first.shapes_before["kernel"], first.shapes_after["kernel"]) == ((784, 16), (784, 32))
    assert (first.parameters_before, first.parameters_after) == (785 * 16, 785 * 32)


def test_another_name_is_renamed_and_another_place_moved(made):
    model = MLP(depth=3, width=8, norm="layer")
    before = made(model)
    assert told(differences(before, renamed(before, head="classifier"))) == {("renamed", "head", "classifier")}
    changes = differences(before, renamed(before, block="layer"))
    assert told(changes) == {
        ("renamed", f"block_0{i}/{layer}", f"layer_0{i}/{layer}") for i in range(3) for layer in ("dense", "norm")
    }
    moved = renamed(before, **{"head": "top/logits/dense"})
    assert told(differences(before, moved)) == {("moved", "head", "top/logits/dense")}


def test_layers_of_one_shape_find_their_own_by_names_and_numbers():
    before = shapes(GPT(depth=12, width=8, heads=2, context=8), BYTES)
    changes = differences(before, renamed(before, block="layer", attention="attn"))
    for change in changes:
        assert change.after == renamed({change.before: 0}, block="layer", attention="attn").popitem()[0]


def test_names_count_more_than_the_order_in_which_layers_come():
    before = {f"block_{i}/{name}/kernel": np.empty((2, 2)) for i in (0, 1) for name in ("down", "up")}
    before = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in before.items()}
    after = dict(reversed(renamed(before, block="layer").items()))
    assert told(differences(before, after)) == {
        ("renamed", f"block_{i}/{name}", f"layer_{i}/{name}") for i in (0, 1) for name in ("down", "up")
    }


def test_trained_blocks_are_known_by_their_numbers_wherever_they_went():
    before = trained(MLP(depth=4, width=8))
    swapped = renamed(before, block_01="block_xx", block_02="block_01")
    swapped = renamed(swapped, block_xx="block_02")
    assert told(differences(before, swapped)) == {
        ("moved", "block_01/dense", "block_02/dense"),
        ("moved", "block_02/dense", "block_01/dense"),
    }
    inserted = renamed(before, block_03="block_04", block_02="block_03") | {
        "block_02/dense/kernel": np.ones((8, 8), np.float32),
        "block_02/dense/bias": np.ones(8, np.float32),
    }
    assert told(differences(before, inserted)) == {
        ("moved", "block_02/dense", "block_03/dense"),
        ("moved", "block_03/dense", "block_04/dense"),
        ("new", None, "block_02/dense"),
    }


def test_other_numbers_of_the_same_shapes_are_changed_not_moved():
    before, after = trained(MLP(depth=3, width=8)), trained(MLP(depth=3, width=8), seed=1)
    assert {what for what, *_ in told(differences(before, after))} == {"changed"}
    one = {**after, "block_01/dense/kernel": before["block_01/dense/kernel"]}
    assert told(differences(before, one)) == {
        ("changed", path, path) for path in ("block_00/dense", "block_02/dense", "head")
    }


def test_norms_that_hold_what_all_norms_do_at_the_start_stay_where_they_are():
    before = trained(MLP(depth=3, width=8, norm="layer"))
    after = {**before, "block_00/norm/scale": np.full(8, 2, np.float32), "block_02/norm/scale": np.arange(8.0)}
    assert told(differences(before, after)) == {
        ("changed", "block_00/norm", "block_00/norm"),
        ("changed", "block_02/norm", "block_02/norm"),
    }
    after |= {f"late/norm/{name}": before[f"block_00/norm/{name}"] for name in ("bias", "scale")}
    assert ("new", None, "late/norm") in told(differences(before, after))
    assert ("changed", "block_00/norm", "block_00/norm") in told(differences(before, after))


def test_another_kind_of_layer_at_a_path_is_gone_and_new(made):
    dense = {"layer/kernel": np.ones((3, 3)), "other/kernel": np.eye(3)}
    norm = {"layer/scale": np.ones(7), "other/kernel": np.eye(3)}
    assert told(differences(dense, norm)) == {("gone", "layer", None), ("new", None, "layer")}


def test_stacked_and_unrolled_are_the_same(made):
    unrolled = made(MLP(depth=4, width=8))
    stacked = {path: leaf for path, leaf in unrolled.items() if path.startswith(("block_00", "head"))}
    for name in ("kernel", "bias"):
        blocks = [unrolled[f"block_0{i}/dense/{name}"] for i in (1, 2, 3)]
        whole = jax.ShapeDtypeStruct((3, *blocks[0].shape), blocks[0].dtype)
        stacked[f"block/dense/{name}"] = np.stack(blocks) if made is trained else whole
    stack = {"block": range(1, 4)}
    assert told(differences(unrolled, stacked, stacks_after=stack)) == set()
    assert told(differences(stacked, unrolled, stacks_before=stack)) == set()
    assert len(told(differences(unrolled, stacked))) == 4


def test_every_layer_is_told_of_once_and_totals_are_the_counts():
    for a, b in ((MLP(depth=3), LeNet()), (LeNet(), MLP()), (MLP(depth=12, width=8), MLP(depth=3, norm="layer"))):
        before, after = shapes(a), shapes(b)
        changes = differences(before, after)
        for side, tree in (("before", before), ("after", after)):
            layers = [getattr(change, side) for change in changes if getattr(change, side)]
            assert sorted(layers) == sorted({path.rpartition("/")[0] for path in tree})
            assert totals(changes)[f"parameters_{side}"] == counts.total(tree).parameters


def test_equal_layers_share_a_row_and_the_table_fits_a_terminal():
    long = shapes(GPT(depth=12, width=8, heads=2, context=8), BYTES)
    changes = differences(shapes(GPT(depth=6, width=8, heads=2, context=16), BYTES), long)
    found = {row.after: row for row in rows(changes)}
    assert found["block_06..11/attention/query"].layers == 6
    assert found["block_06..11/attention/query"].parameters_after == 6 * (8 * 8 + 8)
    assert found["positions"].what == "resized"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(show(changes))
    text = capture.get()
    assert "block_06..11/attention/query x6" in text
    assert "embedding 16x8 -> 8x8" in text
    assert max(map(len, text.splitlines())) <= 80
    with console.capture() as capture:
        console.print(show(differences(long, renamed(long, block="layer"))))
    assert "-> layer_00..11/attention/key x12" in capture.get()
