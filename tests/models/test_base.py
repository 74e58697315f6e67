"""What `network` promises for every model, and for Flax modules that users write."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import as_arrays
from research.errors import UserError
from research.models import MLP, ConvNet, Model, network
from research.spec import Spec

SPEC = Spec((4, 4, 1), 3, ("a", "b", "c"))
INPUTS = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
EVERYTHING = [
    MLP(depth=2, width=8, dropout=0.5, norm="batch", residual=True),
    ConvNet(features=(4,), hidden=(8,), dropout=0.5, norm="batch"),
]


class Plain(nn.Module):
    """As short as a user's module can be: it is told neither whether it trains nor how many classes there are."""

    num_classes: int | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


class Rich(nn.Module):
    """With running statistics, dropout and noise, as Flax's own layers have them."""

    outputs: int | None = None
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, deterministic: bool):
        x = nn.Dense(16, name="first")(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=deterministic, momentum=0.5, name="norm")(x)
        x = nn.Dropout(self.rate, deterministic=deterministic, name="dropout")(x)
        if not deterministic:
            x += 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
        self.sow("intermediates", "hidden", x)
        return nn.Dense(self.outputs, name="head")(x)


def leaves_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("model", [*EVERYTHING, Plain(), Rich()], ids=lambda model: type(model).__name__)
def test_init_gives_plain_dicts_and_the_same_jitted_or_not(model):
    net, key = network(model, SPEC), jax.random.key(3)
    variables, jitted = net.init(key), jax.jit(net.init)(key)
    assert jax.tree.structure(variables) == jax.tree.structure(jitted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), variables, jitted)
    assert all(type(tree) is dict for tree in [variables, *variables.values()])
    assert set(variables) <= {"params", "batch_stats"}


def test_a_layers_initial_values_depend_on_its_path_alone():
    shallow, deep = (network(MLP(depth=d, width=8), SPEC).init(jax.random.key(0))["params"] for d in (1, 3))
    leaves_equal(shallow["block_00"], deep["block_00"])
    assert not np.array_equal(deep["block_01"]["dense"]["kernel"], deep["block_02"]["dense"]["kernel"])


@pytest.mark.parametrize("model", EVERYTHING, ids=lambda model: type(model).__name__)
def test_leaves_may_be_traced_under_jit_vmap_scan_and_grad_without_tracing_again(model):
    variables, traces = network(model, SPEC).init(jax.random.key(0)), []

    @jax.jit
    def step(model, variables, key):
        traces.append(1)

        def loss(parameters, inputs):
            logits, changed = network(model, SPEC).apply(
                {**variables, "params": parameters}, inputs, train=True, key=key
            )
            return jnp.sum(logits**2), changed

        def body(parameters, inputs):
            gradient, changed = jax.grad(loss, has_aux=True)(parameters, inputs)
            return jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradient), changed

        return jax.lax.scan(body, variables["params"], jnp.stack([INPUTS, INPUTS[::-1]]))

    models = [as_arrays(dataclasses.replace(model, dropout=rate)) for rate in (0.1, 0.6)]
    alone = [step(model, variables, jax.random.key(1)) for model in models]
    assert len(traces) == 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    mapped = jax.jit(jax.vmap(step, (0, None, None)))(stacked, variables, jax.random.key(1))
    for i in range(2):
        jax.tree.map(lambda m, a: np.testing.assert_allclose(m[i], a, rtol=2e-4, atol=1e-5), mapped, alone[i])  # noqa: B023


