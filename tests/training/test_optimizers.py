"""Optimizers: the paths of optax's own and of torch's, with every number a leaf."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from research.config import as_arrays, validate
from research.training.optimizers import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Lion,
    Momentum,
    Muon,
    Nesterov,
    Optimizer,
    RMSprop,
)

RNG = np.random.default_rng(0)
SHAPES = {
    "first/convolution/kernel": (3, 3, 2, 4),
    "first/convolution/bias": (4,),
    "second/kernel": (6, 5),
    "second/bias": (5,),
    "head/kernel": (5, 3),
}
PARAMETERS = {path: RNG.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
TARGETS = {path: RNG.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}
STEEPNESS = {path: i for i, path in enumerate(SHAPES, 1)}
KERNELS = {path: path.endswith("kernel") for path in SHAPES}
KINDS = (SGD, Momentum, Nesterov, RMSprop, Adam, AdamW, Lion, Adafactor, Muon)
WITH_DECAY = [kind for kind in KINDS if hasattr(kind(), "weight_decay")]


def is_kernel(path):
    return path.endswith("kernel")


def gradient(parameters):
    """That of a bowl, steeper for some parameters than for others."""
    return {path: STEEPNESS[path] * (p - TARGETS[path]) for path, p in parameters.items()}


def follow(optimizer, steps=5):
    """The parameters after some steps of our contract: parameters - learning_rate * direction."""
    transformation = optimizer.transformation(is_kernel)
    parameters = jax.tree.map(jnp.asarray, PARAMETERS)
    state = transformation.init(parameters)
    for _ in range(steps):
        direction, state = transformation.update(gradient(parameters), state, parameters)
        parameters = {path: p - optimizer.learning_rate * direction[path] for path, p in parameters.items()}
    return parameters


def follow_optax(transformation, steps=5):
    parameters = jax.tree.map(jnp.asarray, PARAMETERS)
    state = transformation.init(parameters)
    for _ in range(steps):
        updates, state = transformation.update(gradient(parameters), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


def assert_same(got, want, **tolerance):
    assert set(got) == set(want)
    for path in want:
        np.testing.assert_allclose(got[path], want[path], err_msg=path, **{"rtol": 2e-5, "atol": 5e-6, **tolerance})


MUON_MATRICES = {
    "first/convolution/kernel": optax.contrib.MuonDimensionNumbers((0, 1, 2), 3),
    "first/convolution/bias": None,
    "second/kernel": optax.contrib.MuonDimensionNumbers(0, 1),
    "second/bias": None,
    "head/kernel": None,
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(learning_rate=0.1), optax.sgd(0.1)),
        (Momentum(learning_rate=0.05, momentum=0.8), optax.sgd(0.05, momentum=0.8)),
        (Nesterov(learning_rate=0.05, momentum=0.8), optax.sgd(0.05, momentum=0.8, nesterov=True)),
        (RMSprop(learning_rate=0.02), optax.rmsprop(0.02, decay=0.9, eps=1e-8, eps_in_sqrt=False)),
        (
            RMSprop(learning_rate=0.02, decay=0.7, epsilon=0.1, momentum=0.5),
            optax.rmsprop(0.02, decay=0.7, eps=0.1, momentum=0.5, eps_in_sqrt=False),
        ),
        (Adam(learning_rate=0.1), optax.adam(0.1)),
        (Adam(learning_rate=0.1, beta1=0.5, beta2=0.8, epsilon=0.1), optax.adam(0.1, 0.5, 0.8, 0.1)),
        (AdamW(learning_rate=0.1, weight_decay=0.3), optax.adamw(0.1, weight_decay=0.3, mask=KERNELS)),
        (AdamW(weight_decay=None), optax.adam(1e-3)),
        (Lion(learning_rate=0.01, weight_decay=0.3), optax.lion(0.01, weight_decay=0.3, mask=KERNELS)),
        (Adafactor(), optax.adafactor(0.01)),
        (
            Adafactor(learning_rate=0.02, smallest_factored=2, momentum=0.7, clip=None, weight_decay=0.5, decay=0.6),
            optax.adafactor(  # whose decay is not multiplied by the learning rate
                0.02,
                min_dim_size_to_factor=2,
                momentum=0.7,
                clipping_threshold=None,
                weight_decay_rate=0.5 * 0.02,
                weight_decay_mask=KERNELS,
                decay_rate=0.6,
            ),
        ),
        (
            Muon(learning_rate=0.02, weight_decay=None, rms=None),
            optax.contrib.muon(0.02, muon_weight_dimension_numbers=MUON_MATRICES),
        ),
        (
            Muon(learning_rate=0.02, weight_decay=None, momentum=0.8, iterations=3),
            optax.contrib.muon(
                0.02, beta=0.8, ns_steps=3, consistent_rms=0.2, muon_weight_dimension_numbers=MUON_MATRICES
            ),
        ),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, Optimizer) else "",
)
def test_paths_are_those_of_optax(ours, theirs):
    assert_same(follow(ours), follow_optax(theirs))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (Adam(learning_rate=0.03), "Adam", {}),
        *(
            (kind(learning_rate=0.03, weight_decay=decay), name, options)
            for decay in (None, 0.3)
            for kind, name, options in (
                (SGD, "SGD", {}),
                (Momentum, "SGD", {"momentum": 0.9}),
                (Nesterov, "SGD", {"momentum": 0.9, "nesterov": True}),
                (RMSprop, "RMSprop", {"alpha": 0.9}),
                (AdamW, "AdamW", {}),
            )
        ),
    ],
)
def test_paths_are_those_of_torch(ours, name, options):
    import torch

    decay = getattr(ours, "weight_decay", None)
    parameters = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in PARAMETERS.items()}
    groups = [
        {"params": [p for path, p in parameters.items() if is_kernel(path)], "weight_decay": decay or 0.0},
        {"params": [p for path, p in parameters.items() if not is_kernel(path)], "weight_decay": 0.0},
    ]
    theirs = getattr(torch.optim, name)(groups, lr=0.03, **options)
    for _ in range(5):
        for path, slope in gradient({k: v.detach().numpy() for k, v in parameters.items()}).items():
            parameters[path].grad = torch.tensor(slope)
        theirs.step()
    assert_same(follow(ours), {path: p.detach().numpy() for path, p in parameters.items()})


def test_muon_turns_kernels_of_hidden_layers_alone_and_takes_convolutions_as_matrices():
    optimizer = Muon(weight_decay=None, rms=None, iterations=8)
    direction, _ = optimizer.transformation(is_kernel).update(
        PARAMETERS, optimizer.transformation(is_kernel).init(PARAMETERS), PARAMETERS
    )
    for path in ("first/convolution/kernel", "second/kernel"):
        matrix = np.asarray(direction[path]).reshape(-1, SHAPES[path][-1])
        # Newton-Schulz brings the singular values to about 1.
        assert np.abs(np.linalg.svd(matrix, compute_uv=False) - 1).max() < 0.4
    for path in ("first/convolution/bias", "second/bias", "head/kernel"):
        np.testing.assert_allclose(np.abs(direction[path]), np.abs(direction[path]).flat[0], rtol=1e-3)


def test_an_update_of_muon_is_about_as_large_as_one_of_adam():
    optimizer = Muon(weight_decay=None)
    parameters = {"layer/kernel": RNG.normal(size=(64, 48)).astype(np.float32)}
    transformation = optimizer.transformation(is_kernel)
    direction, _ = transformation.update(parameters, transformation.init(parameters), parameters)
    assert np.sqrt(np.mean(np.square(direction["layer/kernel"]))) == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("kind", WITH_DECAY)
def test_decay_reaches_kernels_alone(kind):
    plain, decayed = (follow(kind(learning_rate=0.01, weight_decay=rate), steps=3) for rate in (None, 0.5))
    for path in SHAPES:
        moved = not np.array_equal(plain[path], decayed[path])
        assert moved == is_kernel(path), path


@pytest.mark.parametrize("kind", [AdamW, Lion, Adafactor, Muon])
def test_decoupled_decay_shrinks_in_proportion_to_the_learning_rate(kind):
    optimizer = kind(learning_rate=0.1, weight_decay=0.5)
    without = dataclasses.replace(optimizer, weight_decay=None)
    a, b = follow(optimizer, steps=1), follow(without, steps=1)
    for path in SHAPES:
        want = 0.1 * 0.5 * PARAMETERS[path] if is_kernel(path) else 0
        np.testing.assert_allclose(b[path] - a[path], want, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_leaf_retraces_and_a_traced_number_is_the_plain_one(kind):
    traces = []

    @jax.jit
    def run(optimizer):
        traces.append(1)
        return follow(optimizer, steps=2)

    names = [f.name for f in dataclasses.fields(kind) if f.metadata["role"] == "leaf"]
    numbers = {name: getattr(kind(), name) for name in names}
    given = {name: 0.3 if value is None else value for name, value in numbers.items()}
    for scale in (1.0, 0.8):
        optimizer = kind(**{name: value * scale for name, value in given.items()})
        assert_same(run(as_arrays(optimizer)), follow(optimizer, steps=2), rtol=2e-4)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_leaf_matters(kind):
    run_once = jax.jit(lambda optimizer: follow(optimizer, steps=4))
    names = [f.name for f in dataclasses.fields(kind) if f.metadata["role"] == "leaf" and f.name != "epsilon"]
    base = kind(learning_rate=0.3, **{name: 0.3 for name in names if getattr(kind(), name) is None})
    before = run_once(base)
    for name in names:
        after = run_once(dataclasses.replace(base, **{name: getattr(base, name) * 0.5}))
        assert any(not np.array_equal(before[path], after[path]) for path in SHAPES), name


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_optimizers_are_those_alone(kind):
    alone = [kind(learning_rate=rate) for rate in (0.001, 0.03)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(as_arrays, alone))
    together = jax.jit(jax.vmap(lambda optimizer: follow(optimizer, steps=3)))(stacked)
    for index, optimizer in enumerate(alone):
        assert_same({path: p[index] for path, p in together.items()}, follow(optimizer, steps=3), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_state_is_float32_shares_no_memory_and_can_be_donated(kind, wrap):
    transformation = kind().transformation(is_kernel)
    parameters = jax.tree.map(jnp.asarray, PARAMETERS)
    state = wrap(transformation.init)(parameters)
    leaves = jax.tree.leaves((state, parameters))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert {leaf.dtype for leaf in leaves if leaf.ndim} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    step = jax.jit(transformation.update, donate_argnums=1)
    for _ in range(2):
        direction, new = step(gradient(parameters), state, parameters)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert {path: d.dtype for path, d in direction.items()} == dict.fromkeys(SHAPES, jnp.dtype("float32"))
        state = new


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_valid(kind):
    assert validate(kind()) == kind()
