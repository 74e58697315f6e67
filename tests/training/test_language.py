"""Runs of language models: trained, evaluated, resumed and sampled from as any other run."""

import contextlib
import dataclasses
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import config, structure, validate
from research.data import Augmentation
from research.data.base import Dataset, Loaded, Split, Streamed
from research.errors import UserError
from research.jsonl import read_rows
from research.models import BERT, GPT, MLP, TextCNN
from research.parameters import unflatten
from research.spec import Spec
from research.training import Adam, CrossEntropy, MaskedToken, NextToken, evaluation, folder, loop, run, steps
from research.training.checkpoints import Checkpoints
from research.training.display import Progress
from research.training.plan import boundary, make_plan, replicate
from research.training.state import as_flat
from research.training.step import batch_at, initial_state, train_chunk

TOKENS, LENGTH = 9, 7
SMALL = {"depth": 1, "width": 8, "heads": 2, "context": LENGTH}
GPT_ = {"model": GPT(**SMALL), "objective": NextToken()}
BERT_ = {"model": BERT(**SMALL, head="tokens", dropout=0.1), "objective": MaskedToken(rate=0.4)}


@config
class Counting(Dataset):
    """Sequences that count upwards from anywhere, around and around, now and then wrong; no labels."""

    contents: str = structure("bytes")
    streamed: bool = structure(False)

    def load(self) -> Loaded:
        random = np.random.default_rng(0)

        def split(count):
            inputs = 1 + (random.integers(0, TOKENS, (count, 1)) + np.arange(LENGTH)) % (TOKENS - 1)
            inputs = np.where(random.random(inputs.shape) < 0.1, random.integers(1, TOKENS, inputs.shape), inputs)
            labels = np.full(count, -1, np.int32)
            if not self.streamed:
                return Split(inputs.astype(np.uint8), labels)
            return Streamed(
                labels, np.arange(count), (LENGTH,), np.dtype(np.uint8), inputs.astype(np.uint8).__getitem__
            )

        splits = {"train": split(60), "validation": split(21), "test": split(23)}
        return Loaded(Spec((LENGTH,), TOKENS, tuple("012345678"), TOKENS), splits, None, self.contents)


@pytest.fixture
def language(tiny):
    """A language model's experiment of a few milliseconds."""

    def make(**fields):
        fields = {"data": Counting(), "optimizer": Adam(learning_rate=0.01), "select": "validation/loss", **fields}
        return tiny(**{**GPT_, **fields})

    return make


def start(experiment):
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = replicate(plan, initial_state(plan, leaves))
    return loaded, plan, leaves, frozen, state


def trained(experiment, count=5):
    loaded, plan, leaves, frozen, state = start(experiment)
    data = evaluation.to_device(plan, loaded.splits["train"], loaded.normalisation)
    state, logged = train_chunk(plan, leaves, frozen, state, data, loop.lengths(0, [count]))
    return as_flat(state), {name: float(values[0]) for name, values in logged.items()}


def log_p(plan, experiment, state, inputs):
    params = unflatten({path: np.asarray(value) for path, value in state.trainable.items()})
    logits = plan.network(experiment).apply({"params": params}, jnp.asarray(inputs, jnp.int32), train=False)[0]
    return np.asarray(jax.nn.log_softmax(np.asarray(logits, np.float64)))


@pytest.mark.parametrize("least", [1, 10, 256])
@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.devices(8))])
def test_evaluation_counts_every_token_once(language, monkeypatch, least, devices):
    monkeypatch.setattr(evaluation, "LEAST_BATCH", least)
    experiment = language(batch_size=8, devices=devices)
    loaded, plan, leaves, frozen, state = start(experiment)
    split = loaded.splits["test"]
    sums = evaluation.evaluate_split(
        dataclasses.replace(plan, steps=900 + least), leaves, frozen, state.used(), split, loaded.normalisation
    )
    expected = log_p(plan, experiment, state, split.inputs)[:, :-1]
    following = split.inputs[:, 1:].astype(int)
    assert sums.keys() == {"loss", "correct", "count"} and sums["count"] == 23 * (LENGTH - 1)
    told = np.take_along_axis(expected, following[..., None], axis=2)
    np.testing.assert_allclose(sums["loss"], -told.sum(), rtol=1e-5)
    assert sums["correct"] == (expected.argmax(2) == following).sum()


