"""The GPT decoder: published counts, causality, errors, and Hugging Face's twin."""

import dataclasses

import jax
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import GPT, network
from research.parameters import flatten, read, total, views
from research.spec import Spec

SMALL = GPT(depth=3, width=32, heads=4, context=10)


def spec(positions, tokens):
    return Spec((positions,), tokens, ("",) * tokens, tokens)


def shapes(model, data):
    return flatten(jax.eval_shape(network(model, data).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("depth", "width", "heads", "count"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_counts_are_the_published_ones(depth, width, heads, count):
    model = GPT(depth=depth, width=width, heads=heads, scan=True)
    assert total(shapes(model, spec(128, 50_257))).parameters == count


def test_a_position_depends_on_itself_and_what_is_before_it():
    net = network(SMALL, spec(8, 11))
    run = jax.jit(lambda tokens: net.apply(net.init(jax.random.key(0)), tokens, train=False)[0])
    tokens = np.random.default_rng(0).integers(0, 11, (2, 8))
    other = tokens.copy()
    other[:, 5] = (other[:, 5] + 1) % 11
    changed = np.any(np.asarray(run(tokens) != run(other)), axis=(0, 2))
    assert changed.tolist() == [False] * 5 + [True] * 3
    assert run(tokens).shape == (2, 8, 11)


@pytest.mark.parametrize("scan", [False, True])
def test_initial_values_are_those_of_gpt_2(scan):
    net = network(GPT(depth=8, width=64, heads=4, context=64, scan=scan), spec(8, 50))
    parameters = flatten(jax.jit(net.init)(jax.random.key(0))["params"])
    shallower = {"positions/embedding": 0.01}
    for path in views(parameters, net.stacks):
        if path.endswith(("kernel", "embedding")):
            is_added = path.endswith(("attention/output/kernel", "dense_1/kernel"))
            expected = shallower.get(path, 0.02 / np.sqrt(16) if is_added else 0.02)
            assert np.std(read(parameters, path, net.stacks)) == pytest.approx(expected, rel=0.06), path


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"GPT: inputs \(11,\) are longer than the context of 10 positions"):
        network(SMALL, spec(11, 7))
    with pytest.raises(UserError, match=r"GPT needs inputs of tokens \(positions,\); these are numbers \(8, 8, 1\)"):
        network(SMALL, Spec((8, 8, 1), 2, ("a", "b")))
    with pytest.raises(UserError, match="which of 7 tokens is next; the data has 2 classes"):
        network(SMALL, Spec((8,), 2, ("a", "b"), 7))
    with pytest.raises(UserError, match="heads: 5 heads do not divide the width of 768"):
        validate(GPT(heads=5))
    net = network(SMALL, spec(8, 7))
    with pytest.raises(UserError, match=r"given inputs \(1, 8\) of float32; tokens are whole numbers"):
        net.apply(jax.eval_shape(net.init, jax.random.key(0)), np.zeros((1, 8), np.float32), train=False)


@pytest.mark.peers
@pytest.mark.parametrize("scan", [False, True])
def test_logits_are_those_of_transformers(scan, copied_parameters):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    twin = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=23, n_positions=10, n_embd=32, n_layer=3, n_head=4, attn_implementation="eager"
        )
    ).eval()
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    theirs = {name.removeprefix("transformer."): tensor.numpy() for name, tensor in twin.state_dict().items()}
    layers = {
        "norm_0": "ln_1",
        "norm_1": "ln_2",
        "attention/output": "attn.c_proj",
        "dense_0": "mlp.c_fc",
        "norm": "ln_f",
    }
    layers["dense_1"] = "mlp.c_proj"

    def array_of(path):  # whose Conv1D has kernels (in, out), as ours
        layer, _, kind = path.rpartition("/")
        if kind == "embedding":
            return theirs[{"tokens": "wte.weight", "positions": "wpe.weight"}[layer]]
        where, kind = "", "bias" if kind == "bias" else "weight"
        if layer.startswith("block_"):
            block, _, layer = layer.partition("/")
            where = f"h.{int(block.removeprefix('block_'))}."
        thirds = ["attention/query", "attention/key", "attention/value"]
        if layer in thirds:
            return np.split(theirs[f"{where}attn.c_attn.{kind}"], 3, axis=-1)[thirds.index(layer)]
        return theirs[f"{where}{layers[layer]}.{kind}"]

    net = network(dataclasses.replace(SMALL, scan=scan), spec(8, 23))
    tokens = np.random.default_rng(0).integers(0, 23, (2, 8))
    with torch.no_grad():
        expected = twin(torch.tensor(tokens)).logits.numpy()
    ours = net.apply(copied_parameters(net, array_of), tokens, train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
