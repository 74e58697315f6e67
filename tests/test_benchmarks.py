"""experiments/benchmarks: that the parts of sweeps, training, fine-tuning and deployment measure what they say."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
VARIANT = "MLP 1x8,4,4"


@pytest.fixture
def named(monkeypatch):
    """The scripts by name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


def test_a_stopwatch_counts_inner_parts_for_themselves_alone(named):
    watch = named("sweeps_ours").Stopwatch()
    watch.taken()
    with watch.within("outer"):
        time.sleep(0.02)
        with watch.within("inner"):
            time.sleep(0.06)
        time.sleep(0.02)
    seconds = watch.taken()
    assert 0.04 <= seconds["outer"] < 0.06 <= seconds["inner"]
    assert not {"outer", "inner"} & {part for part, value in watch.taken().items() if value > 0.01}


def test_further_trials_last_as_long_as_the_later_ones_that_were_run(named):
    told = {"done": [7.0, 9.0, 11.0], "seconds": 12.0}
    assert named("sweeps").scaled(told, 3) == 12.0
    assert named("sweeps").scaled(told, 10) == 12.0 + 7 * 2.0


def test_all_of_a_sweep_is_told_by_part_and_its_program_can_be_run_alone(named, cache):
    with contextlib.closing(named("sweeps").Worker(VARIANT, "--cores", cache=cache)) as worker:
        told = worker("sweep")
        assert {"plan", "compile", "train", "evaluate", "log", "keep", "report"} <= told["parts"].keys()
        assert sum(told["parts"].values()) == pytest.approx(told["seconds"], rel=0.02)
        assert told["steps"] == worker("bare")["steps"] == 4
        assert told["accuracies"] == pytest.approx(worker("alone 4")["accuracies"], abs=1e-6)


def test_a_process_tells_its_parts_and_the_accuracy_of_each_trial(named, cache):
    script = named("sweeps")
    told = script.sweep(VARIANT, cache, script.points_of(4))
    assert len(told["accuracies"]) == 4
    assert all(0 < accuracy < 1 for accuracy in told["accuracies"])
    assert told["parts"]["import"] > 0.1
    assert sum(told["parts"].values()) < told["seconds"]


@pytest.mark.parametrize("name", ["MLP 2x64", "MLP 8x128", "ConvNet 8, 16", "ViT 2x32"])
def test_the_models_of_the_flax_loop_are_ours(named, name):
    assert flax_parameters(named, name) == our_parameters(named, name)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["MLP 2x64", "MLP 8x128", "ConvNet 8, 16", "ViT 2x32"])
def test_the_models_of_the_torch_loop_are_ours(named, name):
    model = named("sweeps_peers").torch_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == our_parameters(named, name)


def test_peers_see_each_example_once_an_epoch(named):
    indices = named("sweeps_peers").batches(10, 5, 4, seed=0)
    assert indices.shape == (5, 4)
    for epoch in indices.reshape(2, 10):
        assert np.array_equal(np.sort(epoch), np.arange(10))