def test_masks_of_an_evaluation_depend_on_nothing_but_the_place_in_the_split(language, monkeypatch):
    def sums(least, block=8192, **fields):
        monkeypatch.setattr(evaluation, "LEAST_BATCH", least)
        monkeypatch.setattr(evaluation, "BLOCK", block)
        experiment = language(**{**BERT_, **fields})
        loaded, plan, leaves, frozen, state = start(dataclasses.replace(experiment, seed=0))
        leaves = boundary(experiment)
        plan = dataclasses.replace(plan, steps=800 + least + block)
        return evaluation.evaluate_split(plan, leaves, frozen, state.used(), loaded.splits["test"], None)

    once = sums(256)
    assert 30 < once["count"] < 100
    for other in (sums(256, seed=5), sums(1, batch_size=5), sums(4, block=10, data=Counting(streamed=True))):
        assert other["count"] == once["count"] and other["correct"] == once["correct"]
        np.testing.assert_allclose(other["loss"], once["loss"], rtol=1e-5)


def test_masks_in_training_follow_from_seed_and_step(language):
    def targets(step, **fields):
        experiment = language(**BERT_, **fields)
        loaded, plan, leaves, _, _ = start(experiment)
        data = evaluation.to_device(plan, loaded.splits["train"], None)
        return np.asarray(batch_at(plan, leaves, data, jnp.uint32(step), jnp.uint32(0))["labels"]) >= 0

    np.testing.assert_array_equal(targets(3), targets(3))
    assert not np.array_equal(targets(3), targets(4)) and not np.array_equal(targets(3), targets(3, seed=1))


@pytest.mark.devices(8)
def test_parts_and_devices_compute_what_one_batch_does(language):
    kind = {**BERT_, "model": dataclasses.replace(BERT_["model"], dropout=None)}
    whole, a = trained(language(**kind))
    for fields in ({"accumulate": 4}, {"devices": 8}):
        other, b = trained(language(**kind, **fields))
        assert b["count"] == a["count"] and b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        for path, value in whole.items():
            np.testing.assert_allclose(other[path], value, atol=5e-5, err_msg=path)


def test_the_loss_logged_is_the_mean_over_tokens_and_precision_may_be_low(language):
    _, logged = trained(language(norms="activations"), count=1)
    assert logged["count"] == 16 * (LENGTH - 1)
    assert logged["loss"] / logged["count"] == pytest.approx(logged["objective"], rel=1e-5)
    assert logged["activation_rms/block_00/dense_0"] > 0 and logged["activation_rms/positions"] > 0
    _, masked = trained(language(**BERT_, norms="activations"), count=1)
    assert masked["activation_rms/segments"] > 0 and masked["gradient_norm/bias"] > 0, "the bias is in no layer"
    _, low = trained(language(precision="bfloat16"), count=1)
    assert low["loss"] == pytest.approx(logged["loss"], rel=0.02) and low["loss"] != logged["loss"]


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def test_a_run_tells_bits_and_perplexity_and_learns(language, tmp_path, capsys):
    experiment = language(duration=steps(150), evaluate_every=steps(50), batch_size=32)
    summary = run.train(dataclasses.replace(experiment, name="counting"), workdir=str(tmp_path))
    test = summary["test"]
    assert test["tokens"] == 23 * (LENGTH - 1) and "classes" not in test
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
    assert test["bits_per_byte"] == pytest.approx(test["loss"] / math.log(2))
    assert test["bits_per_byte"] < 0.6 * math.log2(TOKENS - 1)
    rows = read_rows(Path(summary["folder"]) / "metrics.jsonl")
    assert all(row["perplexity"] == pytest.approx(math.exp(row["loss"])) for row in rows)
    assert {row["split"] for row in rows if "bits_per_byte" in row} == {"train", "validation"}
    assert "bits/byte" in capsys.readouterr().out
    again = run.evaluate(summary["folder"])
    assert again["test"] == test
    assert run.evaluate(summary["folder"], split="validation")["validation"]["tokens"] == 21 * (LENGTH - 1)
    sampled = run.sample(summary["folder"], "\x01\x02", temperature=0.0)
    assert sampled["tokens"] == [3, 4, 5, 6, 7] and sampled["text"] == "\x03\x04\x05\x06\x07"
    assert run.sample(summary["folder"], "\x01", count=2, seed=1)["tokens"] != []


