"""Training by a partition is what it says: which parameters move and how, where they begin, what the rest costs."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.config import from_json, override, to_json, validate
from research.errors import UserError
from research.models import MLP
from research.parameters import (
    Partition,
    freeze,
    labels,
    last,
    last_blocks,
    layerwise_decay,
    linear_probe,
    norm_and_bias,
    others,
    read,
    train,
    views,
)
from research.training import SGD, AdamW, Experiment, Finetuning, Linear, Muon, Pretrained
from research.training.evaluation import to_device
from research.training.inspecting import inspect_experiment
from research.training.loop import lengths
from research.training.plan import boundary, make_plan, replicate
from research.training.state import as_flat
from research.training.step import batch_at, initial_state, train_chunk

DEEP = MLP(depth=4, width=4, residual=True)


def tuned(tiny, partition, **fields):
    """A tiny experiment with a partition, without a source."""
    tuning = {name: fields.pop(name) for name in ("source", "no_decay", "stay_close") if name in fields}
    return tiny(finetuning=Finetuning(partition=partition, **tuning), **fields)


def begin(experiment, source=None):
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = replicate(plan, initial_state(plan, leaves, source))
    return plan, leaves, frozen, state, to_device(plan, loaded.splits["train"], loaded.normalisation)


def trained(experiment, count=6, source=None):
    """All parameters by the paths of blocks before and after some steps."""
    plan, leaves, frozen, state, data = begin(experiment, source)
    stacks = plan.network(experiment).stacks

    def by_path(state):
        whole = plan.parameters(state.trainable, frozen)
        return {path: np.asarray(read(whole, path, stacks)) for path in views(whole, stacks)}

    before = by_path(state)
    state, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [count]))
    return before, by_path(state)


# ---------------------------------------------------------------------------------------------------------------------
# What a step does


CASES = {
    "multiples": (Partition(train("head/.*", learning_rate=3.0), train(others(), learning_rate=0.1)), {}),
    "frozen": (Partition(train(last(2)), freeze(others())), {}),
    "frozen kernels": (norm_and_bias(), {}),
    "by depth": (layerwise_decay(0.5), {}),
    "decay": (Partition(train("head/.*", decay=5.0), train(others(), decay=0.0)), {}),
    "no decay": (Partition(), {"no_decay": ("bias", "block_03/dense/kernel")}),
    "clip": (Partition(train("head/.*", clip=0.01), train(others())), {}),
    "clip of all": (Partition(train(last(2), learning_rate=0.5), freeze(others())), {"clip": 0.05}),
    "optimizer": (
        Partition(train("head/.*", optimizer=SGD(learning_rate=0.3)), train(others(), learning_rate=0.5)),
        {},
    ),
    "schedule": (Partition(train("head/.*", schedule=Linear(final=0.5)), train(others())), {}),
    "muon": (Partition(train(last(2), optimizer=Muon(learning_rate=0.02)), freeze(others())), {}),
}


def without_masked(transformation):
    """One of ours within `optax.partition`, which has something in the place of what is another group's."""

    def own(tree):
        return {path: value for path, value in tree.items() if not isinstance(value, optax.MaskedNode)}

    def update(gradient, state, parameters):
        direction, state = transformation.update(own(gradient), state, own(parameters))
        return {**gradient, **direction}, state

    return optax.GradientTransformation(lambda parameters: transformation.init(own(parameters)), update)


