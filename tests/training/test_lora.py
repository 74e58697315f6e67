"""Fine-tuning by low-rank adapters: they alone are trained, all else follows, and they find their base again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from research.config import from_json, override, to_json
from research.data import Digits
from research.errors import UserError
from research.models import MLP, ViT
from research.parameters import LoRA, Partition, freeze, linear_probe, of_adapters, others, read, train
from research.training import SGD, AdamW, Adapted, Experiment, Finetuning, Pretrained, run
from research.training.evaluation import to_device
from research.training.exporting import export_adapters, export_run
from research.training.folder import open_run
from research.training.inspecting import inspect_experiment
from research.training.loop import lengths
from research.training.partitioned import rows
from research.training.plan import boundary, make_plan, replicate
from research.training.reading import load_best
from research.training.sources import fit, read_source
from research.training.step import initial_state, train_chunk

MODEL = MLP(depth=4, width=8, norm="batch", scan=True)
LORA = LoRA("block_0[123]/dense/kernel", rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def source(tiny, workdir):
    """A finished run."""
    if not (workdir / "source").exists():
        run.train(tiny(name="source", model=MODEL, optimizer=AdamW(learning_rate=0.02)), workdir=str(workdir))
    return next((workdir / "source").iterdir())


def tuned(tiny, source=None, partition=None, loras=(LORA,), **fields):
    tuning = {name: fields.pop(name) for name in ("no_decay", "stay_close", "interpolate", "earlier") if name in fields}
    finetuning = Finetuning(
        source=source and Pretrained(str(source)), partition=partition or Partition(), adapters=loras, **tuning
    )
    return tiny(
        **{"model": MODEL, "optimizer": AdamW(learning_rate=0.02), "name": "tuned"}
        | fields
        | {"finetuning": finetuning}
    )


def begin(experiment):
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    weights = experiment.finetuning.source and experiment.finetuning.source.read()
    arrays = weights and fit(plan, experiment, weights).arrays
    state, frozen = replicate(plan, initial_state(plan, leaves, arrays))
    return plan, leaves, frozen, state, to_device(plan, loaded.splits["train"], loaded.normalisation)


def problems(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.problems


# ---------------------------------------------------------------------------------------------------------------------
# What is trained


def test_adapters_are_trained_and_all_else_is_frozen(tiny):
    plan, leaves, frozen, state, data = begin(tuned(tiny))
    assert plan.trainable == ("block/dense/lora_a", "block/dense/lora_b")
    assert state.trainable["block/dense/lora_a"].shape == (3, 8, 2)
    assert not np.any(state.trainable["block/dense/lora_b"])
    assert set(plan.fixed) == set(plan.state)
    before = jax.device_get((frozen, state.trainable))
    state, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [4]))
    assert all(np.asarray(frozen[path]).tobytes() == value.tobytes() for path, value in before[0].items())
    assert all(not np.array_equal(state.trainable[path], value) for path, value in before[1].items())


def test_a_rule_may_train_what_has_no_adapter_and_adapters_otherwise(tiny):
    partition = Partition(
        train("head/.*"),
        train(of_adapters(".*/lora_b"), learning_rate=16.0),
        train(of_adapters(".*/lora_a")),
        freeze(others()),
    )
    experiment = tuned(tiny, partition=partition)
    found = {row["path"]: row for row in rows(make_plan(experiment, experiment.data.load()), experiment)}
    assert found["block_02/dense/lora_b"]["learning_rate"] == pytest.approx(0.32)
    assert found["block_02/dense/lora_a"]["learning_rate"] == pytest.approx(0.02)
    assert found["block_02/dense/lora_a"]["optimizer_bytes"] == 2 * 4 * 16
    trained = {path for path, row in found.items() if row["trainable"]}
    assert trained == {path for path in found if "lora" in path} | {"head/kernel", "head/bias"}
    implied = tuned(tiny, partition=linear_probe())
    found = rows(make_plan(implied, implied.data.load()), implied)
    assert {row["rule"] for row in found if "lora" in row["path"]} == {"train(of_adapters())"}
    assert {row["path"] for row in found if row["trainable"]} == trained


@pytest.mark.parametrize("scan", [False, True])
def test_a_step_is_that_of_the_merged_network_by_the_chain_rule(tiny, scan):
    """Gradients of A and B are those of the kernel W + s A B, projected: dA = s dW B', dB = s A' dW."""
    model = MLP(depth=3, width=6, scan=scan)
    lora = LoRA("block_0[12]/dense/kernel", rank=2, alpha=3.0)
    experiment = tuned(tiny, loras=(lora,), model=model, optimizer=SGD(learning_rate=1.0))
    plan, leaves, frozen, state, data = begin(experiment)
    state = dataclasses.replace(state, trainable={path: value + 0.1 for path, value in state.trainable.items()})
    old = jax.device_get(state.trainable)
    merged = jax.device_get(plan.merged(experiment, state.trainable, frozen))
    plain = tiny(model=model, optimizer=SGD(learning_rate=1.0), name="plain")
    plan_of_plain = make_plan(plain, plain.data.load())
    begun, nothing = initial_state(plan_of_plain, boundary(plain))
    begun = dataclasses.replace(begun, trainable={path: jax.numpy.array(merged[path]) for path in begun.trainable})
    after, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [1]))
    stepped, _ = train_chunk(plan_of_plain, boundary(plain), nothing, begun, data, lengths(0, [1]))
    stacks = model.stacks()
    for block in ("block_01", "block_02"):
        a, b, new_a, new_b = (
            np.asarray(read(tree, f"{block}/dense/lora_{factor}", stacks), np.float64)
            for tree in (old, after.trainable)
            for factor in "ab"
        )
        kernel = f"{block}/dense/kernel"
        gradient = np.float64(read(merged, kernel, stacks)) - np.float64(read(stepped.trainable, kernel, stacks))
        np.testing.assert_allclose(a - new_a, 1.5 * gradient @ b.T, atol=1e-5)
        np.testing.assert_allclose(b - new_b, 1.5 * a.T @ gradient, atol=1e-5)


def test_inspection_counts_adapters_and_no_gradient_of_what_they_adapt(tiny):
    model = MLP(depth=3, width=32)
    found = {}
    for name, experiment in {
        "lora": tuned(tiny, loras=(LoRA("block_.*/kernel", rank=1),), model=model),
        "full": tiny(model=model, optimizer=AdamW()),
    }.items():
        loaded = experiment.data.load()
        plan = make_plan(experiment, loaded)
        found[name] = inspect_experiment(experiment, plan, loaded)
        state, _ = initial_state(plan, boundary(experiment))
        assert found[name].memory.optimizer == sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimizer_state))
    by_path = {row.path: row for row in found["lora"].layers if row.parameters}
    row = by_path["block_01/dense"]
    assert (row.parameters, row.trainable) == (32 * 32 + 32 + 64, 64)
    full = next(row for row in found["full"].layers if row.path == "block_01/dense")
    examples = 16
    assert full.backward.multiply_adds == 2 * examples * 32 * 32
    low = examples * 32 * 1
    assert row.forward.multiply_adds == full.forward.multiply_adds + 2 * low
    assert row.backward.multiply_adds == examples * 32 * 32 + 4 * low


@pytest.mark.parametrize("scan", [False, True])
def test_a_layer_is_of_the_kind_that_it_is_without_an_adapter(tiny, scan):
    data, model = Digits(), ViT(depth=2, width=8, heads=2, patch=4, scan=scan)
    kinds = []
    for loras in ((), (LoRA("block_.*/kernel", rank=1), LoRA("head/kernel", rank=1))):
        experiment = tiny(data=data, model=model)
        if loras:
            experiment = tuned(tiny, loras=loras, data=data, model=model, optimizer=AdamW())
        loaded = experiment.data.load()
        found = inspect_experiment(experiment, make_plan(experiment, loaded), loaded)
        kinds.append({row.path: row.kind for row in found.layers})
    assert kinds[0] == kinds[1]
    assert {"attention", "dense", "head"} <= set(kinds[0].values())


def test_a_changed_alpha_or_dropout_is_the_same_program(tiny):
    base = tuned(tiny, loras=(dataclasses.replace(LORA, dropout=0.1),))
    plan, _, frozen, state, data = begin(base)
    train_chunk._clear_cache()
    for name, value in (("alpha", 1.0), ("dropout", 0.3)):
        changed = override(base, f"finetuning.adapters.0.{name}", value)
        assert make_plan(changed, base.data.load()) == plan
        state, _ = train_chunk(plan, boundary(changed), frozen, state, data, lengths(0, [1]))
    assert train_chunk._cache_size() == 1


def test_adapters_survive_json(tiny):
    experiment = tuned(tiny, partition=linear_probe())
    assert from_json(to_json(experiment), Experiment) == experiment
    based = override(experiment, "finetuning.source", Adapted(Pretrained("runs/a"), "b.safetensors"))
    assert from_json(to_json(based), Experiment) == based


# ---------------------------------------------------------------------------------------------------------------------
# What a run leaves behind


@pytest.fixture
def finished(tiny, source, workdir):
    """A run of adapters and a new head, on the base of `source`."""
    if not (workdir / "tuned").exists():
        experiment = tuned(tiny, source, linear_probe(), average=0.5, interpolate=3, earlier=tiny().data)
        run.train(experiment, workdir=str(workdir))
    return next((workdir / "tuned").iterdir())


def test_a_run_is_whole_and_its_weights_are_merged(tiny, source, finished):
    told = json.loads((finished / "summary.json").read_text())
    assert told["reason"] == "finished"
    assert run.evaluate(str(finished))["test"] == told["test"]
    base, weights = read_source(str(source)), read_source(str(finished))
    assert weights.parameters.keys() == base.parameters.keys()
    changed = {path for path, value in weights.parameters.items() if not np.array_equal(value, base.parameters[path])}
    assert changed == {f"block_0{i}/dense/kernel" for i in (1, 2, 3)} | {"head/kernel", "head/bias"}
    move = weights.parameters["block_02/dense/kernel"] - base.parameters["block_02/dense/kernel"]
    assert np.linalg.matrix_rank(move, tol=1e-4 * np.abs(move).max()) == 2
    again = tiny(model=MODEL, name="again", finetuning=Finetuning(source=Pretrained(str(finished))))
    plan, _, frozen, state, _ = begin(again)
    loaded = again.data.load()
    figures = run.loop.report(run.loop.Work(again, plan, loaded, frozen), state, "test")
    assert figures["loss"] == pytest.approx(told["test"]["loss"], rel=1e-5)
    begins = {row["path"]: row["begins"] for row in open_run(finished).read_json("inspection.json")["layers"]}
    assert begins["block_01/dense/lora_a"] == "new" and begins["block_01/dense/kernel"] == "loaded"


def test_the_line_from_the_source_begins_without_adapters(source, finished):
    curve = json.loads((finished / "summary.json").read_text())["interpolation"]
    ended = run.evaluate(str(finished), split="validation")["validation"]
    assert curve[2]["loss"] == ended["loss"]
    assert len({point["loss"] for point in curve}) == 3


def test_the_source_and_the_result_are_compared_on_new_data_and_on_that_which_it_knows(source, finished):
    told = json.loads((finished / "summary.json").read_text())
    new, earlier = told["forgetting"]
    assert (new["data"], earlier["data"]) == ("new", "earlier")
    assert new["after"]["loss"] == told["test"]["loss"]
    assert {**new, "data": ""} == {**earlier, "data": ""}  # they are the same data here
    assert new["before"]["loss"] != new["after"]["loss"]
    assert told["adapters"] == (finished / "adapters.safetensors").stat().st_size
    assert Adapted(Pretrained(str(source)), str(finished / "adapters.safetensors")).read().parameters


def test_earlier_data_must_be_of_the_same_kind(tiny, source):
    experiment = tuned(tiny, source, earlier=Digits())
    (line,) = problems(lambda: run.prepare(experiment, experiment.data.load()))
    assert line.startswith("finetuning.earlier: its examples are of (8, 8, 1) and 10 classes, those of data of ")


def test_checkpoints_hold_adapters_alone_and_another_rank_is_refused(finished, workdir):
    experiment = run.read_experiment(open_run(finished))
    plan = make_plan(experiment, experiment.data.load())
    state, _ = load_best(open_run(finished), experiment, plan)
    assert set(state.trainable) == {"block/dense/lora_a", "block/dense/lora_b", "head/bias", "head/kernel"}
    other = override(experiment, "finetuning.adapters.0.rank", 3)
    lines = problems(lambda: load_best(open_run(finished), other, make_plan(other, other.data.load())))
    assert any("lora_a is (3, 8, 2) there and (3, 8, 3) here" in line for line in lines)


def test_adapters_are_saved_alone_and_find_their_base_again(source, finished, tmp_path):
    from safetensors.numpy import load_file

    file = tmp_path / "adapters.safetensors"
    told = export_adapters(str(finished), file)
    assert told["base"]["path"] == str(source)
    assert set(told["scales"].values()) == {2.0}
    inside = load_file(file)
    factors = {f"block_0{i}/dense/lora_{factor}" for i in (1, 2, 3) for factor in "ab"}
    assert inside.keys() == factors | {"head/kernel", "head/bias"}
    weights, whole = Adapted(Pretrained(str(source)), str(file)).read(), read_source(str(finished))
    assert weights.parameters.keys() == whole.parameters.keys()
    for path, value in (whole.parameters | whole.model_state).items():
        found = (weights.parameters | weights.model_state)[path]
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-7, err_msg=path)


def test_another_base_is_refused_in_a_line(tiny, source, finished, tmp_path):
    file = tmp_path / "adapters.safetensors"
    export_adapters(str(finished), file)
    other = tmp_path / "other.npz"
    export_run(str(source), other)
    same = Adapted(Pretrained(str(other)), str(file)).read()
    assert same.about["adapters"] == str(file)
    with np.load(other) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["head/bias"] = changed["head/bias"] + 1e-6
    np.savez(other, **changed)
    (line,) = problems(lambda: Adapted(Pretrained(str(other)), str(file)).read())
    assert line.startswith(f"{file}: the adapters belong to {source} (sha256 ")
    assert f"...), and {other} is another (sha256 " in line
    (line,) = problems(lambda: Adapted(Pretrained(str(source)), str(other)).read())
    assert line.startswith(f"{other}: holds no adapters")


def test_only_adapters_of_a_base_can_be_saved_alone(tiny, source, tmp_path):
    lines = problems(lambda: export_adapters(str(source), tmp_path / "x.npz"))
    assert [line.split(": ", 1)[1].split(";")[0] for line in lines] == [
        "has no adapters",
        "began with new values",
        "adapters are saved to a .safetensors file",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be


def test_all_that_is_wrong_is_told_at_once(tiny):
    partition = Partition(train("haed/.*"), freeze(others()))
    experiment = tuned(tiny, partition=partition, loras=(LoRA("block_00/dense/kernle"),))
    lines = problems(lambda: make_plan(experiment, experiment.data.load()))
    assert len(lines) == 2
    assert (
        "LoRA('block_00/dense/kernle', rank=8) matches no parameter; did you mean 'block_00/dense/kernel'?" in lines[0]
    )
    assert "did you mean 'head/.*'?" in lines[1]


def test_a_kernel_is_trained_or_adapted(tiny):
    experiment = tuned(tiny, partition=linear_probe(), loras=(LORA, LoRA("head/kernel")))
    (line,) = problems(lambda: make_plan(experiment, experiment.data.load()))
    assert line == (
        "adapters: head/kernel would be trained by train('head/.*', reinitialise=True) and by an adapter; freeze "
        "them, or leave them out of it"
    )


def test_a_rule_for_adapters_without_any_is_dead(tiny):
    experiment = tuned(tiny, partition=Partition(train(others()), freeze(of_adapters())), loras=())
    (line,) = problems(lambda: make_plan(experiment, experiment.data.load()))
    assert line == "partition: freeze(of_adapters()) matches no parameter's whole path"