def test_of_an_exported_program_a_call_is_measured_beside_one_of_the_model(named, capsys):
    named("deployment").main(["exported", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("exported, batch") for line in lines) == 3
    assert sum(line.startswith("jitted, batch") for line in lines) == 3


def test_a_cold_start_is_a_process_of_its_own_and_one_that_fails_is_told(named, tmp_path):
    seconds_of = named("deployment").seconds_of
    assert seconds_of(["python", "-c", "import os, time; time.sleep(float(os.environ['T']))"], {"T": "0.2"})() > 0.2
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of(["python", "-c", "raise SystemExit(1)"], {})()


@pytest.mark.parametrize("name", ["last two blocks", "LoRA"])
def test_a_step_of_fine_tuning_by_hand_is_ours_and_what_is_there_was_predicted(named, name):
    """Both are asserted by the benchmark itself."""
    script = named("finetuning")
    size = script.QUICK._replace(model=dataclasses.replace(script.QUICK.model, depth=2, width=8))
    subject = script.Subject.of(script.experiments(size)[name])
    (told,) = script.against_hand({name: subject}, rounds=2)
    assert told[0] == name
    (row,) = script.memory({name: subject})
    assert row[1] == row[2] and row[3] == row[4]


def test_features_stand_in_the_place_of_pictures_where_the_head_alone_is_trained(named):
    script = named("finetuning")
    subject = script.Subject.of(script.experiments(script.QUICK)["head"], cached=True)
    assert subject.plan.given == "head"
    assert subject.data.inputs.shape == (16, script.QUICK.model.width)


def test_small_networks_of_two_checkouts_take_turns(named):
    small = named("small")
    turns = []

    class Checkout:
        def __init__(self, which, *seconds):
            self.which, self.seconds = which, iter(seconds)

        def turn(self, name=""):
            turns.append((self.which, name))
            return next(self.seconds)

    before, now = Checkout("before", 3.0, 4e-4, 6e-4), Checkout("now", 2.0, 2e-4, 2e-4)
    row = small.row("MLP 2x64", (before, now), rounds=2)
    assert turns == [("before", "MLP 2x64"), ("now", "MLP 2x64"), *[("before", ""), ("now", "")] * 2]
    assert row == ("MLP 2x64", "500 (400 to 600)", "200 (200 to 200)", "2.50 (2.00 to 3.00)", "3.0", "2.0")


def test_a_checkout_trains_a_small_network_in_a_process_of_its_own(named):
    small = named("small")
    with contextlib.closing(small.Checkout(small.ROOT)) as checkout:
        first, step = checkout.turn("MLP 2x64"), checkout.turn()
        assert 0 < step < first
        with pytest.raises(SystemExit, match="no such network: the process ended with status 1"):
            checkout.turn("no such network")


# ---------------------------------------------------------------------------------------------------------------------
# Training

TRAINED = ["W1", "W2", "W3", "W4", "W5", "ViT-B/16", "GPT-2"]


@pytest.mark.peers
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_training_in_torch_is_ours(named, tmp_path, name):
    told = compared(named, name, tmp_path)
    assert told["loss"] < 1e-5
    assert told["parameters"] < 1e-5  # of steps of up to 0.01


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("W4", "training_torch.NORM_EPSILON", 0.1), ("W3", "training_subjects.DEVIATION", 0.3)],
)
def test_a_step_that_is_another_is_told(named, tmp_path, monkeypatch, name, place, value):
    path = written(named, name, tmp_path)
    module, _, constant = place.partition(".")
    monkeypatch.setattr(named(module), constant, value)
    assert read(named, name, path)["parameters"] > named("training").TOLERANCE


@pytest.mark.parametrize("tiny", [True, False])
@pytest.mark.parametrize("name", TRAINED)
def test_the_networks_that_plain_flax_trains_have_as_many_parameters_as_ours(named, name, tiny):
    from research.models import network
    from research.spec import Spec

    workload = named("training_subjects").workload(name, tiny=tiny)
    dtype = np.int32 if workload.of_tokens else np.float32
    inputs = jax.ShapeDtypeStruct((1, *workload.shape), dtype)
    flax = jax.eval_shape(named("training_flax").network(workload).init, jax.random.key(0), inputs)
    spec = Spec(workload.shape, workload.classes, (), workload.classes if workload.of_tokens else None)
    ours = jax.eval_shape(network(named("training_ours").model(workload), spec).init, jax.random.key(0))
    assert parameters(flax) == parameters(ours)


@pytest.mark.parametrize("found", [{"loss": 1e-3, "parameters": 0}, {"loss": 0, "parameters": float("nan")}])
def test_nothing_is_timed_where_torch_computes_something_else(named, found):
    script = named("training")
    row = script.Row("PyTorch", "training_peers.py")
    with pytest.raises(script.Failed, match="something else"):
        script.check({**found, "worst": "head.weight"}, row)
    script.check({"loss": 1e-6, "parameters": 1e-6, "worst": "head.weight"}, row)


