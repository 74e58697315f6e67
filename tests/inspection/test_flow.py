"""Depth is what the program is: contractions with a parameter on its paths, counted whatever it is made of."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from research.inspection import flow as module
from research.inspection import inspect, inspect_module


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


W = shape(4, 4)
X = shape(2, 4)


def depth(function, parameters, inputs=X):
    return inspect(function, parameters, inputs).depth


def test_a_chain_is_as_deep_as_it_is_long():
    def chain(ws, x):
        for w in ws:
            x = jax.nn.relu(x @ w + 1)
        return x

    found = depth(chain, [W] * 7)
    assert (found.longest, found.shortest, found.paths) == (7, 7, {7: 1})


def test_the_paths_of_a_residual_network_are_binomial():
    def residual(ws, x):
        for w in ws:
            x = x + jax.nn.gelu(x) @ w  # gelu reads x more than once, and it is one path still
        return x

    assert depth(residual, [W] * 6).paths == {k: math.comb(6, k) for k in range(7)}


def test_more_paths_than_could_be_walked_are_counted():
    def residual(ws, x):
        for w in ws:
            x = x + x @ w
        return x

    found = depth(residual, [W] * 200)
    assert sum(found.paths.values()) == 2**200
    assert found.mean() == pytest.approx(100)


def test_parallel_layers_are_no_deeper_than_one():
    found = depth(lambda p, x: (x @ p["a"]) * (x @ p["b"]) + jnp.max(x @ p["c"]), {"a": W, "b": W, "c": W})
    assert found.paths == {1: 3}


def test_products_of_data_with_data_are_no_depth():
    assert depth(lambda p, x: (x @ x.T) @ (x @ p), W).paths == {1: 1, 0: 1}


def test_a_kernel_may_be_computed_from_parameters():
    low_rank = lambda p, x: x @ (p["a"] @ p["b"])  # noqa: E731
    parameters = {"a": shape(4, 2), "b": shape(2, 4)}
    assert depth(low_rank, parameters).longest == 1
    assert depth(lambda p, x: (x @ p["a"]) @ p["b"], parameters).longest == 2


def test_biases_and_norms_are_no_depth_but_norms_are_counted_apart():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(3):
                x = nn.LayerNorm(name=f"norm_{i}")(nn.Dense(4, name=f"dense_{i}")(x))
            return x

    found = inspect_module(Net(), X).depth
    assert (found.longest, found.with_norms) == (3, 6)


def blocks(w, x):
    return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, w)[0]


def test_a_scan_is_as_deep_as_it_is_long():
    assert depth(blocks, shape(5, 4, 4)).paths == {k: math.comb(5, k) for k in range(6)}


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_wrappers_change_no_depth(wrap):
    assert depth(wrap(blocks), shape(5, 4, 4)) == depth(blocks, shape(5, 4, 4))


def test_shared_weights_count_as_often_as_they_are_used():
    def shared(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=9)[0]

    assert depth(shared, W).longest == 9


def test_a_recurrent_network_is_as_deep_as_its_sequence():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.RNN(nn.SimpleCell(4), name="recurrent")(x)[:, -1])

    inspection = inspect_module(Net(), shape(2, 11, 4))
    assert inspection.depth.longest == 12
    kinds = inspection.by("kind")
    assert any("/h" in layer.path for layer in kinds["recurrent"])
    assert [layer.path for layer in kinds["head"]] == ["head"]


def test_branches_are_paths():
    def either(p, x):
        return jax.lax.cond(jnp.sum(x) > 0, lambda x: x @ p @ p, lambda x: x @ p, x)

    assert set(depth(either, W).paths) == {1, 2}


def test_of_a_while_one_iteration_is_followed_and_it_is_said():
    def loop(w, x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ w, x)

    def loss(w, x):
        return jnp.sum(x @ w)  # reverse mode cannot pass a while

    inspection = inspect(loop, W, X, loss=loss)
    assert inspection.depth.longest == 1
    assert any("while" in note for note in inspection.notes)


def test_a_very_long_loop_is_at_least_as_deep_as_was_followed(monkeypatch):
    monkeypatch.setattr(module, "ITERATIONS", 3)
    inspection = inspect(blocks, shape(5, 4, 4), X)
    assert inspection.depth.longest == 3
    assert any("at least" in note for note in inspection.notes)


@pytest.mark.parametrize("carry", [True, False])
def test_a_scan_of_no_length_is_no_depth(carry):
    def empty(w, x):
        ended, _ = jax.lax.scan(lambda x, w: (x @ w, x), x, w["b"])
        return ended @ w["a"]

    assert depth(empty, {"a": W, "b": shape(0, 4, 4)}).longest == 1
    assert depth(lambda w, x: jax.lax.scan(lambda c, x: (c, x @ w), 0.0, x)[1], W, shape(0, 4)).longest == 0


def test_the_paths_of_an_lstm_are_those_counted_step_by_step():
    steps = 40

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.RNN(nn.LSTMCell(3, name="cell"))(x)

    hidden, cell, found = {}, {}, {}  # {length: how many}; the first hidden state is no input
    for _ in range(steps):
        gate = {length + 1: count for length, count in hidden.items()}
        gate[1] = gate.get(1, 0) + 1
        cell = {n: cell.get(n, 0) + 3 * gate.get(n, 0) for n in {*cell, *gate}}
        hidden = {n: cell.get(n, 0) + gate.get(n, 0) for n in {*cell, *gate}}
        found = {n: found.get(n, 0) + 4 * gate.get(n, 0) for n in {*found, *gate}}
    assert inspect_module(Net(), shape(2, steps, 4)).depth.paths == found


def test_a_barrier_mixes_nothing():
    def barred(w, x):
        deep, flat = jax.lax.optimization_barrier((x @ w, x))
        return deep @ w + flat

    assert depth(barred, W).paths == {0: 1, 2: 1}


def test_parameters_prepared_together_are_told_apart():
    halves = jax.jit(lambda ws: jax.tree.map(lambda w: w.astype(jnp.bfloat16), ws))

    def net(ws, x):
        ws = halves(ws)
        return jnp.sin(x @ ws["a"]) @ ws["b"]

    inspection = inspect(net, {"a": W, "b": W}, X)
    assert [(layer.path, layer.kind, layer.depth) for layer in inspection.layers if layer.parameters] == [
        ("a", "dense", 1),
        ("b", "head", 2),
    ]


def test_a_product_by_groups_is_a_contraction():
    grouped = lambda w, x: jax.lax.ragged_dot(x, w["experts"], jnp.array([1, 1]))  # noqa: E731
    inspection = inspect(grouped, {"experts": shape(2, 4, 3)}, X)
    assert inspection.depth.longest == 1
    assert inspection.layer("experts").formula == "2*4*3"


def test_what_is_solved_inside_is_followed():
    solve = lambda w, x: jax.scipy.sparse.linalg.cg(lambda v: v @ w, x)[0]  # noqa: E731
    inspection = inspect(solve, W, X, frozen=[""])
    assert inspection.depth.longest > 0
    assert inspection.forward.multiply_adds >= 2 * 4 * 4


def test_operations_one_after_another_are_those_that_compute():
    chain = lambda _, x: jnp.tanh(jnp.sin(x).T.reshape(8)) + jnp.cos(x).sum()  # noqa: E731
    assert depth(chain, {}).operations == 3


# ---------------------------------------------------------------------------------------------------------------------
# Kinds


class Attention(nn.Module):
    """One head, written with einsum over a kernel of its own for all three."""

    @nn.compact
    def __call__(self, x):
        q, k, v = (nn.Dense(8, name=name)(x) for name in ("q", "k", "v"))
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k))
        return nn.Dense(4, name="out")(jnp.einsum("bqk,bkd->bqd", weights, v))


class Everything(nn.Module):
    """A layer of each kind."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(9, 4, name="tokens")(tokens)
        x = x + self.param("positions", nn.initializers.normal(), (6, 4))
        x = Attention(name="attention")(x) + x
        x = nn.Conv(4, (3,), name="convolution")(nn.LayerNorm(name="norm")(x))
        x = nn.Conv(4, (3,), feature_group_count=4, name="depthwise")(x)
        x = x * self.param("gain", nn.initializers.ones, (4,))
        x = jax.nn.relu(nn.Dense(5, name="dense")(x))
        self.param("forgotten", nn.initializers.ones, (3,))
        return nn.Dense(2, name="head")(x.mean(1))


