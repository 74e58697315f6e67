"""A step computes what the definition says, compiles once, and leaves alone what it should."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import override
from research.data import order
from research.data.augmentation import Augmentation
from research.models import MLP
from research.parameters.partition import Partition, freeze, train
from research.training import SGD, AdamW, CrossEntropy, Momentum
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.plan import boundary, make_plan, replicate
from research.training.state import as_flat, from_flat
from research.training.step import Data, batch_at, initial_state, nonfinite_paths, train_chunk


def begin(experiment):
    """Everything that a chunk takes."""
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    leaves = boundary(experiment)
    state, frozen = replicate(plan, initial_state(plan, leaves))
    return plan, leaves, frozen, state, to_device(plan, loaded.splits["train"], loaded.normalisation)


def chunk(plan, leaves, frozen, state, data, steps):
    """A chunk of one window, and what is logged of it."""
    state, logged = train_chunk(plan, leaves, frozen, state, data, lengths(0, [steps]))
    return state, {name: values[0] for name, values in logged.items()}


def run(experiment, chunks=(5,)):
    """The state after chunks of the given lengths, and what was logged of the last."""
    plan, leaves, frozen, state, data = begin(experiment)
    for count in chunks:
        state, logged = chunk(plan, leaves, frozen, state, data, jnp.uint32(count))
    return state, logged


def assert_same(a, b, rtol=0.0):
    """Bit for bit, or to rounding."""
    a, b = as_flat(a), as_flat(b)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(np.asarray(a[key]), np.asarray(b[key]), rtol=rtol, atol=rtol, err_msg=key)


def test_steps_equal_softmax_regression_worked_out_in_float64(tiny, affine):
    experiment = tiny(model=affine, optimizer=SGD(learning_rate=0.3), objective=CrossEntropy(l2=0.01))
    loaded = experiment.data.load()
    _, _, _, state, _ = begin(experiment)
    kernel, bias = (np.asarray(state.trainable[f"head/{name}"], np.float64) for name in ("kernel", "bias"))
    split = loaded.splits["train"]
    for step in range(5):
        index = order.indices(0, step, batch_size=16, examples=len(split))
        x = (split.inputs[index].astype(np.float64) - 0.1) / 1.5
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        error = (p - np.eye(3)[split.labels[index]]) / 16
        kernel, bias = kernel - 0.3 * (x.T @ error + 0.01 * kernel), bias - 0.3 * error.sum(0)
    state, _ = run(experiment)
    np.testing.assert_allclose(state.trainable["head/kernel"], kernel, atol=2e-6)
    np.testing.assert_allclose(state.trainable["head/bias"], bias, atol=2e-6)


def test_no_leaf_causes_a_second_trace(tiny):
    traces = []

    class Counting(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs):
            traces.append(1)
            return nn.Dense(self.classes, name="head")(inputs)

    base = tiny(
        model=Counting(),
        optimizer=AdamW(learning_rate=0.1, weight_decay=0.1),
        objective=CrossEntropy(label_smoothing=0.1, l1=0.1, l2=0.1),
        clip=1.0,
        average=0.9,
    )
    run(base)
    first = len(traces)
    assert first > 0
    for path, value in (
        ("optimizer.learning_rate", 1),
        ("optimizer.learning_rate", np.float32(0.3)),
        ("optimizer.weight_decay", 0.2),
        ("objective.label_smoothing", 0.2),
        ("objective.l1", 0.2),
        ("objective.l2", 0.0),
        ("clip", 2),
        ("average", 0.5),
        ("seed", 2**32 - 1),
        ("data_seed", 3),
        ("name", "another"),
        ("log_every", "7 steps"),
    ):
        run(override(base, path, value))
        # `make_plan` and `initial_state` of each run look at the model's shapes; the chunk must not
    plan, leaves, frozen, state, data = begin(base)
    before = len(traces)
    for path, value in (("optimizer.learning_rate", 7), ("optimizer.weight_decay", 0.3), ("seed", 5), ("clip", 9)):
        leaves = boundary(override(base, path, value))
        state, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(3))
    assert len(traces) == before


def test_dropout_momentum_and_augmentation_strength_compile_once(tiny):
    from research.data import Digits
    from research.models import ConvNet

    base = tiny(
        data=Digits(),
        model=ConvNet(features=(2,), hidden=(4,), dropout=0.1),
        augmentation=Augmentation(rotation=5.0, shift=1.0),
        optimizer=Momentum(momentum=0.9),
    )
    plan, _, frozen, state, data = begin(base)
    train_chunk._clear_cache()
    for changed in (
        base,
        override(base, "model.dropout", 0.5),
        override(base, "augmentation.rotation", 9.0),
        override(base, "augmentation.shift", 0.0),
        override(base, "optimizer.momentum", 0.1),
    ):
        state, logged = chunk(plan, boundary(changed), frozen, state, data, jnp.uint32(2))
        assert np.isfinite(logged["loss"])
    assert train_chunk._cache_size() == 1
    with_none = override(base, "model.dropout", None)
    chunk(make_plan(with_none, base.data.load()), boundary(with_none), frozen, state, data, jnp.uint32(1))
    assert train_chunk._cache_size() == 2  # absence is structure: the check above can fail


def test_a_chunk_of_steps_is_the_steps_one_by_one(tiny):
    experiment = tiny(model=MLP(depth=2, width=8, dropout=0.3), optimizer=AdamW(), average=0.9)
    together, _ = run(experiment, chunks=(7,))
    apart, logged = run(experiment, chunks=(1, 2, 1, 3))
    assert_same(together, apart)
    plan, leaves, frozen, state, data = begin(experiment)
    windows, rows = train_chunk(plan, leaves, frozen, state, data, jnp.array([1, 2, 1, 3, 0, 0], jnp.uint32))
    assert_same(together, windows)
    assert len(jax.tree.leaves(rows)) == 1  # one array is fetched, whatever is logged
    assert {name: values[3] for name, values in rows.items()} == logged
    np.testing.assert_array_equal(rows["count"], [16, 32, 16, 48, 0, 0])


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tiny):
    whole, a = run(tiny(clip=1.0), chunks=(4,))
    parts, b = run(tiny(clip=1.0, accumulate=4), chunks=(4,))
    for path, value in whole.trainable.items():
        np.testing.assert_allclose(parts.trainable[path], value, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    assert a["count"] == b["count"] == 64


def test_clipping_bounds_the_update_and_leaves_small_gradients_alone(tiny):
    _, logged = run(tiny(clip=1e-3, optimizer=SGD(learning_rate=1.0)), chunks=(1,))
    norm = np.sqrt(sum(np.square(v) for k, v in logged.items() if k.startswith("update_norm/")))
    np.testing.assert_allclose(norm, 1e-3, rtol=1e-3)
    assert logged["gradient_norm"] > 1e-2
    free, _ = run(tiny(), chunks=(3,))
    loose, _ = run(tiny(clip=1e6), chunks=(3,))
    for path, value in free.trainable.items():
        np.testing.assert_allclose(loose.trainable[path], value, rtol=1e-6)


def test_average_follows_its_recursion(tiny):
    experiment = tiny(average=0.3)
    plan, leaves, frozen, state, data = begin(experiment)
    expected = {path: np.asarray(value, np.float64) for path, value in state.trainable.items()}
    for step in range(6):
        state, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(1))
        decay = min(0.3, (1 + step) / (10 + step))
        expected = {p: decay * expected[p] + (1 - decay) * np.asarray(state.trainable[p]) for p in expected}
    for path, value in state.average["trainable"].items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6)
    assert state.used()[0] is state.average["trainable"]


@pytest.mark.parametrize("optimizer", [SGD(), AdamW(weight_decay=0.1)])
def test_frozen_parameters_are_no_part_of_the_state(tiny, optimizer):
    experiment = tiny(partition=Partition(rules=(train("head/.*"), freeze("block_.*"))), optimizer=optimizer)
    plan, leaves, frozen, state, data = begin(experiment)
    before = {path: np.array(value) for path, value in frozen.items()}
    state, logged = chunk(plan, leaves, frozen, state, data, jnp.uint32(5))
    assert set(state.trainable) == {"head/kernel", "head/bias"}
    assert not any("block_" in key for key in as_flat(state))
    assert not any("block_" in key for key in logged)
    for path, value in frozen.items():
        assert value.tobytes() == before[path].tobytes()


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(tiny, affine):
    experiment = tiny(model=affine, optimizer=AdamW(), average=0.9)
    plan, leaves, frozen, state, data = begin(experiment)
    inputs = np.array(data.inputs)
    inputs[order.indices(0, 2, batch_size=16, examples=50)[5]] = np.inf
    data = data._replace(inputs=jnp.asarray(inputs))
    seen = [np.isinf(inputs[order.indices(0, s, batch_size=16, examples=50)]).any() for s in range(6)]
    states = [jax.tree.map(np.array, state)]
    for _ in range(6):
        state, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(1))
        states.append(jax.tree.map(np.array, state))
    in_row = 0
    for s, bad in enumerate(seen):
        in_row = in_row + 1 if bad else 0
        assert states[s + 1].skipped_in_row == in_row
        assert states[s + 1].step == s + 1
        pairs = zip(
            jax.tree.leaves((states[s].trainable, states[s].optimizer_state, states[s].average)),
            jax.tree.leaves((states[s + 1].trainable, states[s + 1].optimizer_state, states[s + 1].average)),
            strict=True,
        )
        same = [a.tobytes() == b.tobytes() for a, b in pairs]
        assert all(same) if bad else not all(same)
    assert states[-1].skipped == sum(seen) > 0
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(states[-1]))


def test_nonfinite_gradients_are_named(tiny, affine):
    experiment = tiny(model=affine)
    plan, leaves, frozen, state, data = begin(experiment)
    data = data._replace(inputs=data.inputs.at[:].set(jnp.nan))
    state, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(2))
    bad = nonfinite_paths(plan, leaves, frozen, state, data, state.step - 1)
    assert {path for path, value in bad.items() if value} == {"head/kernel", "head/bias"}


def test_bfloat16_computes_low_and_keeps_parameters_in_float32(tiny):
    _, a = run(tiny(), chunks=(5,))
    low, b = run(tiny(precision="bfloat16"), chunks=(5,))
    assert all(value.dtype == jnp.float32 for value in jax.tree.leaves(low.trainable))
    np.testing.assert_allclose(b["loss"], a["loss"], rtol=0.05)
    assert float(b["loss"]) != float(a["loss"])


def test_the_seed_of_the_data_orders_examples_and_the_other_does_not(tiny):
    def batch(**seeds):
        experiment = tiny(**seeds)
        plan, leaves, _, _, data = begin(experiment)
        return np.asarray(batch_at(plan, leaves, data, jnp.uint32(3), jnp.uint32(0))["inputs"])

    np.testing.assert_array_equal(batch(seed=1), batch(seed=2))
    assert not np.array_equal(batch(data_seed=1), batch(data_seed=2))


def test_norms_by_layer_are_those_of_the_last_step(tiny):
    experiment = tiny(norms="activations")
    plan, leaves, frozen, state, data = begin(experiment)
    state, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(2))
    before = {path: np.array(value, np.float64) for path, value in state.trainable.items()}
    state, logged = chunk(plan, leaves, frozen, state, data, jnp.uint32(1))
    after = {path: np.array(value, np.float64) for path, value in state.trainable.items()}
    for layer in ("block_00/dense", "head"):
        names = [f"{layer}/kernel", f"{layer}/bias"]
        update = np.sqrt(sum(np.square(after[n] - before[n]).sum() for n in names))
        size = np.sqrt(sum(np.square(after[n]).sum() for n in names))
        np.testing.assert_allclose(logged[f"update_norm/{layer}"], update, rtol=1e-4)
        np.testing.assert_allclose(logged[f"parameter_norm/{layer}"], size, rtol=1e-5)
        np.testing.assert_allclose(logged[f"gradient_norm/{layer}"], update / 0.1, rtol=1e-4)
        assert logged[f"activation_rms/{layer}"] > 0


@pytest.mark.devices(8)
def test_eight_devices_compute_what_one_does(tiny):
    fields = {"model": MLP(depth=2, width=8, dropout=0.2, norm="batch"), "optimizer": AdamW(), "average": 0.9}
    one, a = run(tiny(**fields), chunks=(5,))
    eight, b = run(tiny(**fields, **{"devices": 8}), chunks=(5,))
    assert len(eight.trainable["head/kernel"].sharding.device_set) == 8
    for key, value in as_flat(one).items():
        np.testing.assert_allclose(np.asarray(as_flat(eight)[key]), np.asarray(value), atol=2e-6, err_msg=key)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


def test_streamed_batches_give_the_steps_of_arrays_in_memory(tiny):
    experiment = tiny(optimizer=AdamW())
    plan, leaves, frozen, state, data = begin(experiment)
    inputs, labels = np.asarray(data.inputs), np.asarray(data.labels)
    streamed = dataclasses.replace(plan, streamed=True)
    index = np.stack([order.indices(0, s, batch_size=16, examples=50) for s in range(6)])
    batches = Data(jnp.asarray(inputs[index]), jnp.asarray(labels[index]), data.normalisation)
    a, _ = chunk(streamed, leaves, frozen, begin(experiment)[3], batches, jnp.uint32(6))
    b, _ = chunk(plan, leaves, frozen, state, data, jnp.uint32(6))
    assert_same(a, b, rtol=1e-6)  # two programs


def test_a_state_survives_being_made_flat(tiny):
    _, _, _, state, _ = begin(tiny(optimizer=AdamW(), average=0.5))
    again = from_flat({k: np.asarray(v) for k, v in as_flat(state).items()}, jax.eval_shape(lambda: state))
    assert_same(state, again)
    assert jax.tree.structure(state) == jax.tree.structure(again)
    assert "trainable/head/kernel" in as_flat(state)
