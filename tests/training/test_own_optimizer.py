"""The example of an optax chain of one's own does what it says, with our loop and without it."""

import dataclasses
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.commandline.loading import load_config
from research.parameters import Partition, flatten, freeze, labels, linear_probe, mask, others, train, unflatten
from research.training import AdamW, Experiment, Finetuning
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.plan import boundary, make_plan
from research.training.step import batch_at, initial_state, train_chunk

FILE = Path(__file__).parents[2] / "experiments" / "own_optimizer.py"


@pytest.fixture(scope="module")
def example():
    """The functions of the example's file."""
    config = load_config(str(FILE), (Experiment,)).config
    return type(config.optimizer).transformation.__globals__


@pytest.mark.parametrize("how", ["by_labels", "by_masks"])
@pytest.mark.parametrize("nested", [False, True])
def test_training_by_optax_alone_is_training_by_the_split(tiny, example, how, nested):
    partition = Partition(train(others()), freeze("block_00/.*"))
    optimizer = AdamW(learning_rate=3e-3, weight_decay=1e-4)  # optax's default, but for which parameters it is about
    fields = {"optimizer": optimizer, "clip": 1.0, "finetuning": Finetuning(partition=partition, no_decay=())}
    experiment = tiny(**fields)
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = initial_state(plan, leaves)
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    parameters = jax.tree.map(jnp.copy, {**state.trainable, **frozen})
    before = jax.device_get(parameters)
    state, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [8]))

    tree = unflatten(parameters) if nested else parameters
    transformation = example[how](partition, tree)
    everything = dataclasses.replace(experiment, finetuning=None)
    whole = make_plan(everything, loaded)

    @jax.jit
    def step(tree, optimizer_state, number):
        batch = batch_at(whole, leaves, data, number, jnp.uint32(0))

        def loss(tree):
            variables = {"params": tree if nested else unflatten(tree)}
            logits, _ = whole.network(everything).apply(variables, batch["inputs"], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

        updates, optimizer_state = transformation.update(jax.grad(loss)(tree), optimizer_state, tree)
        return optax.apply_updates(tree, updates), optimizer_state

    optimizer_state = transformation.init(tree)
    for number in range(8):
        tree, optimizer_state = step(tree, optimizer_state, jnp.uint32(number))
    found = flatten(tree) if nested else tree
    for path, value in state.trainable.items():
        np.testing.assert_allclose(found[path], value, atol=1e-5, err_msg=path)
        assert not np.allclose(value, before[path], atol=1e-4)
    for path in frozen:
        np.testing.assert_array_equal(found[path], before[path])
    moments = [leaf.shape for leaf in jax.tree.leaves(optimizer_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [value.shape for value in state.trainable.values()])


def test_labels_and_masks_have_the_shape_of_the_parameters_and_name_the_rules():
    nested = {"head": {"kernel": 1, "bias": 2}, "stem": {"kernel": 3}, "scale": 4}
    partition = Partition(train("head/.*", learning_rate=0.5), freeze("stem/.*|scale"))
    first, second = map(str, partition.rules)
    assert first == "train('head/.*', learning_rate=0.5)"
    told = labels(partition, nested)
    assert told == {"head": {"kernel": first, "bias": first}, "stem": {"kernel": second}, "scale": second}
    trained = mask(partition, nested)
    assert trained == {"head": {"kernel": True, "bias": True}, "stem": {"kernel": False}, "scale": False}
    assert mask(partition, flatten(nested)) == flatten(trained)


def test_one_mask_alone_moves_what_is_frozen():
    """Why the example has two: should optax ever change this, it needs one."""
    partition, parameters = Partition(train("a"), freeze("b")), {"a": jnp.ones(2), "b": jnp.ones(2)}
    trained = mask(partition, parameters)
    one = optax.masked(optax.adam(0.1), trained)
    two = optax.chain(one, optax.masked(optax.set_to_zero(), jax.tree.map(operator.not_, trained)))
    for transformation, expected in ((one, 1), (two, 0)):
        update, _ = transformation.update(parameters, transformation.init(parameters), parameters)
        np.testing.assert_array_equal(update["b"], expected)


def test_the_chain_of_the_example_is_what_trains(example, tiny):
    experiment = tiny(optimizer=example["Belief"](), finetuning=Finetuning(partition=linear_probe()))
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = initial_state(plan, leaves)
    before = jax.device_get(state.trainable)
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    after, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [1]))
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adabelief(3e-3))
    batch = batch_at(plan, leaves, data, jnp.uint32(0), jnp.uint32(0))

    def loss(trainable):
        logits, _ = plan.network(experiment).apply(plan.merge(trainable, frozen, {}), batch["inputs"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    update, _ = theirs.update(jax.grad(loss)(before), theirs.init(before), before)
    for path, value in before.items():
        decay = 3e-3 * 1e-2 * value if path.endswith("kernel") else 0
        np.testing.assert_allclose(after.trainable[path], value + update[path] - decay, atol=1e-6, err_msg=path)