def test_kinds_are_told_by_what_is_done_with_the_parameters():
    inspection = inspect_module(Everything(), shape(2, 6, dtype=jnp.int32))
    kinds = {layer.path: layer.kind for layer in inspection.layers if layer.parameters}
    assert kinds == {
        "tokens": "embedding",
        "positions": "embedding",
        "attention/q": "attention",
        "attention/k": "attention",
        "attention/v": "attention",
        "attention/out": "attention",
        "norm": "norm",
        "convolution": "convolution",
        "depthwise": "depthwise",
        "gain": "scale",
        "dense": "dense",
        "head": "head",
        "forgotten": "unused",
    }
    products = {layer.path: layer.forward.multiply_adds for layer in inspection.layers if layer.kind == "products"}
    assert products == {"attention": 2 * 2 * 6 * 6 * 8}


def test_a_bias_by_itself_is_no_embedding():
    inspection = inspect_module(nn.Dense(5), shape(2, 6, 4))
    assert inspection.layer("bias").kind == "bias"


def test_layers_stand_in_the_order_in_which_data_meets_them():
    paths = [layer.path for layer in inspect_module(Everything(), shape(2, 6, dtype=jnp.int32)).layers]
    order = ["tokens", "positions", "attention/q", "norm", "convolution", "depthwise", "gain", "dense", "head"]
    assert [path for path in paths if path in order] == order
