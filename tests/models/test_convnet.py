"""The convolutional network in one, two and three dimensions: shapes, counts, errors, and PyTorch's twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import ConvNet, network
from research.parameters import flatten, total
from research.spec import Spec


def spec(*shape):
    return Spec(shape, 3, ("a", "b", "c"))


def shapes(model, *shape):
    params = jax.eval_shape(network(model, spec(*shape)).init, jax.random.key(0))["params"]
    return {path: leaf.shape for path, leaf in flatten(params).items()}


@pytest.mark.parametrize("shape", [(9, 2), (9, 8, 2), (5, 4, 6, 2)], ids=["signal", "image", "volume"])
@pytest.mark.parametrize(("head", "pooling"), [("flatten", "max"), ("average", None), ("flatten", "average")])
def test_one_network_serves_signals_images_and_volumes(shape, head, pooling):
    net = network(ConvNet(features=(3, 4), head=head, pooling=pooling, hidden=(5,)), spec(*shape))
    variables = net.init(jax.random.key(0))
    apply = jax.jit(lambda v, x: net.apply(v, x, train=False, features=("stage_1",)))
    logits, changed = apply(variables, jnp.ones((2, *shape)))
    assert logits.shape == (2, 3)
    sizes = shape[:-1] if pooling is None else tuple(size // 2 // 2 for size in shape[:-1])
    assert changed["features"]["stage_1"].shape == (2, *sizes, 4)
    assert variables["params"]["dense_0"]["kernel"].shape[0] == (4 if head == "average" else 4 * np.prod(sizes))


def test_paths_and_shapes_are_as_documented():
    assert shapes(ConvNet(features=(4, 8), convolutions=2, kernel_size=5, hidden=(6,), norm="group"), 8, 8, 1) == {
        **{f"stage_0/norm_{i}/{name}": (4,) for i in (0, 1) for name in ("scale", "bias")},
        **{f"stage_1/norm_{i}/{name}": (8,) for i in (0, 1) for name in ("scale", "bias")},
        "stage_0/convolution_0/kernel": (5, 5, 1, 4),
        "stage_0/convolution_0/bias": (4,),
        "stage_0/convolution_1/kernel": (5, 5, 4, 4),
        "stage_0/convolution_1/bias": (4,),
        "stage_1/convolution_0/kernel": (5, 5, 4, 8),
        "stage_1/convolution_0/bias": (8,),
        "stage_1/convolution_1/kernel": (5, 5, 8, 8),
        "stage_1/convolution_1/bias": (8,),
        "dense_0/kernel": (32, 6),
        "dense_0/bias": (6,),
        "head/kernel": (6, 3),
        "head/bias": (3,),
    }


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_number_of_parameters_is_the_closed_formula(norm, dimensions):
    model = ConvNet(features=(4, 6), convolutions=2, norm=norm, head="average", hidden=(5,))
    window = 3**dimensions
    kernels = window * (2 * 4 + 4 * 4 + 4 * 6 + 6 * 6)
    each = {None: 1, "batch": 2, "layer": 3}[norm] * (4 + 4 + 6 + 6)
    net = network(model, spec(*(4,) * dimensions, 2))
    parameters = flatten(jax.eval_shape(net.init, jax.random.key(0))["params"])
    assert total(parameters).parameters == kernels + each + (6 + 1) * 5 + (5 + 1) * 3


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_remat_changes_neither_values_nor_gradients(norm):
    arguments = {"features": (4,), "dropout": 0.3, "norm": norm, "hidden": (4,)}
    inputs, key, results = jnp.ones((3, 4, 4, 1)) * jnp.arange(3.0)[:, None, None, None], jax.random.key(1), []
    for remat in (False, True):
        net = network(ConvNet(**arguments, remat=remat), spec(4, 4, 1))
        loss = lambda v: (net.apply(v, inputs, train=True, key=key)[0] ** 2).sum()  # noqa: B023, E731
        results.append(jax.jit(jax.value_and_grad(loss))(net.init(jax.random.key(0))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_bfloat16_in_is_bfloat16_out():
    net = network(ConvNet(features=(4,)), spec(4, 4, 1))
    variables = jax.tree.map(lambda p: p.astype(jnp.bfloat16), net.init(jax.random.key(0)))
    assert net.apply(variables, jnp.ones((2, 4, 4, 1), jnp.bfloat16), train=True)[0].dtype == jnp.bfloat16


def test_pooling_that_leaves_nothing_is_refused():
    message = r"stage_2 would pool \(1, 2\) to nothing; inputs of \(4, 8, 1\) have room for 2 stages with pooling"
    with pytest.raises(UserError, match=message):
        network(ConvNet(features=(2, 2, 2)), spec(4, 8, 1))
    network(ConvNet(features=(2, 2, 2), pooling=None), spec(4, 8, 1))


def test_a_table_is_refused():
    with pytest.raises(UserError, match=r"these have \(64,\); use MLP"):
        network(ConvNet(), spec(64))


def test_fields_out_of_range_are_refused():
    for wrong in ({"features": ()}, {"features": (4, 0)}, {"kernel_size": 0}, {"pooling": "min"}, {"head": "mean"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            validate(ConvNet(**wrong))


@pytest.mark.peers
def test_logits_and_a_step_of_sgd_are_pytorchs():
    import torch

    net = network(ConvNet(features=(4, 6), norm="batch", hidden=(10,)), spec(8, 8, 2))
    variables = net.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(16, 8, 8, 2)).astype(np.float32), rng.integers(0, 3, 16)
    p = {path: np.array(leaf) for path, leaf in flatten(variables["params"]).items()}

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            conv = lambda i, o: torch.nn.Conv2d(i, o, 3, padding=1, bias=False)  # noqa: E731
            norm = lambda n: torch.nn.BatchNorm2d(n, eps=1e-5)  # noqa: E731
            self.convolutions = torch.nn.ModuleList([conv(2, 4), conv(4, 6)])
            self.norms = torch.nn.ModuleList([norm(4), norm(6)])
            self.dense, self.head = torch.nn.Linear(24, 10), torch.nn.Linear(10, 3)

        def forward(self, x):
            for convolution, norm in zip(self.convolutions, self.norms, strict=True):
                x = torch.nn.functional.max_pool2d(torch.relu(norm(convolution(x))), 2)
            x = x.permute(0, 2, 3, 1).flatten(1)  # features last, as ours
            return self.head(torch.relu(self.dense(x)))

    twin = Twin()
    names = {
        **{f"stage_{i}/convolution_0/kernel": (twin.convolutions[i].weight, (3, 2, 0, 1)) for i in (0, 1)},
        **{f"stage_{i}/norm_0/scale": (twin.norms[i].weight, (0,)) for i in (0, 1)},
        **{f"stage_{i}/norm_0/bias": (twin.norms[i].bias, (0,)) for i in (0, 1)},
        "dense_0/kernel": (twin.dense.weight, (1, 0)),
        "dense_0/bias": (twin.dense.bias, (0,)),
        "head/kernel": (twin.head.weight, (1, 0)),
        "head/bias": (twin.head.bias, (0,)),
    }
    assert set(names) == set(p)
    for path, (weight, axes) in names.items():
        weight.data = torch.tensor(p[path].transpose(axes).copy())
    logits = twin(torch.tensor(inputs.transpose(0, 3, 1, 2).copy()))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    with torch.no_grad():
        for weight in twin.parameters():
            weight -= 0.1 * weight.grad

    def loss(params):
        ours, _ = net.apply({**variables, "params": params}, inputs, train=True)
        return -jnp.mean(jax.nn.log_softmax(ours)[jnp.arange(16), labels]), ours

    gradient, ours = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(ours, logits.detach().numpy(), rtol=1e-4, atol=1e-5)
    stepped = flatten(jax.tree.map(lambda w, g: w - 0.1 * g, variables["params"], gradient))
    for path, (weight, axes) in names.items():
        expected = weight.detach().numpy().transpose(np.argsort(axes))
        np.testing.assert_allclose(stepped[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)
