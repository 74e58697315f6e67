"""The first layers of a deep network alone are the shallow network, and nothing comes of the others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import BERT, GPT, MLP, VGG, ConvNet, ViT, network
from research.models.upto import UpTo
from research.parameters.paths import flatten
from research.spec import Spec

SPEC = Spec((6, 6, 2), 3, ("a", "b", "c"))
DEEP = ConvNet(features=(4, 6), convolutions=4, hidden=(5,))


def evaluated(net, variables, train, spec=SPEC):
    """Logits, model state and gradients by path."""
    inputs = jax.random.normal(jax.random.key(1), (5, *spec.shape))
    inputs = inputs if spec.tokens is None else jnp.int32(inputs * 7) % spec.tokens

    def loss(parameters):
        logits, changed = net.apply({**variables, "params": parameters}, inputs, train=train, key=jax.random.key(2))
        return jnp.sum(logits * jnp.arange(float(spec.classes))), (logits, changed)

    (_, (logits, changed)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return {"logits": logits}, flatten(changed), flatten(gradient)


@pytest.mark.parametrize("used", [1, 3])
@pytest.mark.parametrize("train", [False, True], ids=["evaluated", "trained"])
@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "batch", "residual": True},
        {"norm": "batch"},
        {"norm": "group", "residual": True, "pooling": None, "head": "average"},
        {"residual": True, "activation": "tanh"},
        {"norm": "layer", "dropout": 0.3, "features": (2,)},  # as many features as the inputs: the first adds as well
        {"residual": True, "features": (2,), "pooling": None},
    ],
    ids=str,
)
def test_it_is_the_shallow_network(changes, train, used):
    deep = dataclasses.replace(DEEP, **changes)
    shallow = dataclasses.replace(deep, convolutions=used)
    before, changed, others = as_the_shallow_network(deep, shallow, SPEC, used, train)
    assert {int(path.split("/")[1].rpartition("_")[2]) for path in others} == set(range(used, 4))
    assert {path.split("/")[0] for path in others} == {f"stage_{i}" for i in range(len(deep.features))}
    for path in changed.keys() & {path for path in before if int(path.split("/")[2].rpartition("_")[2]) >= used}:
        np.testing.assert_array_equal(changed[path], before[path], err_msg=path)


def as_the_shallow_network(deep, shallow, spec, used, train):
    """Model state before and after, and the paths of gradients that the shallow network has not: all are zero."""
    own, joined = network(shallow, spec), network(UpTo(model=deep, used=jnp.int32(used)), spec)
    first, among_others = own.init(jax.random.key(0)), joined.init(jax.random.key(0))
    for path, value in flatten(first).items():
        np.testing.assert_allclose(flatten(among_others)[path], value, rtol=1e-6, err_msg=path)
    expected, found = evaluated(own, first, train, spec), evaluated(joined, among_others, train, spec)
    for told, other in zip(expected, found, strict=True):
        for path, value in told.items():
            np.testing.assert_allclose(other[path], value, rtol=1e-5, atol=1e-4, err_msg=path)
    others = found[2].keys() - expected[2].keys()
    assert all(np.all(found[2][path] == 0) for path in others)
    return flatten({kind: tree for kind, tree in among_others.items() if kind != "params"}), found[1], others


def test_one_program_serves_all_depths_and_what_is_not_in_use_is_not_computed():
    deep, traces = dataclasses.replace(DEEP, norm="batch"), 0
    variables = network(UpTo(model=deep, used=4), SPEC).init(jax.random.key(0))
    broken = jax.tree.map(lambda leaf: leaf, variables)
    for stage in ("stage_0", "stage_1"):
        broken["params"][stage]["convolution_3"]["kernel"] *= jnp.nan
    inputs = jnp.ones((2, *SPEC.shape))

    @jax.jit
    def logits(variables, used):
        nonlocal traces
        traces += 1
        return network(UpTo(model=deep, used=used), SPEC).apply(variables, inputs, train=False)[0]

    for used in (1, 2, 3):
        np.testing.assert_array_equal(logits(broken, used), logits(variables, used))
    assert np.isnan(logits(broken, 4)).all()
    assert not np.isnan(logits(variables, 4)).any()
    assert traces == 1


def test_side_by_side_each_has_its_own_depth():
    deep = dataclasses.replace(DEEP, norm="batch", residual=True)
    variables = network(UpTo(model=deep, used=2), SPEC).init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (3, *SPEC.shape))

    def logits(used):
        return network(UpTo(model=deep, used=used), SPEC).apply(variables, inputs, train=False)[0]

    depths = jnp.arange(1, 5)
    np.testing.assert_allclose(jax.jit(jax.vmap(logits))(depths), jnp.stack(list(map(logits, depths))), atol=1e-5)


TEXT = Spec((6,), 11, tuple("abcdefghijk"), tokens=11)
SMALL = {"width": 4, "heads": 2}
FAMILIES = {
    "mlp": (MLP(depth=3, width=5, norm="batch", residual=True, dropout=0.3), SPEC),
    "plain mlp": (MLP(depth=3, width=5), SPEC),
    "gpt": (GPT(depth=3, context=6, dropout=0.2, **SMALL), TEXT),
    "bert": (BERT(depth=3, context=6, **SMALL), TEXT),
    "vit": (ViT(depth=3, patch=3, **SMALL), SPEC),
}


@pytest.mark.parametrize("used", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_in_families_of_equal_blocks(family, used):
    deep, spec = FAMILIES[family]
    _, _, others = as_the_shallow_network(deep, dataclasses.replace(deep, depth=used), spec, used, True)
    assert {path.split("/")[0] for path in others} == {f"block_{index:02}" for index in range(used, 3)}


def test_only_some_models_say_what_they_count():
    assert DEEP.counted() == "convolutions"
    assert dataclasses.replace(DEEP, padding="VALID").counted() is None
    assert dataclasses.replace(DEEP, remat=True).counted() is None
    assert [model.counted() for model, _ in FAMILIES.values()] == ["depth"] * len(FAMILIES)
    assert MLP(scan=True).counted() is MLP(remat=True).counted() is VGG().counted() is None
