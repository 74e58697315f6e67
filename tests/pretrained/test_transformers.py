"""Both directions against transformers itself: tiny models with perturbed weights and running statistics.

Its models are saved by it and read by us, ours are saved by us and read by it; logits agree to 1e-5. Weights after a
step of training in both agree to 1e-8 in float64, since in float32 gradients through many batch norms are coarse.
"""

import jax
import numpy as np
import pytest

from research.models import network
from research.parameters import unflatten
from research.pretrained import read_pretrained, save_pretrained

pytestmark = pytest.mark.peers
LABELS = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "eel"}


def _resnet(transformers, depths, kind, **more):
    sizes = [8 * 2**i * (4 if kind == "bottleneck" else 1) for i in range(4)]
    settings = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=sizes, depths=depths, layer_type=kind, id2label=LABELS, **more
    )
    return transformers.ResNetForImageClassification(settings)


def _vit(transformers, **more):
    settings = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=(12, 16),
        patch_size=4,
        layer_norm_eps=1e-5,
        id2label=LABELS,
        attn_implementation="eager",
        **more,
    )
    return transformers.ViTForImageClassification(settings)


def _gpt2(transformers, **more):
    settings = transformers.GPT2Config(
        vocab_size=23,
        n_positions=10,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=64,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **more,
    )
    return transformers.GPT2LMHeadModel(settings)


def _bert(transformers, kind, **more):
    settings = transformers.BertConfig(
        vocab_size=23,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=LABELS,
        attn_implementation="eager",
        **more,
    )
    return getattr(transformers, f"BertFor{kind}")(settings)


TWINS = {
    "resnet18": lambda t: _resnet(t, [2, 2, 2, 2], "basic"),
    "resnet50": lambda t: _resnet(t, [3, 4, 6, 3], "bottleneck", num_channels=2),
    "vit": _vit,
    "vit of another activation": lambda t: _vit(t, hidden_act="gelu_pytorch_tanh"),
    "gpt2": _gpt2,
    "bert for classes": lambda t: _bert(t, "SequenceClassification"),
    "bert for tokens": lambda t: _bert(t, "MaskedLM", hidden_act="relu"),
}


@pytest.fixture(params=TWINS)
def twin(request):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    model = TWINS[request.param](transformers).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.ndim < 4:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def _inputs(spec, examples=3):
    rng = np.random.default_rng(0)
    if spec.tokens is not None:
        return rng.integers(1, spec.tokens, (examples, *spec.shape))
    height, width, channels = spec.shape
    size = (37, 40) if height == 224 else (height, width)
    return rng.normal(size=(examples, *size, channels)).astype(np.float32)


def _logits(twin, inputs):
    import torch

    array = inputs if inputs.ndim == 2 else inputs.transpose(0, 3, 1, 2).copy()
    return twin(torch.tensor(array)).logits


def _ours(source, inputs):
    spec = source.spec._replace(shape=inputs.shape[1:])
    variables = {"params": unflatten(source.parameters), **unflatten(source.state)}
    return jax.jit(lambda v: network(source.model, spec).apply(v, inputs, train=False)[0])(variables)


def test_theirs_read_by_us_gives_the_same_logits(twin, tmp_path):
    twin.save_pretrained(tmp_path)
    source = read_pretrained(tmp_path)
    inputs = _inputs(source.spec)
    expected = _logits(twin, inputs).detach().numpy()
    np.testing.assert_allclose(_ours(source, inputs), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    if source.spec.classes == 5:
        assert source.spec.names == tuple(LABELS.values())


def test_ours_saved_by_us_is_read_by_them(twin, tmp_path):
    twin.save_pretrained(tmp_path / "theirs")
    source = read_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(1)
    change = lambda x: np.float32(x + 0.1 * rng.uniform(size=x.shape))  # noqa: E731
    source = source._replace(
        parameters=jax.tree.map(change, source.parameters), state=jax.tree.map(change, source.state)
    )
    save_pretrained(tmp_path / "ours", source.layout, source.model, source.spec, source.parameters, source.state)
    again, report = type(twin).from_pretrained(tmp_path / "ours", attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    inputs = _inputs(source.spec)
    expected = _logits(again.eval(), inputs).detach().numpy()
    np.testing.assert_allclose(_ours(source, inputs), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    if source.spec.classes == 5:
        assert again.config.id2label == LABELS


def test_a_step_of_training_gives_the_same_weights(twin, tmp_path):
    import optax
    import torch

    twin.double().train().save_pretrained(tmp_path / "before")
    source = read_pretrained(tmp_path / "before")
    inputs = _inputs(source.spec)
    inputs = inputs.astype(np.float64) if source.spec.tokens is None else inputs
    shape = inputs.shape[: 2 if source.spec.classes == source.spec.tokens else 1]
    labels = np.random.default_rng(2).integers(0, source.spec.classes, shape)
    net = network(source.model, source.spec._replace(shape=inputs.shape[1:]))

    def loss(parameters):
        variables = {"params": unflatten(parameters), **unflatten(source.state)}
        logits, _ = net.apply(variables, inputs, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    with jax.enable_x64(True):
        gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(source.parameters))
    ours = {path: array - 0.1 * gradient[path] for path, array in source.parameters.items()}

    logits = _logits(twin, inputs)
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), torch.tensor(labels).flatten()).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    twin.save_pretrained(tmp_path / "after")
    theirs = read_pretrained(tmp_path / "after").parameters
    for path, array in ours.items():
        np.testing.assert_allclose(array, theirs[path], rtol=1e-8, atol=1e-8, err_msg=path)
    moved = [path for path in ours if np.abs(theirs[path] - source.parameters[path]).max() > 1e-4]
    assert len(moved) > 0.7 * len(ours)


def test_a_trunk_without_a_head_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    for twin in (_vit(transformers).vit, _bert(transformers, "MaskedLM").bert, _gpt2(transformers).transformer):
        folder = tmp_path / type(twin).__name__
        twin.save_pretrained(folder)
        source = read_pretrained(folder)
        assert "head/kernel" not in source.parameters
        theirs = {tensor.numpy().tobytes() for tensor in twin.state_dict().values()}
        assert source.parameters["norm/scale"].tobytes() in theirs


def test_a_state_dict_of_transformers_is_read_as_its_file_is(tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    twin = _vit(transformers)
    twin.save_pretrained(tmp_path)
    expected = read_pretrained(tmp_path).parameters
    save_file(twin.state_dict(), tmp_path / "model.safetensors")
    found = read_pretrained(tmp_path).parameters
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in found)


def test_shards_are_put_together(tmp_path):
    transformers = pytest.importorskip("transformers")
    twin = _gpt2(transformers)
    twin.save_pretrained(tmp_path / "whole")
    twin.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = (read_pretrained(tmp_path / name) for name in ("whole", "shards"))
    assert whole.parameters.keys() == shards.parameters.keys()
    assert all(np.array_equal(whole.parameters[path], shards.parameters[path]) for path in whole.parameters)


def test_an_untied_head_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    from research.errors import UserError

    _gpt2(transformers, tie_word_embeddings=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="config.json: tie_word_embeddings is False; our model can only be True"):
        read_pretrained(tmp_path)
