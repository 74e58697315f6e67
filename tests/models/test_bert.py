"""The BERT encoder: published counts, padding, errors, and Hugging Face's twin."""

import dataclasses

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.models import BERT, network
from research.parameters import by_prefix, flatten, total
from research.spec import Spec

SMALL = BERT(depth=3, width=32, heads=4, context=10, padding=0)


def spec(positions, tokens, classes):
    return Spec((positions,), classes, ("",) * classes, tokens)


def shapes(model, data):
    return flatten(jax.eval_shape(network(model, data).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("depth", "width", "heads", "count"), [(12, 768, 12, 109_482_240), (24, 1024, 16, 335_141_888)]
)
def test_counts_with_the_pooler_are_the_published_ones(depth, width, heads, count):
    found = shapes(BERT(depth=depth, width=width, heads=heads), spec(128, 30_522, 2))
    assert total(found).parameters - by_prefix(found)["head"].parameters == count


def test_the_count_with_the_head_for_masked_tokens_is_the_published_one():
    assert total(shapes(BERT(head="tokens", scan=True), spec(128, 30_522, 30_522))).parameters == 109_514_298


@pytest.mark.parametrize("scan", [False, True])
def test_padding_changes_nothing(scan):
    net = network(dataclasses.replace(SMALL, scan=scan), spec(8, 11, 3))
    short = network(SMALL, spec(5, 11, 3))
    variables = jax.jit(network(SMALL, spec(8, 11, 3)).init)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(1, 11, (2, 5))
    padded = np.pad(tokens, ((0, 0), (0, 3)))
    expected = short.apply(variables, tokens, train=False)[0]
    ours = net.apply(jax.jit(net.init)(jax.random.key(0)), padded, train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_after_the_first_separator_begins_the_second_segment():
    one, two = (network(dataclasses.replace(SMALL, separator=separator), spec(8, 11, 3)) for separator in (None, 9))
    variables = jax.jit(one.init)(jax.random.key(0))
    first, second = variables["params"]["segments"]["embedding"]
    same = {**variables["params"], "segments": {"embedding": np.stack([first, first])}}
    tokens = np.array([[1, 2, 9, 4, 5, 9, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]])
    segments = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [0] * 8])

    def embedded(net, params):
        run = jax.jit(lambda tokens: net.apply({"params": params}, tokens, train=False, features=("segments", "norm")))
        return run(tokens)[1]["features"]

    found = embedded(two, variables["params"])
    np.testing.assert_array_equal(found["segments"], np.stack([first, second])[segments])
    np.testing.assert_array_equal(embedded(two, same)["norm"], embedded(one, same)["norm"])
    changed = np.any(np.asarray(found["norm"] != embedded(one, variables["params"])["norm"]), axis=-1)
    np.testing.assert_array_equal(changed, segments == 1)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"BERT: inputs \(11,\) are longer than the context of 10 positions"):
        network(SMALL, spec(11, 7, 2))
    with pytest.raises(UserError, match=r"BERT needs inputs of tokens \(positions,\); these are numbers \(64,\)"):
        network(SMALL, Spec((64,), 2, ("a", "b")))
    with pytest.raises(UserError, match="which of 7 tokens it is; the data has 2 classes"):
        network(BERT(head="tokens"), spec(8, 7, 2))
    for name in ("padding", "separator"):
        with pytest.raises(UserError, match=f"BERT: {name} 11 is no token; there are 11, from 0"):
            network(dataclasses.replace(SMALL, **{name: 11}), spec(8, 11, 2))


@pytest.mark.peers
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("head", ["class", "tokens"])
@pytest.mark.parametrize("separator", [None, 9])
def test_logits_are_those_of_transformers(head, scan, separator, copied_parameters):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=23,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=10,
        num_labels=5,
        attn_implementation="eager",
    )
    kind_of_model = {"class": transformers.BertForSequenceClassification, "tokens": transformers.BertForMaskedLM}
    twin = kind_of_model[head](settings).eval()
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    theirs = {name.removeprefix("bert."): tensor.numpy() for name, tensor in twin.state_dict().items()}
    layers = {
        "tokens": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "segments": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "attention/query": "attention.self.query",
        "attention/key": "attention.self.key",
        "attention/value": "attention.self.value",
        "attention/output": "attention.output.dense",
        "norm_0": "attention.output.LayerNorm",
        "dense_0": "intermediate.dense",
        "dense_1": "output.dense",
        "norm_1": "output.LayerNorm",
        "pooler": "pooler.dense",
        "head": "classifier",
        "dense": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "": "cls.predictions",
    }

    def array_of(path):
        layer, _, kind = path.rpartition("/")
        where = ""
        if layer.startswith("block_"):
            block, _, layer = layer.partition("/")
            where = f"encoder.layer.{int(block.removeprefix('block_'))}."
        array = theirs[f"{where}{layers[layer]}.{'bias' if kind == 'bias' else 'weight'}"]
        return array.T if kind == "kernel" else array

    model = dataclasses.replace(SMALL, head=head, scan=scan, separator=separator)
    net = network(model, spec(8, 23, 5 if head == "class" else 23))
    tokens = np.random.default_rng(0).integers(10, 23, (2, 8))
    tokens[1, 6:] = 0
    segments = np.zeros((2, 8), int)
    if separator is not None:
        tokens[0, [2, 6]] = tokens[1, 3] = separator
        segments[0, 3:] = segments[1, 4:] = 1
    with torch.no_grad():
        expected = twin(
            torch.tensor(tokens), attention_mask=torch.tensor(tokens != 0), token_type_ids=torch.tensor(segments)
        ).logits.numpy()
    ours = net.apply(copied_parameters(net, array_of), tokens, train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