def test_a_setting_that_cannot_be_run_is_told_in_a_line_and_ends_nothing(named):
    script = named("training")
    workload = named("training_subjects").workload("W3", tiny=True)._asdict()
    row = script.Row("PyTorch", "training_peers.py", workload | {"shape": "none"}, {"peer": "flax", "device": "cpu"})
    gone = script.Row("PyTorch", "training_peers.py", workload, {"pear": "torch"})
    for each in (row, gone):
        with contextlib.closing(each):
            each.start()
            assert each.told() == each.told("turn") == {}
    assert "Error" in row.failed and "\n" not in row.failed
    assert "ended" in gone.failed and "pear" in gone.failed


def test_devices_of_one_processor_share_a_batch(named, capsys):
    rows = named("training_rows")
    how = rows.How(models=("W3",), rounds=2, seconds=0.02, settings=(), gpu=False, tiny=True)
    named("training_cost").devices(how)
    header, row = capsys.readouterr().out.strip().splitlines()[-2:]
    assert "2, x 1" in header
    assert row.split()[0] == "W3" and len(re.findall(r"\(.*? to .*?\)", row)) == 2


def test_a_turn_lasts_as_long_as_was_asked(named):
    class Clocked(named("training_worker").Trainer):
        def seconds(self, count):
            return 0.02 + 0.004 * count  # a call costs something too

    trainer = Clocked()
    trainer.settle(1.0)
    assert trainer.seconds(trainer.count) == pytest.approx(1.0, rel=0.1)


def compared(named, name, folder):
    """How far a step in torch is from ours."""
    return read(named, name, written(named, name, folder))


def written(named, name, folder):
    path = str(folder / "step.npz")
    named("training_ours").write_step(named("training_subjects").workload(name, tiny=True)._replace(**FLOAT32), path)
    return path


def read(named, name, path):
    workload, peers = named("training_subjects").workload(name, tiny=True)._replace(**FLOAT32), named("training_peers")
    return peers.Torch(workload, peers.Setting()).check(workload._asdict(), path)


FLOAT32 = {"precision": "float32"}


def parameters(shapes) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def flax_parameters(named, name: str) -> int:
    model = named("sweeps_peers").flax_model(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def our_parameters(named, name: str) -> int:
    from research.models import network
    from research.spec import Spec

    shapes = jax.eval_shape(
        network(named("sweeps_subjects").MODELS[name], Spec((8, 8, 1), 10, ("",) * 10)).init, jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("PyTorch, channels last, tuned", "PyTorch"),
        ("PyTorch, compiled, channels last", "PyTorch, compiled"),
        ("Flax loop", "Flax loop"),
        ("ours, oneDNN, tuned", "ours, oneDNN"),
    ],
)
def test_each_setting_is_drawn_as_what_it_is(named, name, kind):
    figure = named("training_figure")
    assert figure.kind_of(name) == kind
    assert len(set(figure.STYLES.values())) == len(figure.STYLES)


def test_what_is_written_is_the_times_a_table_and_a_figure_of_them(named, tmp_path):
    from PIL import Image

    times = {
        "W1": {"ours": [10.0, 20.0, 30.0], "ours, tuned": [10.0, 10.0, 10.0], "PyTorch": [20.0, 20.0, 15.0]},
        "W4": {"ours": [100.0], "PyTorch, compiled, tuned": [50.0], "Flax loop": [400.0]},
    }
    named("training_figure").write(tmp_path / "new", "2026-11-29, two cores", times)
    assert json.loads((tmp_path / "new" / "training.json").read_text()) == {
        "title": "2026-11-29, two cores",
        "ms": times,
    }
    text = (tmp_path / "new" / "training.md").read_text()
    assert "| PyTorch | 20.00 (15.00 to 20.00) | 1.00 (0.50 to 2.00) |" in text  # of rounds, and not of medians
    assert "| Flax loop | 400.0 | 4.00 |" in text
    with Image.open(tmp_path / "new" / "training.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_plain_flax_networks_are_timed_as_they_are_and_as_they_are_computed_here(named, capsys):
    named("own_models").main(["W4", "--quick"])
    assert any(line.startswith("W4 ") for line in capsys.readouterr().out.splitlines())


def test_what_is_timed_as_flax_does_is_left_to_flax(named):
    script, base = named("own_models"), importlib.import_module("research.models.base")
    usual = base.formulated
    with script.as_flax_does():
        assert base.formulated is contextlib.nullcontext
    assert base.formulated is usual
