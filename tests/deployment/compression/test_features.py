"""Structured pruning: what belongs together is cut together, and what makes no difference changes nothing."""

import numpy as np
import pytest

from research.deployment.compression import FeaturePruning, Retraining
from research.deployment.compression.connections import groups
from research.deployment.compression.features import plan, shapes, shrink, sizes_of
from research.inspection.matching import size
from research.models import MLP, ConvNet, SeparableNet, ViT
from research.training import steps

PLAIN = ConvNet(features=(6, 8), convolutions=2, hidden=(10,), norm="batch", kernel_size=3)


def places(trained):
    return {each.place: [group.makers for group in each.groups] for each in sizes_of(trained)}


def test_layers_that_follow_one_another_are_found(make):
    found = {
        group.makers: {layer: (owners >= 0).sum() for layer, owners in group.takers.items()}
        for group in groups(make(PLAIN))
    }
    assert found == {
        ("stage_0/convolution_0",): {"stage_0/norm_0": 6, "stage_0/convolution_1": 6},
        ("stage_0/convolution_1",): {"stage_0/norm_1": 6, "stage_1/convolution_0": 6},
        ("stage_1/convolution_0",): {"stage_1/norm_0": 8, "stage_1/convolution_1": 8},
        ("stage_1/convolution_1",): {"stage_1/norm_1": 8, "dense_0": 32},  # of four positions
        ("dense_0",): {"head": 10},
    }


def test_features_of_positions_that_are_side_by_side_are_told_apart(make):
    (last,) = [group for group in groups(make(PLAIN)) if group.makers == ("stage_1/convolution_1",)]
    np.testing.assert_array_equal(last.takers["dense_0"], np.tile(np.arange(8), 4))


def test_a_field_is_about_the_layers_that_it_makes_narrower(make):
    assert places(make(PLAIN)) == {
        ("features", 0): [("stage_0/convolution_0",), ("stage_0/convolution_1",)],
        ("features", 1): [("stage_1/convolution_0",), ("stage_1/convolution_1",)],
        ("hidden", 0): [("dense_0",)],
    }


def test_layers_of_a_residual_stream_lose_their_features_together(make):
    blocks = ("block_00/dense", "block_01/dense", "block_02/dense")
    assert places(make(MLP(depth=3, width=6, residual=True))) == {("width", None): [blocks]}
    assert places(make(MLP(depth=3, width=6))) == {("width", None): [(block,) for block in blocks]}


def without(trained, group, features):
    """The network with some features of a group 0 from the beginning to the end."""
    parameters = {path: np.array(array) for path, array in trained.parameters.items()}
    state = {path: np.array(array) for path, array in trained.model_state.items()}
    for maker in group.makers:
        for name in ("kernel", "bias"):
            if f"{maker}/{name}" in parameters:
                parameters[f"{maker}/{name}"][..., features] = 0
    for taker in group.takers:
        if f"{taker}/kernel" not in parameters:
            for name in ("scale", "bias"):
                parameters[f"{taker}/{name}"][features] = 0
    return trained._replace(parameters=parameters, model_state=state)


@pytest.mark.parametrize(
    "model",
    [
        PLAIN,
        ConvNet(features=(6, 8), convolutions=2, residual=True, norm="batch", head="average"),
        MLP(depth=3, width=6),
        MLP(depth=3, width=12, residual=True, norm="batch"),
        SeparableNet(depth=18, width=4, stem_stride=1),
    ],
    ids=lambda model: f"{type(model).__name__}{'-residual' * getattr(model, 'residual', False)}",
)
def test_cutting_features_that_are_zero_changes_no_answer(make, answers, model):
    trained = make(model)
    shrinking = plan(trained, 0.6)
    for group, count in shrinking.groups:
        trained = without(trained, group, np.arange(group.features - count))
    smaller = shrink(trained, shrinking)
    assert {path: a.shape for path, a in {**smaller.parameters, **smaller.model_state}.items()} == shapes(
        smaller.model, trained.data.spec
    )
    np.testing.assert_allclose(answers(smaller), answers(trained), atol=1e-5)


def test_what_is_left_has_no_more_flops_than_asked_for_and_little_less(make, work_on, answers):
    trained = make(PLAIN)
    network = (
        FeaturePruning(flops=0.5, multiple=1, retraining=Retraining(duration=steps(2)))
        .compress(work_on(trained))
        .network
    )
    before, after = (size(each.model, trained.data.spec, "FLOPs") for each in (trained, network))
    assert 0.3 * before < after <= 0.5 * before
    assert np.isfinite(answers(network)).all()


def flops(trained, spec):
    return size(trained.model, spec, "FLOPs")


def test_in_stages_flops_fall_with_training_after_each(make, work_on, answers, monkeypatch):
    trained, seen = make(MLP(depth=3, width=12, residual=True, norm="batch")), []
    train = Retraining.train

    def watched(self, work, model, parameters, model_state):
        seen.append((size(model, trained.data.spec, "FLOPs"), parameters["head/bias"]))
        found, state = train(self, work, model, parameters, model_state)
        return found | {"head/bias": np.full_like(found["head/bias"], len(seen))}, state

    monkeypatch.setattr(Retraining, "train", watched)
    method = FeaturePruning(flops=0.4, multiple=1, stages=3, retraining=Retraining(duration=steps(2)))
    gradually = method.compress(work_on(trained))
    whole = flops(trained, trained.data.spec)
    found = [cost / whole for cost, _ in seen]
    assert len(found) == len(gradually.told["stages"]) == 3
    for share, stage in zip(found, (1, 2, 3), strict=True):
        assert share <= 0.4 ** (stage / 3)
    assert found[0] > found[1] > found[2] > 0.2
    assert [bias[0] for _, bias in seen[1:]] == [1, 2]  # what the stage before made of it
    assert gradually.network.model == plan(trained, 0.4).model
    assert np.isfinite(answers(gradually.network)).all()


def test_later_stages_cut_what_was_trained_and_are_exact_where_features_are_zero(make, work_on, answers):
    trained = make(PLAIN)
    for group, count in plan(trained, 0.4).groups:
        trained = without(trained, group, np.arange(group.features - count))
    method = FeaturePruning(flops=0.4, multiple=1, stages=3, retraining=None)
    network = method.compress(work_on(trained)).network
    assert flops(network, trained.data.spec) <= 0.4 * flops(trained, trained.data.spec)
    np.testing.assert_allclose(answers(network), answers(trained), atol=1e-5)


def test_what_a_norm_over_features_mixes_is_not_cut(make, work_on):
    (problem,) = FeaturePruning().unsuited(work_on(make(MLP(depth=2, width=6, norm="layer"))))
    assert "no field whose features could be cut" in problem


def test_the_hidden_features_of_a_transformer_can_be_cut(make, answers):
    trained = make(ViT(depth=1, width=8, heads=2, patch=4, expansion=4))
    shrinking = plan(trained, 0.9, 8)
    assert [(group.makers, count % 8) for group, count in shrinking.groups] == [(("block_00/dense_0",), 0)]
    smaller = shrink(trained, shrinking)
    assert smaller.model.expansion < 4 and np.isfinite(answers(smaller)).all()


def test_too_few_flops_are_refused(make, work_on):
    (problem,) = FeaturePruning(flops=0.001).unsuited(work_on(make(PLAIN)))
    assert "cannot be cut to 0.1 % of its FLOPs in multiples of 8 features" in problem
