"""Layers removed: which blocks are residual is found out, and what is left is what it is said to be."""

import itertools

import jax
import numpy as np
import pytest

from research.data.base import Description, Normalisation, Split
from research.deployment.trained import Trained
from research.explanation.looking import apply, layers_of
from research.explanation.neighbours import nearest, nearest_training
from research.explanation.removal import removables, sentence, without_each
from research.explanation.sanity import check, correlation, doubtful, late, outlines, stages
from research.models import BERT, MLP, ConvNet, SmallResNet, ViT
from research.models.base import network
from research.parameters import paths
from research.spec import Spec

PICTURES = Spec((4, 4, 1), 3, ("a", "b", "c"))
TOKENS = Spec((6,), 3, ("a", "b", "c"), tokens=9)


def untrained(model, spec=PICTURES, seed=0):
    variables = jax.jit(network(model, spec).init)(jax.random.key(seed))
    normalisation = None if spec.tokens else Normalisation(1.0, np.zeros(1, np.float32), np.ones(1, np.float32))
    data = Description(spec, normalisation, "image", None, None, (20,))
    params = paths.flatten(variables.pop("params"))
    return Trained(model, data, params, paths.flatten(variables), {})


def split(count=20, seed=0):
    random = np.random.default_rng(seed)
    return Split(random.normal(size=(count, 4, 4, 1)).astype(np.float32), random.integers(0, 3, count))


@pytest.mark.parametrize(
    "model, spec, expected",
    [
        (ConvNet(features=(4, 6)), PICTURES, {"mean"}),
        (ViT(depth=2, width=8, heads=2, patch=2), PICTURES, {"mean", "identity"}),
        (BERT(depth=2, width=8, heads=2, context=6), TOKENS, {"identity"}),
        (SmallResNet(depth=8), PICTURES, {"mean", "identity"}),
    ],
)
def test_blocks_that_hand_on_their_input_are_residual(model, spec, expected):
    found = removables(untrained(model, spec))
    assert {each.how for each in found} == expected
    blocks = [each.layer for each in found if each.how == "identity" and "block" in each.layer]
    assert bool(blocks) == ("identity" in expected)
    if isinstance(model, ViT | BERT):
        assert blocks == ["block_00", "block_01"]
    assert "head" not in {each.layer for each in found}


def test_a_layer_that_gives_as_much_as_it_takes_is_skipped():
    found = removables(untrained(ConvNet(features=(4,), convolutions=2)))
    assert [tuple(each) for each in found] == [
        ("stage_0/convolution_0", "mean"),
        ("stage_0/convolution_1", "identity"),
    ]


def test_the_heads_of_tasks_are_not_removed():
    spec = Spec((4, 4, 1), 5, tuple("abcde"), None, (("one", 2), ("two", 3)))
    data = untrained(MLP(depth=1, width=4)).data._replace(spec=spec)
    variables = jax.jit(network(MLP(depth=2, width=4), spec).init)(jax.random.key(0))
    trained = Trained(MLP(depth=2, width=4), data, paths.flatten(variables["params"]), {}, {})
    assert [each.layer for each in removables(trained)] == ["block_00/dense", "block_01/dense"]


def test_without_a_block_is_the_network_with_its_output_put_in_the_place():
    trained, examples = untrained(ViT(depth=2, width=8, heads=2, patch=2)), split()
    rows = without_each(trained, split(seed=1), examples, np.arange(20))
    assert rows[0]["how"] == "whole" and [row["layer"] for row in rows[1:]] == ["embedding", "block_00", "block_01"]
    shallow = {path: value for path, value in trained.parameters.items() if not path.startswith("block_01")}
    one = trained._replace(model=ViT(depth=1, width=8, heads=2, patch=2))
    logits, _ = apply(one, shallow, examples.inputs)
    assert rows[3]["accuracy"] == pytest.approx((np.argmax(logits, 1) == examples.labels).mean())


def test_a_layer_that_gives_its_mean_tells_nothing_of_the_example():
    trained = untrained(MLP(depth=2, width=6))
    rows = without_each(trained, split(seed=1), split(), np.arange(20))
    (row,) = (row for row in rows if row["layer"] == layers_of(trained)[0].path)
    shares = np.bincount(split().labels, minlength=3) / 20
    assert row["how"] == "mean" and any(np.isclose(row["accuracy"], shares))  # one answer for all
    assert row["cuts"]


