"""What is frozen runs as it is evaluated and keeps nothing, also where it is the first blocks of a stack."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import GPT, MLP, ViT, network
from research.parameters import cut, flatten, joined, unflatten, views
from research.spec import Spec

SPEC = Spec((4, 4, 1), 3, ("a", "b", "c"))
INPUTS = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
TOKENS = Spec((6,), 7, ("",) * 7, 7)
TEXT = np.random.default_rng(0).integers(0, 7, (3, 6))
STACKED = {
    "mlp": MLP(depth=5, width=8, norm="batch", residual=True, dropout=0.3, scan=True),
    "mlp-remat": MLP(depth=5, width=8, norm="rms", remat=True, scan=True),
    "vit": ViT(depth=4, width=8, heads=2, patch=2, dropout=0.3, scan=True),
    "gpt": GPT(depth=4, width=8, heads=2, context=6, scan=True),
}


def data(model):
    return (TOKENS, TEXT) if isinstance(model, GPT) else (SPEC, INPUTS)


def begin(model):
    """The network, its inputs, and its parameters and state by path."""
    spec, inputs = data(model)
    net = network(model, spec)
    variables = jax.jit(net.init)(jax.random.key(0))
    state = flatten({kind: tree for kind, tree in variables.items() if kind != "params"})
    return net, inputs, flatten(variables["params"]), state


def in_pieces(net, arrays, points):
    """A stack cut before some blocks, in parameters and state alike."""
    stacks = {f"{kind}block": blocks for kind in ("", "batch_stats/") for blocks in net.stacks.values()}
    return cut(arrays, stacks, dict.fromkeys(stacks, points))


@pytest.mark.parametrize("name", STACKED)
@pytest.mark.parametrize("points", [(2,), (2, 3)])
def test_a_stack_in_pieces_is_the_whole_one(name, points):
    net, inputs, parameters, state = begin(STACKED[name])

    @jax.jit
    def gradient(parameters, state):
        def loss(parameters):
            variables = {"params": unflatten(parameters), **unflatten(state)}
            features = ("block_01", "block_03")
            outputs, changed = net.apply(variables, inputs, train=True, key=jax.random.key(1), features=features)
            seen = changed.pop("features")
            return (outputs**2).sum(), (outputs, seen, flatten(changed))

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    (_, (outputs, seen, changed)), whole = gradient(parameters, state)
    (_, (again, seen_again, changed_again)), pieces = gradient(
        in_pieces(net, parameters, points), in_pieces(net, state, points)
    )
    assert any("[02:" in path for path in pieces)
    np.testing.assert_allclose(again, outputs, rtol=1e-5, atol=1e-6)
    for found, expected in ((joined(pieces), whole), (joined(changed_again), changed), (seen_again, seen)):
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=1e-5, err_msg=path)


def kept(net, inputs, trained, frozen):
    """Bytes that a gradient of what is trained keeps for the backward pass, besides the parameters themselves."""

    def loss(trained, frozen):
        outputs, _ = net.apply({"params": unflatten({**trained, **frozen})}, inputs, train=True)
        return (outputs**2).sum()

    def residuals(trained, frozen):
        return jax.tree.leaves(jax.vjp(lambda trained: loss(trained, frozen), trained)[1])

    program = jax.make_jaxpr(residuals)(trained, frozen).jaxpr
    computed = {id(v): v.aval for v in program.outvars if v not in program.invars}
    return sum(aval.size * aval.dtype.itemsize for aval in computed.values())


@pytest.mark.parametrize("kind", [MLP, ViT])
def test_frozen_blocks_of_a_stack_keep_no_activations(kind):
    """What is kept for two blocks is the same however many frozen ones come before them, scanned or not."""
    fields = {"width": 8} | ({"heads": 2, "patch": 2} if kind is ViT else {"norm": "rms"})
    found = {}
    for scan in (False, True):
        for depth in (4, 8):
            net, inputs, parameters, _ = begin(kind(depth=depth, scan=scan, **fields))
            parameters = in_pieces(net, parameters, (depth - 2,))
            last = [path for path in views(parameters) if f"[{depth - 2:02d}:" in path]
            last += [
                path for path in parameters if path.startswith(tuple(f"block_{i:02d}" for i in (depth - 2, depth - 1)))
            ]
            last += [path for path in parameters if path.startswith("head")]
            trained = {path: parameters[path] for path in last}
            frozen = {path: value for path, value in parameters.items() if path not in trained}
            found[scan, depth] = kept(net, inputs, trained, frozen)
            found[scan, depth, "all"] = kept(net, inputs, parameters, {})
    for scan in (False, True):
        assert 0 < found[scan, 4] == found[scan, 8]
        assert found[scan, 4, "all"] < found[scan, 8, "all"]
        assert found[scan, 4] < found[scan, 4, "all"]


class Normed(nn.Module):
    """Two norms that are told in two ways which averages to use, one of them without parameters, and dropout."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs, train):
        outputs = nn.Dense(4, name="first")(inputs.reshape(len(inputs), -1))
        outputs = nn.BatchNorm(use_scale=False, use_bias=False, use_running_average=not train, name="bare")(outputs)
        outputs = nn.Dropout(0.5, deterministic=not train, name="dropout_0")(outputs)
        outputs = nn.BatchNorm(name="norm_0")(outputs, use_running_average=not train)
        outputs = nn.Dense(4, name="second")(outputs)
        outputs = nn.BatchNorm(name="norm_1")(outputs, not train)
        outputs = nn.Dropout(0.5, name="dropout_1")(outputs, deterministic=not train)
        return nn.Dense(self.classes, name="head")(outputs)