def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(language, tmp_path, monkeypatch):
    experiment = language(**BERT_, data=Counting(streamed=True), name="masked")
    whole = folder.open_run(run.train(experiment, workdir=str(tmp_path / "a"))["folder"])

    @contextlib.contextmanager
    def stopping_soon():
        asked = itertools.count()
        yield lambda: "SIGTERM" if next(asked) > 1 else None

    with monkeypatch.context() as patched:
        patched.setattr(run.interruption, "signals", stopping_soon)
        first = run.train(experiment, workdir=str(tmp_path / "b"))
    assert first["reason"] == "interrupted"
    run.resume(first["folder"])
    states = []
    for path in (whole.path, folder.open_run(first["folder"]).path):
        with Checkpoints(path / "checkpoints") as checkpoints:
            states.append(checkpoints.restore_latest().arrays)
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value, err_msg=name)


def test_tokens_that_are_no_bytes_are_counted_in_bits_per_token(language):
    experiment = language(data=Counting(contents="array"))
    loaded, plan, _, frozen, state = start(experiment)
    work = loop.Work(experiment, plan, loaded, frozen)
    assert "bits_per_token" in loop.report(work, state, "test")
    assert loop.token_unit(work._replace(experiment=dataclasses.replace(experiment, objective=CrossEntropy()))) is None


def test_the_line_of_progress_tells_bits(capsys):
    with Progress(10) as progress:
        progress.update({"step": 10, "split": "train", "loss": 2.0, "bits_per_byte": 2.9})
        progress.update({"step": 10, "split": "validation", "loss": 2.0, "accuracy": 0.5, "bits_per_byte": 2.885})
    assert "validation 2.885 bits/byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("objective: CrossEntropy needs labels, and Counting has none", {"objective": CrossEntropy()}),
        ("objective: NextToken needs logits for each token", {"model": TextCNN(windows=(2,))}),
        ("objective: MaskedToken needs logits", {"model": BERT(**SMALL), "objective": MaskedToken()}),
        ("objective.mask: 200 is no token; there are 9", {"objective": MaskedToken(mask=200)}),
        ("augmentation: these examples are tokens", {"augmentation": Augmentation(mixup=0.1)}),
        ("GPT: inputs .* are longer than the context", {"model": GPT(**{**SMALL, "context": 6})}),
    ],
)
def test_what_does_not_go_together_is_told_before_the_first_step(language, tmp_path, message, fields):
    with pytest.raises(UserError, match=f"^{message}"):
        run.train(language(**fields, name="wrong"), workdir=str(tmp_path))
    assert not any(tmp_path.iterdir())


def test_language_objectives_want_language(tiny, tmp_path):
    with pytest.raises(
        UserError, match=r"^objective: NextToken is about tokens \(positions,\); these are numbers \(6,\)"
    ):
        run.train(tiny(objective=NextToken(), model=MLP(depth=1), name="wrong"), workdir=str(tmp_path))


def test_a_model_that_sees_the_next_token_is_not_asked_for_it(language):
    with pytest.raises(UserError, match="^objective: BERT sees the next token before it is to tell it"):
        validate(language(model=BERT(**SMALL, head="tokens")))


def test_only_language_models_of_bytes_can_be_sampled_from(language, tiny, tmp_path):
    for experiment in (tiny(name="blobs", duration=steps(2)), language(**BERT_, name="masked", duration=steps(2))):
        summary = run.train(experiment, workdir=str(tmp_path))
        with pytest.raises(UserError, match="only GPT on the bytes of a text can be sampled from"):
            run.sample(summary["folder"], "a")