@pytest.mark.parametrize("model", [*EVERYTHING, Rich()], ids=lambda model: type(model).__name__)
def test_training_changes_the_statistics_and_draws_from_the_key(model):
    net = network(model, SPEC)
    variables = net.init(jax.random.key(0))
    logits, changed = net.apply(variables, INPUTS, train=True, key=jax.random.key(1))
    again, _ = net.apply(variables, INPUTS, train=True, key=jax.random.key(1))
    other, _ = net.apply(variables, INPUTS, train=True, key=jax.random.key(2))
    np.testing.assert_array_equal(logits, again)
    assert not np.array_equal(logits, other)
    assert set(changed) == {"batch_stats"}
    before, after = (jax.tree.leaves(tree["batch_stats"]) for tree in (variables, changed))
    assert not any(np.array_equal(b, a) for b, a in zip(before, after, strict=True))

    _, nothing = net.apply(variables, INPUTS, train=False)
    assert nothing == {}
    whole, _ = net.apply(variables, INPUTS, train=False)
    part, _ = net.apply(variables, INPUTS[:2], train=False)
    np.testing.assert_allclose(whole[:2], part, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_the_moments_of_the_batch():
    net = network(Rich(), SPEC)
    variables = net.init(jax.random.key(0))
    _, changed = net.apply(variables, INPUTS, train=True, key=jax.random.key(1), features=("first",))
    first = changed["features"]["first"]
    np.testing.assert_allclose(changed["batch_stats"]["norm"]["mean"], 0.5 * first.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_a_users_module_computes_what_flax_computes():
    net = network(Plain(), SPEC)
    variables = net.init(jax.random.key(0))
    leaves_equal(variables, dict(Plain(3).init(jax.random.key(0), INPUTS)))
    np.testing.assert_array_equal(net.apply(variables, INPUTS, train=True)[0], Plain(3).apply(variables, INPUTS))


def test_a_number_of_classes_that_the_user_gave_stays_and_must_be_right():
    net = network(Plain(num_classes=5), SPEC)
    with pytest.raises(
        UserError, match=r"model: Plain gave an array of shape \(1, 5\); logits \(batch, 3\) are needed"
    ):
        net.init(jax.random.key(0))


def test_what_is_no_array_is_named():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x, x

    with pytest.raises(UserError, match="model: Pair gave a tuple"):
        network(Pair(), SPEC).init(jax.random.key(0))


def test_a_key_that_is_needed_and_missing_is_asked_for():
    net = network(EVERYTHING[0], SPEC)
    variables = net.init(jax.random.key(0))
    with pytest.raises(UserError, match="MLP draws random numbers when applied with train=True; give it a key"):
        net.apply(variables, INPUTS, train=True)


def test_inputs_of_another_shape_are_refused():
    net = network(Plain(), SPEC)
    with pytest.raises(ValueError, match=r"Plain: inputs \(6, 5, 4, 1\) are not"):
        net.apply(net.init(jax.random.key(0)), np.zeros((6, 5, 4, 1)), train=False)


def test_integers_where_floats_are_needed_are_refused():
    net = network(Plain(), SPEC)
    message = r"model: Plain was given inputs \(6, 4, 4, 1\) of uint8; floating point is needed"
    with pytest.raises(UserError, match=message):
        net.apply(net.init(jax.random.key(0)), np.zeros((6, 4, 4, 1), np.uint8), train=False)


def test_tokens_are_whole_numbers_and_may_have_logits_at_each_position():
    class Tagger(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, x):
            return nn.Embed(7, self.classes, name="tokens")(x)

    spec = Spec((5,), 3, ("a", "b", "c"), tokens=7)
    net = network(Tagger(), spec)
    variables = net.init(jax.random.key(0))
    assert net.apply(variables, np.zeros((2, 5), np.int32), train=False)[0].shape == (2, 5, 3)
    with pytest.raises(UserError, match=r"Tagger was given inputs \(2, 5\) of float32; tokens are whole numbers"):
        net.apply(variables, np.zeros((2, 5), np.float32), train=False)
    with pytest.raises(UserError, match=r"shape \(1, 5, 4\); logits \(batch, 3\) or \(batch, 5, 3\) are needed"):
        network(Tagger(classes=4), spec).init(jax.random.key(0))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("remat", [True, False])
def test_features_by_path_are_what_the_layers_gave(remat, train):
    net = network(ConvNet(features=(4, 8), hidden=(5,), norm="batch", remat=remat), SPEC)
    variables = net.init(jax.random.key(0))
    paths = ("stage_1/convolution_0", "stage_1", "dense_0", "head")
    logits, changed = jax.jit(lambda v, x: net.apply(v, x, train=train, features=paths))(variables, INPUTS)
    features = changed["features"]
    assert [features[path].shape[1:] for path in paths] == [(2, 2, 8), (1, 1, 8), (5,), (3,)]
    assert ("batch_stats" in changed) == train
    np.testing.assert_array_equal(features["head"], logits)
    kernel, bias = variables["params"]["dense_0"]["kernel"], variables["params"]["dense_0"]["bias"]
    np.testing.assert_allclose(
        features["dense_0"], features["stage_1"].reshape(6, -1) @ kernel + bias, rtol=1e-4, atol=1e-5
    )


def test_an_unknown_layer_is_named_with_the_nearest():
    net = network(ConvNet(features=(4,)), SPEC)
    with pytest.raises(UserError, match="no layer 'stage_0/convolutoin_0'; did you mean 'stage_0/convolution_0'"):
        net.apply(net.init(jax.random.key(0)), INPUTS, train=False, features=("stage_0/convolutoin_0",))


@pytest.mark.parametrize(
    ("wrong", "message"), [(Plain, "Plain is a class"), (MLP, "MLP is a class"), (3, "3 is neither")]
)
def test_what_is_no_model_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        network(wrong, SPEC)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (MLP(depth=-1), "MLP: depth: -1 is not in"),
        (MLP(activation="rellu"), "MLP: activation: 'rellu' is no one of 'relu', "),
        (MLP(initializer="he"), "MLP: initializer: 'he' is no one of 'he_normal'"),
        (MLP(dropout=1.5), "MLP: dropout: 1.5 is not in"),
        (ConvNet(features=()), "ConvNet: features: at least one stage is needed"),
        (ConvNet(convolutions="2"), "ConvNet: convolutions: '2' is no whole number"),
    ],
)
def test_a_field_that_cannot_be_is_named_though_nobody_validated(wrong, message):
    with pytest.raises(UserError, match=message):
        network(wrong, SPEC)


def test_a_model_without_a_module_says_so():
    class Empty(Model):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no method"):
        network(Empty(), SPEC)
