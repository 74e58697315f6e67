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
    transformation_for,
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


def polar_factor(kernel, matrix):
    """U V^T of the kernel's matrix U S V^T, in float64: what orthogonalising is to come to."""
    left, _, right = np.linalg.svd(kernel.astype(np.float64).reshape(matrix), full_matrices=False)
    return (left @ right).reshape(kernel.shape)


@pytest.mark.parametrize(
    ("path", "shape", "matrix"),
    [
        ("attention/query/kernel", (12, 3, 4), (12, 12)),
        ("attention/key/kernel", (6, 3, 4), (6, 12)),
        ("block_00/attention/value/kernel", (20, 3, 4), (20, 12)),
        ("attention/out/kernel", (3, 4, 10), (12, 10)),
        ("convolution/kernel", (3, 3, 2, 8), (18, 8)),
        ("signal/kernel", (5, 4, 8), (20, 8)),
        ("volume/kernel", (2, 3, 3, 2, 8), (36, 8)),
        ("dense/kernel", (9, 14), (9, 14)),
    ],
)
def test_muon_orthogonalises_the_matrix_that_a_kernel_stands_for(path, shape, matrix):
    # A gradient whose singular values are not far apart, so that Newton-Schulz converges well.
    left, _, right = np.linalg.svd(RNG.normal(size=matrix), full_matrices=False)
    gradient = ((left * np.linspace(0.5, 1, min(matrix))) @ right).reshape(shape).astype(np.float32)
    transformation = Muon(weight_decay=None, rms=1.0).transformation(is_kernel)
    direction, _ = transformation.update({path: gradient}, transformation.init({path: gradient}), {path: gradient})
    expected = polar_factor(gradient, matrix) * np.sqrt(max(matrix))
    error = np.linalg.norm(direction[path] - expected) / np.linalg.norm(expected)
    assert error < 0.25  # singular values come to lie between 0.7 and 1.2: that is how its polynomial was chosen
    alignment = np.sum(direction[path] * expected) / np.linalg.norm(direction[path]) / np.linalg.norm(expected)
    assert alignment > 0.97


BLOCKS = {
    "attention/query/kernel": (8, 2, 4),
    "attention/out/kernel": (2, 4, 8),
    "dense/kernel": (8, 16),
    "dense/bias": (16,),
    "norm/scale": (8,),
}


@pytest.mark.parametrize("kind", [*KINDS, lambda: Adafactor(smallest_factored=2, momentum=0.5), lambda: Muon(rms=None)])
def test_blocks_of_a_stack_are_updated_as_each_would_be_alone(kind):
    depth, steps, optimizer = 3, 3, kind()
    alone = {
        f"block_{i:02d}/{path}": RNG.normal(size=shape) * (1 + i)
        for i in range(depth)
        for path, shape in BLOCKS.items()
    }
    alone = {path: value.astype(np.float32) for path, value in alone.items()} | {
        "head/kernel": PARAMETERS["head/kernel"]
    }

    def stacked(tree):
        blocks = {path: jnp.stack([tree[f"block_{i:02d}/{path}"] for i in range(depth)]) for path in BLOCKS}
        return {"head/kernel": tree["head/kernel"], **{f"block/{path}": value for path, value in blocks.items()}}

    def follow_from(parameters, stacks):
        transformation, slope = (
            transformation_for(optimizer, is_kernel, stacks),
            {k: v * 3 for k, v in parameters.items()},
        )
        state = transformation.init(parameters)
        for _ in range(steps):
            direction, state = transformation.update(slope, state, parameters)
            parameters = {path: p - 0.01 * direction[path] for path, p in parameters.items()}
        return parameters

    assert_same(follow_from(stacked(alone), ("block",)), stacked(follow_from(alone, ())))


def test_an_optimizer_that_looks_at_whole_parameters_says_so():
    for kind in KINDS:
        parameters = {"layer/kernel": jnp.ones((4, 6)) + jnp.arange(6.0)}
        transformation = kind().transformation(is_kernel)
        state = transformation.init(parameters)

        def first(gradient, transformation=transformation, state=state, parameters=parameters):
            return transformation.update({"layer/kernel": gradient}, state, parameters)[0]["layer/kernel"][0, 0]

        others = jax.grad(first)(parameters["layer/kernel"]).at[0, 0].set(0.0)
        assert bool(jnp.any(others != 0)) == kind.by_layer, kind


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
