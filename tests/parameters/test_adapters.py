"""Low-rank adapters: a network that has them is the network with one kernel in the place of two, in any family."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import from_json, to_json, validate
from research.errors import UserError
from research.models import GPT, MLP, ConvNet, SmallResNet, ViT, network
from research.models.base import kernels, stacks
from research.parameters import LoRA, cut, flatten, unflatten, views
from research.parameters.adapters import adapted, initial, merge, shapes
from research.spec import Spec

PICTURES = Spec((8, 8, 2), 3, ("a", "b", "c"))
TOKENS = Spec((6,), 11, tuple(map(str, range(11))), 11)
_TRANSFORMER = {"depth": 2, "width": 8, "heads": 2, "expansion": 2}


class Foreign(nn.Module):
    """Layers of Flax's own: attention by heads, a strided and a dilated convolution."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs, train):
        how = {"strides": 2, "padding": "VALID", "kernel_dilation": 2}
        outputs = nn.relu(nn.Conv(4, (3, 3), name="convolution_0", **how)(inputs))
        outputs = nn.Conv(6, (2,), use_bias=False, name="convolution_1")(outputs.reshape(len(outputs), -1, 4))
        outputs = nn.MultiHeadDotProductAttention(num_heads=3, name="attention")(outputs)
        return nn.Dense(self.classes, name="head")(outputs.mean(axis=1))


MODELS = {
    "MLP": (MLP(depth=3, width=8, norm="layer"), PICTURES),
    "MLP, scanned": (MLP(depth=3, width=8, scan=True), PICTURES),
    "ConvNet": (ConvNet(features=(3, 4), hidden=(5,), norm="batch"), PICTURES),
    "ResNet": (SmallResNet(depth=8, width=2), PICTURES),
    "ViT": (ViT(patch=4, **_TRANSFORMER), PICTURES),
    "ViT, scanned": (ViT(patch=4, scan=True, remat=True, **_TRANSFORMER), PICTURES),
    "GPT": (GPT(context=6, **_TRANSFORMER), TOKENS),
    "GPT, scanned": (GPT(context=6, scan=True, **_TRANSFORMER), TOKENS),
    "Flax's own": (Foreign(), PICTURES),
}


def made(model, spec, *loras, seed=0):
    """(plain network, adapted network, all parameters, state, {layer: index}), with random factors."""
    plain = network(model, spec)
    variables = plain.init(jax.random.key(1))
    parameters, state = flatten(variables.pop("params")), variables
    of = kernels(model, spec)
    layers = adapted(loras, parameters, of, stacks(model))
    random = np.random.default_rng(seed)
    factors = {
        path: jnp.asarray(0.3 * random.normal(size=form.shape).astype(np.float32))
        for path, form in shapes(layers, loras, parameters, of, stacks(model)).items()
    }
    net = network(model, spec, {layer: loras[index].low_rank for layer, index in layers.items()})
    return plain, net, parameters | factors, state, layers


def apply(net, parameters, state, spec, **how):
    random = np.random.default_rng(2)
    inputs = random.normal(size=(4, *spec.shape)).astype(np.float32)
    if spec.tokens is not None:
        inputs = random.integers(0, spec.tokens, (4, *spec.shape)).astype(np.int32)
    how = {"train": False} | how
    return np.asarray(net.apply({"params": unflatten(parameters), **state}, inputs, **how)[0])


def scales_of(layers, loras):
    return {layer: loras[index].low_rank.scale for layer, index in layers.items()}


@pytest.mark.parametrize("name", MODELS)
def test_merged_and_unmerged_outputs_agree(name):
    model, spec = MODELS[name]
    loras = (LoRA(".*kernel", rank=2, alpha=0.6),)
    plain, net, parameters, state, layers = made(model, spec, *loras)
    assert {f"{layer}/kernel" for layer in layers} == {path for path in parameters if path.endswith("kernel")}
    merged = merge(parameters, scales_of(layers, loras))
    assert merged.keys() == {path for path in parameters if "lora" not in path}
    ours, other = (apply(*arguments, state, spec) for arguments in ((net, parameters), (plain, merged)))
    np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)
    without = {path: value for path, value in parameters.items() if "lora" not in path}
    assert np.abs(ours - apply(plain, without, state, spec)).max() > 1e-2  # they do something


