"""Training on features that are computed once is training on the examples, and costs nothing before the cut."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data import Digits
from research.data.augmentation import Augmentation
from research.deployment.compression.quantization import FakeQuantized
from research.models import MLP, ConvNet, ViT
from research.models.upto import UpTo
from research.parameters import Partition, freeze, last_blocks, layerwise_decay, linear_probe, onwards, others, train
from research.training import AdamW, CrossEntropy, Finetuning, Objective, phases, run, steps
from research.training.evaluation import to_device
from research.training.features import find_cut, on_features
from research.training.folder import open_run
from research.training.loop import lengths
from research.training.plan import boundary, make_plan, replicate
from research.training.step import initial_state, train_chunk

MODELS = {
    "mlp": MLP(depth=3, width=8, norm="batch", dropout=0.4),
    "mlp-scan": MLP(depth=3, width=8, norm="layer", dropout=0.4, scan=True),
}


def probe(tiny, **fields):
    return tiny(**{"finetuning": Finetuning(partition=linear_probe()), "optimizer": AdamW(learning_rate=0.01)} | fields)


def both(experiment, count=20):
    """The states after some steps on the examples and on features, and what was logged of them."""
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    cut = find_cut(plan, experiment, loaded)
    found = []
    for is_cut in (False, True):
        state, frozen = replicate(plan, initial_state(plan, leaves))
        how, data = on_features(plan, experiment, loaded, cut, state, frozen) if is_cut else (plan, loaded)
        examples = to_device(how, data.splits["train"], data.normalisation)
        found.append(train_chunk(how, leaves, frozen, state, examples, lengths(0, [count])))
    return cut, found


@pytest.mark.parametrize("name", MODELS)
def test_the_steps_are_those_on_the_examples(tiny, name):
    cut, ((state, logged), (again, logged_again)) = both(probe(tiny, model=MODELS[name], clip=1.0, average=0.9))
    assert (cut.layer, cut.features.shape) == ("head", (8,))
    for path, value in state.trainable.items():
        np.testing.assert_allclose(again.trainable[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    for name, value in logged.items():
        np.testing.assert_allclose(logged_again[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_any_layer_may_be_the_first_that_is_trained(tiny):
    partition = Partition(train(onwards("stage_1")), freeze(others()))
    model = ConvNet(features=(2, 3), hidden=(4,), norm="batch", dropout=0.5)
    fields = {"data": Digits(), "model": model, "batch_size": 64, "finetuning": Finetuning(partition=partition)}
    cut, ((state, _), (again, _)) = both(probe(tiny, **fields), count=3)
    assert cut.layer.startswith("stage_1")
    assert cut.features.shape == (4, 4, 2)
    moved = again.trainable | again.model_state
    for path, value in (state.trainable | state.model_state).items():
        np.testing.assert_allclose(moved[path], value, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(("scan", "remat"), [(False, False), (True, False), (False, True), (True, True)])
def test_of_blocks_those_that_are_frozen_are_computed_once_stacked_or_not(tiny, scan, remat):
    model = ViT(depth=4, width=8, heads=2, patch=4, dropout=0.3, scan=scan, remat=remat)
    partitions = {
        "block[02:04]" if scan else "block_02": last_blocks(2),
        "block" if scan else "block_00": Partition(train("block_.*/norm_1/.*|head/.*"), freeze(others())),
    }
    for layer, partition in partitions.items():
        fields = {"data": Digits(), "model": model, "batch_size": 64, "finetuning": Finetuning(partition=partition)}
        cut, ((state, logged), (again, logged_again)) = both(probe(tiny, **fields), count=4)
        assert (cut.layer, cut.features.shape) == (layer, (5, 8))
        for path, value in state.trainable.items():
            if not path.endswith("key/bias"):  # of no effect: its gradient is rounding, of which Adam takes the sign
                np.testing.assert_allclose(again.trainable[path], value, rtol=1e-4, atol=1e-5, err_msg=path)
        np.testing.assert_allclose(logged_again["loss"], logged["loss"], rtol=1e-4)


def test_a_run_on_features_ends_where_the_one_on_examples_does(tiny, tmp_path, monkeypatch, capsys):
    experiment = probe(tiny, model=MODELS["mlp"], name="cut", precision="bfloat16")
    summary = run.train(experiment, workdir=str(tmp_path))
    told = open_run(summary["folder"]).read_json("inspection.json")["features"]
    assert told == {"layer": "head", "shape": [8], "dtype": "bfloat16"}
    assert "8 to head, computed once" in capsys.readouterr().out
    assert run.evaluate(summary["folder"])["test"] == summary["test"]
    monkeypatch.setattr(run.features, "find_cut", lambda *_: None)
    whole = run.train(experiment, workdir=str(tmp_path))
    assert summary["test"]["loss"] == pytest.approx(whole["test"]["loss"], rel=1e-3)
    assert summary["best"]["step"] == whole["best"]["step"]


def test_what_is_before_the_cut_is_no_part_of_the_program(tiny):
    experiment = probe(tiny, model=MLP(depth=6, width=64))
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = initial_state(plan, leaves)
    cut = find_cut(plan, experiment, loaded)
    flops = []
    for how, data in ((plan, loaded), on_features(plan, experiment, loaded, cut, state, frozen)):
        examples = to_device(how, data.splits["train"], data.normalisation)
        program = train_chunk.lower(how, leaves, frozen, state, examples, lengths(0, [1])).compile()
        flops.append(program.cost_analysis()["flops"])
    before = 2 * 16 * (6 * 64 + 5 * 64 * 64)
    assert flops[0] - flops[1] == pytest.approx(before, rel=0.2)


@pytest.mark.parametrize(
    "model",
    [
        FakeQuantized(model=MLP(depth=3, width=8), bits=tuple((f"block_0{index}/dense", 2) for index in range(3))),
        UpTo(model=MLP(depth=4, width=8), used=2),
    ],
    ids=["quantized", "up to"],
)
def test_a_model_that_is_altered_has_features_of_its_own(tiny, model):
    cut, ((state, _), (again, _)) = both(probe(tiny, model=model))
    assert cut.layer == "head"
    for path, value in state.trainable.items():
        np.testing.assert_allclose(again.trainable[path], value, rtol=1e-4, atol=1e-5, err_msg=path)


def test_of_a_phase_the_steps_of_its_own_count(tiny):
    """Of 50 examples the last phase sees 16 once: their features are not worth computing."""
    phased = Partition(train("head/.*"), train("block_02/.*", after=steps(19)), freeze(others()))
    experiment = probe(tiny, model=MODELS["mlp"], finetuning=Finetuning(partition=phased), duration=steps(20))
    loaded = experiment.data.load()
    plans = phases.all_plans(make_plan(experiment, loaded))
    cuts = [find_cut(plan, experiment, loaded) for plan in plans]
    assert [cut and cut.layer for cut in cuts] == ["head", None]
    longer = dataclasses.replace(experiment, duration=steps(30))
    cuts = [find_cut(plan, longer, loaded) for plan in phases.all_plans(make_plan(longer, loaded))]
    assert [cut and cut.layer for cut in cuts] == ["head", "block_02"]


class Skipping(nn.Module):
    """A head that is given what the inputs are as well, and one that is given the inputs behind its back."""

    classes: int | None = None
    hidden_ways: bool = False

    @nn.compact
    def __call__(self, inputs):
        outputs = nn.Dense(4, name="hidden")(inputs)
        if self.hidden_ways:
            return nn.Dense(self.classes, name="head")(outputs) + inputs[:, :1]
        return nn.Dense(self.classes, name="head")(jnp.concatenate([outputs, inputs], axis=1))


class ByAnotherMethod(nn.Module):
    """Something in the midst that is trained and has no `__call__`."""

    class Encoder(nn.Module):
        @nn.compact
        def encode(self, inputs):
            return nn.Dense(5, name="dense")(inputs) * self.param("scale", nn.initializers.ones, (5,))

    classes: int | None = None

    def setup(self):
        self.trunk, self.encoder, self.head = nn.Dense(4), self.Encoder(), nn.Dense(self.classes)

    def __call__(self, inputs):
        return self.head(self.encoder.encode(jnp.tanh(self.trunk(inputs))))


class ByJit(nn.Module):
    """What is trained is within a program of its own."""

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(5, name="dense")(jnp.tanh(inputs))

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.classes, name="head")(nn.jit(self.Inner)(name="inner")(nn.Dense(4, name="trunk")(inputs)))


class Noisy(nn.Module):
    """A frozen beginning of which the user makes something random, or another thing in training."""

    classes: int | None = None
    random: bool = True

    @nn.compact
    def __call__(self, inputs, train):
        outputs = nn.Dense(4, name="trunk")(inputs)
        if train:
            outputs *= jax.random.bernoulli(self.make_rng("dropout"), 0.5, outputs.shape) if self.random else 2.0
        return nn.Dense(self.classes, name="head")(outputs)


class Peculiar(nn.Module):
    """A frozen beginning before a head, and one thing that makes it no function of each example."""

    how: str
    classes: int | None = None

    @nn.compact
    def __call__(self, inputs, train):
        outputs, head = nn.Dense(4, name="trunk")(inputs), nn.Dense(self.classes, name="head")
        count = self.variable("batch_stats", "count", jnp.ones, ())
        if train and not self.is_initializing():
            count.value += 1
        if self.how == "counts":
            outputs *= count.value
        if self.how == "mixes":
            outputs -= outputs.mean(0)
        if self.how == "reads head" and not self.is_initializing():
            outputs /= jnp.linalg.norm(self.variables["params"]["head"]["kernel"])
        seen = inputs[:, :1] if self.how == f"sees in {'training' if train else 'evaluation'}" else 0.0
        return head(outputs) + seen * jnp.arange(self.classes)


class TimeMajor(nn.Module):
    """The batch is the second axis of what comes to the layer "mid", after two positions."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        outputs = jnp.swapaxes(nn.Dense(8, name="trunk")(inputs).reshape(-1, 2, 4), 0, 1)
        return nn.Dense(self.classes, name="head")(nn.Dense(3, name="mid")(outputs).mean(0))