def run(net, inputs, parameters, state, trained, train=True):
    variables = {"params": unflatten(parameters), **unflatten(state)}
    outputs, changed = net.apply(variables, inputs, train=train, key=jax.random.key(1), trained=trained)
    return outputs, flatten(changed)


@pytest.mark.parametrize(
    "model", [Normed(), MLP(depth=3, width=8, norm="batch", dropout=0.5), *map(STACKED.get, ("mlp", "vit"))]
)
def test_all_before_the_first_trained_layer_runs_as_it_is_evaluated(model):
    net, inputs, parameters, state = begin(model)
    state = {path: value + 0.25 for path, value in state.items()}
    state = {path: value.at[..., 0].set(-0.0) for path, value in state.items()}
    evaluated, _ = run(net, inputs, parameters, state, None, train=False)
    frozen, changed = run(net, inputs, parameters, state, ("head/kernel", "head/bias"))
    np.testing.assert_array_equal(frozen, evaluated)
    assert changed.keys() == state.keys()
    for path, value in changed.items():
        assert np.asarray(value).tobytes() == np.asarray(state[path]).tobytes(), path
    trained, moved = run(net, inputs, parameters, state, tuple(parameters))
    everything, _ = run(net, inputs, parameters, state, None)
    np.testing.assert_array_equal(trained, everything)
    assert not np.allclose(trained, evaluated)
    assert all(not np.array_equal(moved[path], state[path]) for path in state)


def test_a_frozen_norm_behind_what_is_trained_runs_on_its_averages_and_dropout_stays():
    net, inputs, parameters, state = begin(Normed())
    trained = tuple(path for path in parameters if not path.startswith("norm"))
    outputs, changed = run(net, inputs, parameters, state, trained)
    same = {path for path, value in changed.items() if np.array_equal(value, state[path])}
    assert same == {path for path in state if "/norm_" in path}
    again, _ = net.apply(
        {"params": unflatten(parameters), **unflatten(state)},
        inputs,
        train=True,
        key=jax.random.key(2),
        trained=trained,
    )
    assert not np.allclose(outputs, again)  # other dropout
    _, changed = run(net, inputs, parameters, state, ("norm_1/bias", "head/kernel"))
    moved = {path for path, value in changed.items() if not np.array_equal(value, state[path])}
    assert moved == {"batch_stats/norm_1/mean", "batch_stats/norm_1/var"}


def test_dropout_in_the_first_blocks_is_off_the_same_scanned_and_not():
    """The blocks that are frozen, and the first that is not, draw what they draw unrolled."""
    found = {}
    for scan in (False, True):
        model = dataclasses.replace(STACKED["vit"], scan=scan)
        net, inputs, parameters, _ = begin(model)
        parameters = in_pieces(net, parameters, (2,))
        trained = tuple(p for p in parameters if p.startswith(("block[02:04]", "block_02", "block_03", "head")))
        found[scan], _ = jax.jit(functools.partial(run, net, inputs, state={}, trained=trained))(parameters)
    np.testing.assert_allclose(found[True], found[False], rtol=1e-5, atol=1e-6)
    everything, _ = run(net, inputs, parameters, {}, None)
    assert not np.allclose(found[True], everything)
    assert jnp.isfinite(everything).all()