def by_optax(experiment, count):
    """The same training with the parameters unrolled, whole, and an optimizer of optax put together by labels."""
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, scan=False))
    plain = dataclasses.replace(experiment, finetuning=None, clip=None)
    plan, leaves, _, state, data = begin(plain)
    partition, tuning = experiment.rules, experiment.finetuning
    order = sorted(state.trainable, key=lambda path: (path.startswith("head"), path))
    rule_of = labels(partition, state.trainable, order)
    height = {path: 0 if path.startswith("head") else 4 - int(path[6:8]) for path in state.trainable}
    if tuning.no_decay is None:
        decayed = {path: path.endswith("kernel") for path in state.trainable}
    else:
        decayed = {path: not path.endswith(tuning.no_decay) for path in state.trainable}

    def transformation(rule, height):
        if rule.group == "freeze":
            return optax.set_to_zero()
        optimizer, schedule = rule.optimizer or experiment.optimizer, rule.schedule or experiment.schedule
        multiple = (1.0 if rule.learning_rate is None else rule.learning_rate) * (rule.by_depth or 1.0) ** height

        def rate(step):
            at = 1.0
            if isinstance(schedule, Linear):
                at = 1 + (schedule.final - 1) * step / 20
            return -optimizer.learning_rate * multiple * at

        share = 1.0 if rule.decay is None else rule.decay
        if isinstance(optimizer, AdamW):
            inner = optax.chain(
                optax.scale_by_adam(eps=1e-8),
                optax.add_decayed_weights(optimizer.weight_decay * share, lambda tree: {p: decayed[p] for p in tree}),
            )
        else:
            inner = without_masked(optimizer.transformation(decayed.__getitem__))
        return optax.chain(inner, optax.scale_by_schedule(rate))

    names = {path: f"{rule_of[path]} {height[path]}" for path in rule_of}
    rules = {str(rule): rule for rule in partition.rules}
    groups = {name: transformation(rules[rule_of[path]], height[path]) for path, name in names.items()}
    clips = {
        str(rule): optax.set_to_zero()
        if rule.group == "freeze"
        else optax.clip_by_global_norm(rule.clip or experiment.clip or 1e9)
        for rule in partition.rules
    }
    whole = optax.chain(optax.partition(clips, rule_of), optax.partition(groups, names))
    parameters, optimizer_state = state.trainable, whole.init(state.trainable)

    @jax.jit
    def step(parameters, optimizer_state, number):
        batch = batch_at(plan, leaves, data, number, jnp.uint32(0))

        def loss(parameters):
            variables = plan.merge(parameters, {}, {})
            logits, _ = plan.network(leaves).apply(variables, batch["inputs"], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

        updates, optimizer_state = whole.update(jax.grad(loss)(parameters), optimizer_state, parameters)
        return optax.apply_updates(parameters, updates), optimizer_state

    for number in range(count):
        parameters, optimizer_state = step(parameters, optimizer_state, jnp.uint32(number))
    return parameters


@pytest.mark.parametrize(("name", "scan"), [*((name, True) for name in CASES), ("frozen", False), ("clip", False)])
def test_training_by_a_partition_is_training_by_optax_partition(tiny, name, scan):
    partition, fields = CASES[name]
    optimizer = AdamW(learning_rate=0.02, weight_decay=0.3)
    experiment = tuned(tiny, partition, model=dataclasses.replace(DEEP, scan=scan), optimizer=optimizer, **fields)
    before, after = trained(experiment)
    expected = by_optax(experiment, 6)
    assert after.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(after[path], value, atol=2e-5, err_msg=path)
    plain = by_optax(tuned(tiny, Partition(), model=DEEP, optimizer=optimizer), 6)
    assert any(not np.allclose(expected[path], plain[path], atol=2e-4) for path in plain)  # it does say something
    unmoved = {path for path in after if after[path].tobytes() == before[path].tobytes()}
    rules = labels(partition, after, sorted(after, key=lambda path: (path.startswith("head"), path)))
    assert unmoved == {path for path, rule in rules.items() if rule.startswith("freeze")}


def test_no_multiple_causes_a_second_program(tiny):
    partition = Partition(
        train("head/.*", learning_rate=2.0, decay=0.5, clip=1.0),
        train("block_0[12]/.*", by_depth=0.5),
        freeze(others()),
    )
    base = tuned(tiny, partition, model=MLP(depth=3, width=4, scan=True), stay_close=None)
    plan, _, frozen, state, data = begin(base)
    train_chunk._clear_cache()
    for path, value in (
        ("rules.0.learning_rate", 0.1),
        ("rules.0.decay", 3.0),
        ("rules.0.clip", 0.2),
        ("rules.1.by_depth", 0.9),
    ):
        changed = override(base, f"finetuning.partition.{path}", value)
        assert make_plan(changed, base.data.load()) == plan
        state, _ = train_chunk(plan, boundary(changed), frozen, state, data, lengths(0, [1]))
    assert train_chunk._cache_size() == 1
    absent = override(base, "finetuning.partition.rules.0.decay", None)  # is structure: the check above can fail
    train_chunk(make_plan(absent, base.data.load()), boundary(absent), frozen, state, data, lengths(0, [1]))
    assert train_chunk._cache_size() == 2


def test_a_partition_that_says_nothing_of_its_own_is_the_program_without_one(tiny):
    """Bit for bit, and equation for equation."""
    programs = []
    for experiment in (
        tiny(optimizer=AdamW()),
        tuned(tiny, Partition(train("head/.*"), train(others())), optimizer=AdamW()),
    ):
        plan, leaves, frozen, state, data = begin(experiment)
        windows = lengths(0, [2])
        programs.append(
            str(jax.make_jaxpr(lambda *a, plan=plan: train_chunk(plan, *a))(leaves, frozen, state, data, windows))
        )
    assert programs[0] == programs[1]


# ---------------------------------------------------------------------------------------------------------------------
# What frozen costs


@pytest.mark.parametrize("scan", [False, True])
def test_frozen_blocks_cost_no_backward_pass_no_activations_and_no_optimizer(tiny, scan):
    model = MLP(depth=6, width=8, norm="layer", scan=scan)
    experiment = tuned(tiny, last_blocks(2), model=model, optimizer=AdamW())
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    found = inspect_experiment(experiment, plan, loaded)
    rows = {row.path: row for row in found.layers if row.parameters}
    for path, row in rows.items():
        if path.startswith(("block_00", "block_01", "block_02", "block_03")):
            assert (row.backward.multiply_adds, row.activation_bytes, row.optimizer_bytes, row.trainable) == (0,) * 4, (
                path
            )
        else:
            assert row.trainable == row.parameters
            assert row.optimizer_bytes >= 8 * row.parameters
    assert rows["block_05/dense"].backward.multiply_adds > 0
    shallow = tuned(tiny, last_blocks(2), model=dataclasses.replace(model, depth=3), optimizer=AdamW())
    less = inspect_experiment(shallow, make_plan(shallow, loaded), loaded)
    assert less.memory.activations == found.memory.activations
    state, _ = initial_state(plan, boundary(experiment))
    actual = sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimizer_state))
    assert found.memory.optimizer == actual


