"""A scanned stack is the unrolled one: paths, initial values, outputs, gradients; and no larger when it is deeper."""

import dataclasses
from functools import partial

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import as_arrays
from research.errors import UserError
from research.models import BERT, GPT, MLP, ViT, network
from research.parameters import flatten, read, unflatten, views
from research.spec import Spec

SPEC = Spec((4, 4, 1), 3, ("a", "b", "c"))
INPUTS = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
TOKENS = Spec((6,), 7, ("",) * 7, 7)
TEXT = np.random.default_rng(0).integers(0, 7, (3, 6))
MODELS = {
    "mlp": MLP(depth=4, width=8, norm="batch", residual=True, dropout=0.3),
    "mlp-remat": MLP(depth=3, width=8, norm="rms", remat=True),
    "vit": ViT(depth=3, width=8, heads=2, patch=2, dropout=0.3),
    "vit-remat": ViT(depth=3, width=8, heads=2, patch=2, pooling="average", norm="rms", remat=True),
    "gpt": GPT(depth=3, width=8, heads=2, context=6, dropout=0.3),
    "bert": BERT(depth=3, width=8, heads=2, context=6, padding=0),
}


def data(model):
    return (TOKENS, TEXT) if isinstance(model, GPT | BERT) else (SPEC, INPUTS)


def unrolled(tree, stacks):
    """A scanned network's variables of one kind as the unrolled one has them."""
    flat = flatten(tree)
    return unflatten({path: read(flat, path, stacks) for path in views(flat, stacks)})


CASES = [*((name, True) for name in MODELS), ("mlp", False), ("vit", False)]


@pytest.mark.parametrize(("name", "train"), CASES)
def test_paths_values_outputs_and_gradients_are_those_of_the_unrolled_stack(name, train):
    model = MODELS[name]
    results, (spec, inputs) = {}, data(model)
    for scan in (False, True):
        net = network(dataclasses.replace(model, scan=scan), spec)

        @jax.jit
        def run(key, net=net):
            variables = net.init(key)

            def loss(parameters):
                variables_now = {**variables, "params": parameters}
                outputs, changed = net.apply(
                    variables_now, inputs, train=train, key=jax.random.key(1), features=("block_02",)
                )
                return (outputs**2).sum(), (outputs, changed)

            (_, (outputs, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return variables, gradient, outputs, changed

        variables, gradient, outputs, changed = run(jax.random.key(0))
        changed_features, statistics = changed.pop("features"), changed.get("batch_stats", {})
        assert bool(net.stacks) == scan
        results[scan] = {
            **{kind: unrolled(tree, net.stacks) for kind, tree in variables.items()},
            "gradient": unrolled(gradient, net.stacks),
            "changed": unrolled(statistics, net.stacks) if statistics else {},
            "outputs": outputs,
            "features": changed_features,
        }
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), results[True]["params"], results[False]["params"])
    assert jax.tree.structure(results[True]) == jax.tree.structure(results[False])
    jax.tree.map(assert_close, *results.values())


def assert_close(one, other):
    """To the rounding of the largest of them: a small one may be the difference of large ones."""
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=max(1e-5, 5e-6 * np.abs(other).max(initial=0)))


def test_every_block_begins_differently():
    flat = flatten(jax.jit(network(MODELS["vit"], SPEC).init)(jax.random.key(0))["params"])
    kernels = [np.asarray(x) for path, x in flat.items() if path.startswith("block") and x.shape == (8, 8)]
    assert len(kernels) == 12
    assert len({kernel.tobytes() for kernel in kernels}) == 12


def equations(closed) -> int:
    """Equations of a program, those of its inner programs included."""
    return sum(
        1 + sum(equations(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        for equation in getattr(closed, "jaxpr", closed).eqns
    )


@pytest.mark.parametrize("name", ["mlp", "vit-remat", "gpt", "bert"])
def test_a_scanned_stack_traces_to_the_same_number_of_equations_at_any_depth(name):
    spec, inputs = data(MODELS[name])

    def programs(depth, scan):
        net = network(dataclasses.replace(MODELS[name], depth=depth, scan=scan), spec)
        variables = jax.eval_shape(net.init, jax.random.key(0))

        def loss(parameters, others):
            outputs, _ = net.apply({**others, "params": parameters}, inputs, train=True, key=jax.random.key(1))
            return outputs.sum()

        return (
            equations(jax.make_jaxpr(net.init)(jax.random.key(0))),
            equations(jax.make_jaxpr(jax.grad(loss))(variables["params"], variables)),
        )

    assert programs(3, scan=True) == programs(5, scan=True)
    assert programs(3, scan=False) < programs(5, scan=False)


def test_dropout_may_be_traced_in_a_scan():
    net = network(MODELS["vit"], SPEC)
    variables = jax.jit(net.init)(jax.random.key(0))

    @jax.jit
    def outputs(model):
        return network(model, SPEC).apply(variables, INPUTS, train=True, key=jax.random.key(1))[0]

    assert not np.allclose(*(outputs(as_arrays(dataclasses.replace(MODELS["vit"], dropout=r))) for r in (0.1, 0.6)))


def test_a_layer_in_a_stack_is_asked_for_by_its_own_path_or_the_stacks():
    net = network(dataclasses.replace(MODELS["vit"], scan=True), SPEC)
    paths = ("block_01/attention", "block/attention")
    variables = jax.jit(net.init)(jax.random.key(0))
    _, changed = jax.jit(lambda v: net.apply(v, INPUTS, train=False, features=paths))(variables)
    one, all_of_them = (changed["features"][path] for path in paths)
    assert all_of_them.shape == (3, 5, 5, 8)
    np.testing.assert_array_equal(one, all_of_them[1])
    for unknown in ("block_03", "block_01/atention"):
        with pytest.raises(UserError, match=f"no layer '{unknown}'; did you mean 'block"):
            jax.eval_shape(lambda v, u=unknown: net.apply(v, INPUTS, train=False, features=(u,)), variables)


def test_a_stack_deeper_than_a_hundred_has_the_same_paths_scanned():
    shapes = {}
    for scan in (False, True):
        net = network(MLP(depth=102, width=2, scan=scan), SPEC)
        flat = flatten(jax.eval_shape(net.init, jax.random.key(0))["params"])
        shapes[scan] = {path: jnp.shape(read(flat, path, net.stacks)) for path in views(flat, net.stacks)}
    assert shapes[True] == shapes[False]
    assert "block_101/dense/kernel" in shapes[True]