@pytest.mark.parametrize("name", MODELS)
def test_new_adapters_leave_the_outputs_as_they_were(name):
    model, spec = MODELS[name]
    loras = (LoRA(".*kernel", rank=2),)
    plain, net, parameters, state, _ = made(model, spec, *loras)
    forms = {path: value for path, value in parameters.items() if "lora" in path}
    new = initial(jax.random.key(0), forms, stacks(model))
    assert {path: value.shape for path, value in new.items()} == {path: value.shape for path, value in forms.items()}
    without = {path: value for path, value in parameters.items() if "lora" not in path}
    before = apply(plain, without, state, spec)
    np.testing.assert_allclose(apply(net, without | new, state, spec), before, rtol=1e-5, atol=1e-6)  # another program


@pytest.mark.parametrize("kind", ["MLP", "ViT", "GPT"])
def test_a_scanned_stack_begins_and_drops_as_the_unrolled_one(kind):
    model, spec = MODELS[f"{kind}, scanned"]
    pattern = "block_0[12]/dense/kernel" if kind == "MLP" else "attention/(query|output)/kernel"
    loras = (LoRA(pattern, rank=2, alpha=8.0 if kind == "GPT" else 0.5, dropout=0.5),)
    found = []
    for scan in (False, True):
        each = dataclasses.replace(model, scan=scan)
        _, net, parameters, state, _ = made(each, spec, *loras)
        forms = {path: value for path, value in parameters.items() if "lora" in path}
        new = initial(jax.random.key(5), forms, stacks(each))
        by_view = {path: read_view(new, view) for path, view in views(new, stacks(each)).items()}
        parameters |= {path: new[path] if path.endswith("a") else jnp.ones_like(value) for path, value in forms.items()}
        trained = apply(net, parameters, state, spec, train=True, key=jax.random.key(3))
        again = apply(net, parameters, state, spec, train=True, key=jax.random.key(4))
        assert np.abs(trained - again).max() > 1e-3
        assert np.abs(trained - apply(net, parameters, state, spec)).max() > 1e-3
        found.append((by_view, trained))
    (first, unrolled), (second, scanned) = found
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[path], second[path]) for path in first)
    factors = [np.asarray(value).tobytes() for path, value in first.items() if path.endswith("lora_a")]
    assert len(set(factors)) == len(factors) > 1  # each block has its own
    np.testing.assert_allclose(unrolled, scanned, rtol=1e-4, atol=1e-4)


def read_view(parameters, view):
    return parameters[view.leaf] if view.index is None else parameters[view.leaf][view.index]


def test_dropout_needs_a_key():
    model, spec = MODELS["ViT"]
    _, net, parameters, state, _ = made(model, spec, LoRA("head/kernel", dropout=0.1))
    with pytest.raises(UserError, match="ViT draws random numbers"):
        apply(net, parameters, state, spec, train=True)
    assert apply(net, parameters, state, spec).shape == (4, 3)


def test_dropout_is_of_the_adapters_inputs_alone():
    """By hand: what the factors see is the layer's input, dropped and rescaled; a dropout of next to all leaves W x."""
    model, spec = MODELS["MLP"]
    (lora,) = loras = (LoRA("block_00/dense/kernel", rank=2, dropout=0.999),)
    plain, net, parameters, state, _ = made(model, spec, *loras)
    without = {path: value for path, value in parameters.items() if "lora" not in path}
    trained = apply(net, parameters, state, spec, train=True, key=jax.random.key(0))
    close = np.isclose(trained, apply(plain, without, state, spec), atol=1e-5).all(axis=1)
    assert close.any() and lora.dropout == 0.999


def test_a_stack_that_is_cut_has_its_adapters():
    model, spec = MODELS["GPT, scanned"]
    loras = (LoRA("attention/value/kernel", rank=2, dropout=0.5),)
    _, net, parameters, state, _ = made(model, spec, *loras)
    pieces = cut(parameters, stacks(model), {"block": (1,)})
    assert "block[01:02]/attention/value/lora_a" in pieces
    for how in ({}, {"train": True, "key": jax.random.key(0)}):
        whole, parts = (apply(net, each, state, spec, **how) for each in (parameters, pieces))
        np.testing.assert_allclose(whole, parts, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_kernel_is_not_formed():
    """Of the products in the backward pass none has the kernel's shape for its result."""
    model, spec = MLP(depth=3, width=24), Spec((20,), 3, ("a", "b", "c"))
    _, net, parameters, _, _ = made(model, spec, LoRA("block_.*/kernel", rank=2))
    factors = {path: value for path, value in parameters.items() if "lora" in path}
    frozen = {path: value for path, value in parameters.items() if "lora" not in path}

    def loss(factors):
        return net.apply({"params": unflatten(frozen | factors)}, jnp.ones((7, 20)), train=True)[0].sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(factors))
    products = re.findall(r"(\S+):f32\[([\d,]+)\] = dot_general", program)
    assert products and not {"20,24", "24,20", "24,24", "24,3"} & {shape for _, shape in products}