def test_the_state_holds_nothing_of_what_is_frozen(tiny):
    experiment = tuned(tiny, last_blocks(1), model=MLP(depth=4, width=8, scan=True, norm="batch"), average=0.9)
    plan, leaves, frozen, state, data = begin(experiment)
    assert not any("block_00" in key or "block[01:03]" in key for key in as_flat(state))
    assert "batch_stats/block_00/norm/mean" in frozen
    assert "batch_stats/block[01:03]/norm/var" in frozen
    assert set(state.model_state) == {"batch_stats/block[03:04]/norm/mean", "batch_stats/block[03:04]/norm/var"}
    before = jax.device_get(frozen), jax.device_get(state.model_state)
    state, logged = train_chunk(plan, leaves, frozen, state, data, lengths(0, [5]))
    assert all(np.asarray(frozen[path]).tobytes() == value.tobytes() for path, value in before[0].items())
    assert all(not np.array_equal(state.model_state[path], value) for path, value in before[1].items())
    assert not any("block_00" in name for name in logged if "norm/" in name)


# ---------------------------------------------------------------------------------------------------------------------
# What is said


def problems(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.problems


def test_all_that_is_wrong_with_a_partition_is_told_at_once(tiny):
    experiment = tuned(tiny, Partition(train("haed/.*"), freeze(last(9))), no_decay=("bais", "bias", ".*/bias"))
    lines = problems(lambda: make_plan(experiment, experiment.data.load()))
    assert [line.split("(")[0].split(":")[0] for line in lines] == ["partition"] * 2 + ["no_decay"] * 2
    assert "last(9) asks for 9 blocks" in lines[0]
    assert "did you mean 'head/.*'?" in lines[1]
    assert "ends in 'bais'; did you mean 'bias'?" in lines[2]
    assert "'bias' and '.*/bias' both match block_00/dense/bias" in lines[3]


def test_the_same_thing_may_not_be_said_twice(tiny):
    rule = train("head/.*", decay=0.5, clip=1.0)
    experiment = tuned(tiny, Partition(rule, train(others())), no_decay=("bias",))
    (line,) = problems(lambda: make_plan(experiment, experiment.data.load()))
    assert line.startswith(
        "no_decay: the weight decay of head/bias is said twice, here and by train('head/.*', decay=0.5"
    )
    twice = dataclasses.replace(experiment, clip=1.0, partition=linear_probe())
    own = train("head/.*", optimizer=SGD(), learning_rate=0.5)
    twice = override(twice, "finetuning.partition", Partition(own, train("block.*", clip=1.0)))
    lines = problems(lambda: validate(twice))
    assert lines == (
        "partition: fine-tuning has one too; say there which parameters are trained",
        f"finetuning.partition.rules.0.learning_rate: {own} says its learning rate twice, as a multiple, and by its "
        "own optimizer",
        "finetuning.partition.rules.1.clip: clipping is said twice, by train('block.*', clip=1.0) and by the "
        "experiment's clip",
    )
    assert problems(lambda: validate(tuned(tiny, Partition(), stay_close=0.1))) == (
        "finetuning.stay_close: to what? there is no source",
    )
    both = dataclasses.replace(tiny(), finetuning=Finetuning(interpolate=3, earlier=tiny().data))
    assert problems(lambda: validate(both)) == (
        "finetuning.interpolate: is about the source and the result, and there is no source",
        "finetuning.earlier: is about the source and the result, and there is no source",
    )


def test_what_is_frozen_has_no_rate():
    rule = dataclasses.replace(freeze("a"), learning_rate=0.1)
    assert problems(lambda: validate(rule)) == ("learning_rate: what is frozen is not trained, and has none",)


def test_fine_tuning_survives_json(tiny):
    partition = Partition(
        train("head/.*", optimizer=SGD(learning_rate=0.3), schedule=Linear(), reinitialise=True),
        train(last(1), by_depth=0.5, decay=0.1, clip=1.0),
        freeze(others()),
    )
    experiment = tuned(tiny, partition, source=Pretrained("runs/x"), no_decay=("bias",), stay_close=0.5)
    assert from_json(to_json(experiment), Experiment) == experiment
    assert override(experiment, "finetuning.source", "runs/y").finetuning.source == Pretrained("runs/y")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear-probe", linear_probe()),
        ("last_blocks(2, new_head=True)", last_blocks(2, new_head=True)),
        ("layerwise_decay(0.5)", layerwise_decay(0.5)),
        ("full", Partition()),
    ],
)
def test_the_command_line_may_name_a_partition(tiny, text, expected):
    assert override(tuned(tiny, norm_and_bias()), "finetuning.partition", text).rules == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear_prob", "no partition 'linear_prob'; did you mean 'linear_probe'?"),
        ("last_blocks", "cannot be understood"),
        ("last_blocks(2", "cannot be understood"),
        ("last_blocks(exit())", "cannot be understood"),
    ],
)
def test_a_partition_that_has_no_such_name_is_one_line(tiny, text, message):
    (line,) = problems(lambda: override(tiny(), "partition", text))
    assert line.startswith("partition: ")
    assert message in line


def test_a_model_whose_layers_are_not_ours_is_partitioned_by_use(tiny):
    class Net(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(self.classes, name="a_last")(nn.relu(nn.Dense(4, name="z_first_0")(inputs)))

    experiment = tuned(tiny, last_blocks(0), model=Net())
    plan = make_plan(experiment, experiment.data.load())
    assert plan.trainable == ("a_last/bias", "a_last/kernel")
    assert plan.frozen == ("z_first_0/bias", "z_first_0/kernel")