def test_what_has_a_way_around_it_cuts_nothing_off():
    rows = without_each(untrained(ViT(depth=2, width=8, heads=2, patch=2)), split(seed=1), split(), np.arange(20))
    assert [(row["layer"], row["cuts"]) for row in rows[1:]] == [
        ("embedding", True),
        ("block_00", False),
        ("block_01", False),
    ]


def test_what_is_said_names_what_can_be_spared():
    whole = {"layer": "", "how": "whole", "accuracy": 0.9}
    lost = {"layer": "stem", "how": "mean", "difference": -0.5, "low": -0.6, "high": -0.4}
    spared = {"layer": "block_1", "how": "identity", "difference": -0.001, "low": -0.01, "high": 0.01}
    assert "1 can be spared one at a time: block_1" in sentence([whole, lost, spared])
    assert "stem" in sentence([whole, lost]) and "none of 1" in sentence([whole, lost])
    cut = {**lost, "cuts": True}
    assert "stem" not in sentence([whole, cut, spared]) and "of 1 blocks and layers" in sentence([whole, cut, spared])
    assert "no way around 1 other, of which" in sentence([whole, cut, spared])
    assert "no way around 2 others, of which" in sentence([whole, cut, cut, spared])
    assert "no way around" not in sentence([whole, lost, spared])
    assert "says nothing of how much of the depth is used" in sentence([whole, cut])


# ---------------------------------------------------------------------------------------------------------------------
# Shuffled weights, and neighbours


def test_stages_go_from_the_last_layer_to_all():
    trained = untrained(MLP(depth=3, width=5))
    found = stages(trained)
    changed = [
        {path for path in trained.parameters if not np.array_equal(mixed[path], trained.parameters[path])}
        for _, mixed in found
    ]
    kernels = [{path for path in each if path.endswith("kernel")} for each in changed]
    assert kernels[0] == {"head/kernel"} and all(a < b for a, b in itertools.pairwise(kernels))
    assert len(kernels[-1]) == len(layers_of(trained))


def test_what_depends_on_the_weights_changes_and_what_does_not_is_doubted():
    trained, inputs = untrained(MLP(depth=2, width=8)), split(6).inputs

    def edges(parameters):
        return inputs[..., 0]

    def learned(parameters):
        weights = np.asarray(parameters["head/kernel"]).ravel()  # whose order counts
        return np.random.default_rng(int(abs(weights @ np.arange(weights.size)) * 1e6) % 2**31).normal(size=(6, 4, 4))

    found = check(trained, {"edges": edges, "learned": learned, "outline": lambda p: inputs[..., 0] * learned(p)[:1]})
    assert doubtful(found) == ["edges"] and "learned" not in outlines(found)
    assert late(found) == []
    found["first"] = [{**row, "correlation": value} for row, value in zip(found["edges"], (1, 0.9, 0), strict=False)]
    assert late(found) == ["first"]
    assert all(row["correlation"] == pytest.approx(1) for row in found["edges"])


def test_correlations_are_scipys():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    one, other = random.normal(size=(3, 5, 5)), random.normal(size=(3, 5, 5)).round(1)
    expected = np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)])
    assert correlation(one, other) == pytest.approx(expected)
    assert correlation(one, np.zeros_like(one)) is None


def test_neighbours_are_scikit_learns():
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(0)
    own, known = random.normal(size=(4, 6)), random.normal(size=(50, 6))
    places, distances = nearest(own, known, 3)
    theirs, expected = NearestNeighbors(n_neighbors=3).fit(known).kneighbors(own)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(distances / distances[0, 0], theirs / theirs[0, 0], rtol=1e-6)


def test_a_training_example_is_its_own_nearest_neighbour():
    trained, train = untrained(MLP(depth=2, width=8)), split()
    found = nearest_training(trained, train, train.inputs[3:6], train.labels[3:6], count=2)
    assert found.examples[:, 0].tolist() == [3, 4, 5] and found.layer == "head"
    np.testing.assert_allclose(found.distances[:, 0], 0, atol=1e-3)