def test_products_are_attention_and_convolution_alike():
    """The shapes of the factors, by kind of layer."""
    model, spec = MODELS["Flax's own"]
    _, _, parameters, _, _ = made(model, spec, LoRA(".*kernel", rank=2))
    assert {path: value.shape for path, value in parameters.items() if "lora" in path} == {
        "attention/key/lora_a": (6, 2),
        "attention/key/lora_b": (2, 3, 2),
        "attention/out/lora_a": (3, 2, 2),
        "attention/out/lora_b": (2, 6),
        "attention/query/lora_a": (6, 2),
        "attention/query/lora_b": (2, 3, 2),
        "attention/value/lora_a": (6, 2),
        "attention/value/lora_b": (2, 3, 2),
        "convolution_0/lora_a": (3, 3, 2, 2),
        "convolution_0/lora_b": (2, 4),
        "convolution_1/lora_a": (2, 4, 2),
        "convolution_1/lora_b": (2, 6),
        "head/lora_a": (6, 2),
        "head/lora_b": (2, 3),
    }


def test_low_precision_stays_low():
    model, spec = MODELS["ViT"]
    _, net, parameters, state, _ = made(model, spec, LoRA(".*kernel", rank=2))
    half = {path: value.astype(jnp.bfloat16) for path, value in parameters.items()}
    inputs = jnp.ones((2, *spec.shape), jnp.bfloat16)
    assert net.apply({"params": unflatten(half), **state}, inputs, train=False)[0].dtype == jnp.bfloat16


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be


def problems(model, spec, *loras):
    with pytest.raises(UserError) as caught:
        made(model, spec, *loras)
    return caught.value.problems


def test_all_that_is_wrong_with_adapters_is_told_at_once():
    model, spec = MODELS["ViT"]
    lines = problems(
        model,
        spec,
        LoRA("atention/query/kernel"),
        LoRA("attention/(", rank=2),
        LoRA("block_01/.*", rank=3),
        LoRA("attention/value/kernel", rank=4),
        LoRA("embedding/kernel|positions"),
    )
    assert len(lines) == 5
    assert lines[0].startswith("adapters: LoRA('atention/query/kernel', rank=8) matches no parameter; did you mean '")
    assert "attention/query/kernel'?" in lines[0]
    assert lines[1].startswith("adapters.1.pattern: 'attention/(' is no regular expression")
    assert lines[2].startswith("adapters: LoRA('block_01/.*', rank=3) matches block_01/norm_0/scale, ")
    assert lines[2].endswith("which is no kernel of a dense, attention or convolutional layer")
    assert "matches positions, which is no kernel" in lines[3]
    assert lines[4] == (
        "adapters: block_01/attention/value/kernel: a kernel has one adapter, and LoRA('block_01/.*', rank=3) and "
        "LoRA('attention/value/kernel', rank=4) match"
    )


def test_some_blocks_of_a_stack_alone_are_refused():
    model, spec = MODELS["ViT, scanned"]
    (line,) = problems(model, spec, LoRA("block_01/dense_0/kernel"))
    assert line.startswith("adapters: block/dense_0/kernel holds 2 blocks, of which only some match")


def test_a_grouped_convolution_is_refused():
    class Grouped(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs):
            outputs = nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(inputs)
            return nn.Dense(self.classes, name="head")(outputs.mean(axis=(1, 2)))

    (line,) = problems(Grouped(), PICTURES, LoRA(".*kernel", rank=1))
    assert line == (
        "adapters: LoRA('.*kernel', rank=1) matches grouped/kernel, which is a convolution in 2 groups, each with its "
        "own inputs"
    )


def test_adapters_are_configs():
    lora = LoRA("head/kernel", rank=2, alpha=3, dropout=0.1)
    assert from_json(to_json(lora), LoRA) == lora
    assert type(lora.alpha) is float
    assert dataclasses.replace(lora, rank=3) == LoRA("head/kernel", rank=3, alpha=3.0, dropout=0.1)
    assert len(jax.tree.leaves(lora)) == 2
    assert str(lora) == "LoRA('head/kernel', rank=2)"
    with pytest.raises(UserError):
        validate(LoRA("head/kernel", rank=0, dropout=1.0))