class Own(Objective):
    """One that makes its targets of the examples."""

    def prepare(self, keys, inputs, labels, spec):
        return inputs, labels

    def losses(self, logits, labels):
        return CrossEntropy().losses(logits, labels)


def test_a_cut_is_where_all_that_follows_is_told_by_the_features(tiny):
    def rules(trained):
        return Finetuning(partition=Partition(train(trained), freeze(others())))

    def layer(**fields):
        experiment = probe(tiny, **fields)
        loaded = experiment.data.load()
        cut = find_cut(make_plan(experiment, loaded), experiment, loaded)
        return cut and cut.layer

    assert layer(model=Skipping()) == "head"
    assert layer(model=Skipping(hidden_ways=True)) is None
    assert layer(model=ByAnotherMethod()) == "head"
    for trained in ("encoder/.*|head/.*", "encoder/scale|head/.*", "encoder/.*", "encoder/dense/kernel"):
        assert layer(model=ByAnotherMethod(), finetuning=rules(trained)) is None
    assert layer(model=ByJit()) == "head"
    assert layer(model=ByJit(), finetuning=rules("inner/.*|head/.*")) in (None, "inner")
    assert layer(model=Noisy()) is None
    assert layer(model=Noisy(random=False)) is None
    for how in ("plain", "counts", "reads head", "sees in evaluation", "sees in training", "mixes"):
        assert layer(model=Peculiar(how)) == ("head" if how == "plain" else None), how
    assert layer(model=TimeMajor()) == "head"
    assert layer(model=TimeMajor(), finetuning=rules("mid/.*|head/.*")) is None
    assert layer(model=MODELS["mlp"]) == "head"
    assert layer(model=MODELS["mlp"], finetuning=rules("block_.*")) is None
    assert layer(model=MODELS["mlp"], finetuning=None) is None
    assert layer(model=MODELS["mlp"], finetuning=Finetuning(partition=last_blocks(1))) == "block_02"
    assert layer(model=MODELS["mlp-scan"], finetuning=Finetuning(partition=last_blocks(1))) == "block[02:03]"
    assert layer(model=MODELS["mlp"], finetuning=Finetuning(partition=layerwise_decay(0.5))) is None
    assert layer(model=MODELS["mlp"], duration=steps(3)) is None  # not all features would be used
    assert layer(model=MODELS["mlp"], norms="activations") is None
    assert layer(model=MODELS["mlp"], objective=Own()) is None
    pictures = {"data": Digits(), "model": ConvNet(features=(2,)), "duration": steps(100)}
    assert layer(**pictures) == "head"
    assert layer(**pictures, augmentation=Augmentation(shift=1.0)) is None
    assert layer(**pictures | {"model": ViT(depth=1, width=4, heads=1, patch=4, scan=True)}) == "head"


def test_streamed_data_and_features_too_large_for_memory_are_left(tiny, streamed, monkeypatch):
    from research.training import features

    experiment = probe(tiny, data=streamed)
    loaded = experiment.data.load()
    assert find_cut(make_plan(experiment, loaded), experiment, loaded) is None
    experiment = probe(tiny)
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    monkeypatch.setattr(features, "MOST_BYTES", (50 + 23) * 8 * 4)
    assert find_cut(plan, experiment, loaded) is not None
    monkeypatch.setattr(features, "MOST_BYTES", (50 + 23) * 8 * 4 - 1)
    assert find_cut(plan, experiment, loaded) is None
