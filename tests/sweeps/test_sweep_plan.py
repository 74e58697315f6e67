import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import launch
from research.commandline.loading import load_config
from research.data import Digits
from research.errors import UserError
from research.inspection.roofline import Rates, least_seconds
from research.models import MLP, ConvNet
from research.sweeps import Sweep, chain, derived, grid, groups, log_uniform, product, repeat, trials
from research.sweeps.display import show
from research.sweeps.plain import as_csv, as_json, as_row, values_of
from research.sweeps.plan import distinguishing, make_plan
from research.training import SGD, AdamW, EarlyStopping, run

ROOT = Path(__file__).parents[2]


def of(base, *spaces) -> Sweep:
    return Sweep(base=base, space=product(*spaces))


def distinguished(base, *spaces):
    return distinguishing(groups(trials(of(base, *spaces))))


def shown(plan, width=80, **options) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width), plan, **options)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


# ---------------------------------------------------------------------------------------------------------------------
# What distinguishes programs


def test_programs_are_distinguished_by_structure_and_not_by_leaves(base):
    rates = log_uniform("optimizer.learning_rate", 1e-3, 1, trials=3)
    assert distinguished(base, grid("model.depth", 1, 2), rates) == [{"model.depth": "1"}, {"model.depth": "2"}]
    assert distinguished(base, rates) == [{}]


def test_a_leaf_distinguishes_where_it_may_be_absent(base):
    assert distinguished(base, grid("model.dropout", None, 0.1, 0.25)) == [
        {"model.dropout": "none"},
        {"model.dropout": "0.1, 0.25"},
    ]


def test_parts_of_one_kind_are_told_apart_by_their_structure(base):
    kinds = grid("optimizer", AdamW(), AdamW(learning_rate=0.5, weight_decay=None), SGD(), SGD(learning_rate=0.1))
    assert [values["optimizer"] for values in distinguished(base, kinds)] == [
        "AdamW(weight_decay a number)",
        "AdamW(weight_decay none)",
        "SGD",
    ]


def test_what_one_part_of_a_chain_assigns_distinguishes_it_only_if_it_is_another_structure(base):
    space = chain(grid("optimizer.learning_rate", 0.1, 0.2), grid("clip", 1.0), grid("model.depth", 3))
    assert distinguished(base, space) == [{}, {"clip": "1"}, {"model.depth": "3"}]


def test_derived_structure_distinguishes(base):
    space = (grid("batch_size", 8, 16), derived("model.width", lambda experiment: experiment.batch_size))
    assert distinguished(base, *space)[1] == {"batch_size": "16", "model.width": "16"}


def test_the_value_of_a_part_is_told_with_what_it_has_otherwise_than_its_kind(base):
    kinds = grid("optimizer", AdamW(), AdamW(weight_decay=0.5), AdamW(weight_decay=None), SGD())
    assert [values_of(trial)["optimizer"] for trial in trials(of(base, kinds))] == [
        "AdamW",
        "AdamW(weight_decay 0.5)",
        "AdamW(weight_decay none)",
        "SGD",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def test_a_row_is_the_inspection_of_one_of_its_trials(base):
    plan = make_plan(of(base, grid("model.depth", 1, 3), repeat("seed", 2)))
    assert [len(row.group.trials) for row in plan.rows] == [2, 2]
    for row in plan.rows:
        described, inspection = run.inspect(row.group.trials[1].experiment)
        assert row.inspection == inspection
        assert row.steps == described["steps"]
        assert row.inspection.depth.longest == row.group.experiment.model.depth + 1


def test_training_flops_are_steps_times_both_passes_of_a_batch(base):
    plan = make_plan(of(base, grid("accumulate", 1, 4)))
    whole, parts = plan.rows
    each = whole.inspection.forward.flops + whole.inspection.backward.flops
    assert whole.training_flops == 6 * each
    part = parts.inspection.forward.flops + parts.inspection.backward.flops
    assert parts.training_flops == 6 * 4 * part
    assert parts.training_flops == pytest.approx(whole.training_flops, rel=0.02)
    assert plan.training_flops == whole.training_flops + parts.training_flops


def test_products_of_a_perceptron_are_those_of_the_closed_form(base):
    (row,) = make_plan(of(base, repeat("seed", 2))).rows
    assert row.inspection.parameters == (64 + 1) * 4 + (4 + 1) * 10
    assert row.inspection.forward.multiply_adds / row.inspection.batch == 64 * 4 + 4 * 10


def test_least_times_add_up(base):
    plan, rates = make_plan(of(base, grid("model.depth", 1, 2), repeat("seed", 3))), Rates(1e9, 1e9)
    expected = [3 * 6 * least_seconds(row.inspection, rates) for row in plan.rows]
    assert [row.least_seconds(rates) for row in plan.rows] == pytest.approx(expected)
    assert plan.least_seconds(rates) == pytest.approx(sum(expected))


def test_data_is_loaded_once_for_each_config_of_it(base, monkeypatch):
    loads, load = [], Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: loads.append(self) or load(self))
    make_plan(of(base, grid("data", Digits(), Digits(test=0.3)), grid("model.depth", 1, 2), repeat("seed", 3)))
    assert loads == [Digits(), Digits(test=0.3)]


def test_a_program_that_cannot_be_built_does_not_hurt_the_others(base):
    plan = make_plan(of(base, grid("model", MLP(width=4), ConvNet(features=(4,) * 5)), repeat("seed", 2)))
    good, bad = plan.rows
    assert good.inspection is not None
    assert bad.inspection is None
    assert "ConvNet: stage_3 would pool" in bad.problems[0]
    assert plan.training_flops == 2 * good.training_flops
    assert "fails   model ConvNet: ConvNet: stage_3 would pool" in shown(plan)
    assert "in all  2 trials" in shown(plan)
    assert as_json(plan)["programs"][1]["problems"] == list(bad.problems)
    assert "stage_3 would pool" in as_csv(plan).splitlines()[2]


def test_if_no_program_can_be_built_the_sweep_is_refused(base):
    with pytest.raises(UserError, match="batch_size: 2000 is larger than the training split") as raised:
        make_plan(of(base, grid("batch_size", 2000), grid("model.depth", 1, 2)))
    assert len(raised.value.problems) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Shown


def test_the_plan_is_shown_in_80_columns(base):
    plan = make_plan(of(base, grid("model.depth", 1, 2), repeat("seed", 3), grid("name", "a", "b")))
    text = shown(plan, changes=["base.seed: 0 -> 1"], rates=Rates(1e12, 1e12))
    assert "base     MLP on Digits, AdamW, 6 steps of batches of 32" in text
    assert "plan     6 trials, 2 programs; 6 duplicates left out" in text
    assert "best by  validation/accuracy" in text
    assert "changed  base.seed: 0 -> 1" in text
    assert "in all      6 trials, " in text
    assert "least time" in text
    row = next(line for line in text.splitlines() if line.startswith("2 "))
    assert row.split()[:5] == ["2", "3", "3", "330", "312"]  # 64*4 + 4*4 + 4*10 multiply-adds
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()


def test_many_rows_are_folded_unless_asked_for(base, monkeypatch):
    from research.sweeps import display

    monkeypatch.setattr(display, "ROWS_SHOWN", 3)
    plan = make_plan(of(base, grid("model.width", *range(1, 7))))
    assert "... 3 more (--unfold)" in shown(plan)
    rows = [line.split()[0] for line in shown(plan).splitlines() if line[:1].isdigit()]
    assert rows == ["1", "2", "6"]
    rows = [line.split()[0] for line in shown(plan, unfold=True).splitlines() if line[:1].isdigit()]
    assert rows == list("123456")


def test_what_does_not_fit_side_by_side_is_told_in_one_column(base):
    space = chain(grid("model", ConvNet(features=(4,)), ConvNet(features=(4, 4))), grid("data", Digits(test=0.3)))
    text = shown(make_plan(Sweep(base=base, space=space)))
    assert "\nprogram " in text
    assert "\nmodel ConvNet(features" in text
    assert max(map(len, text.splitlines())) <= 80


def test_fields_have_columns_of_their_own_where_these_fit(base):
    plan = make_plan(of(base, grid("model.depth", 1, 2), grid("model.residual", True, False), grid("batch_size", 8, 9)))
    assert "\nprogram " in shown(plan, width=80)
    wide = shown(plan, width=100)
    assert "\ndepth  residual  batch_size  trials" in wide
    assert max(map(len, wide.splitlines())) <= 100


def test_trials_that_may_stop_early_have_flops_at_most(base):
    plan = make_plan(of(base, grid("early_stopping", EarlyStopping())))
    assert "FLOP at most, for trials may stop early" in shown(plan)


# ---------------------------------------------------------------------------------------------------------------------
# From the command line

SWEEP = '''"""A sweep of six trials."""

from research.data import Digits
from research.models import MLP
from research.sweeps import Sweep, derived, grid, product, repeat, where
from research.training import Experiment, steps


def get_config():
    return Sweep(
        base=Experiment(data=Digits(), model=MLP(width=4), duration=steps(6), batch_size=32, devices=1),
        space=product(where(grid("model.depth", 1, 2, 3), shallow), repeat("seed", 3), derived("model.width", width)),
    )


def shallow(assignment):
    return assignment["model.depth"] < 3


def width(experiment):
    return 2 + experiment.model.depth
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swept.py").write_text(SWEEP)
    return tmp_path


@pytest.fixture
def command(capsys):
    def run(*tokens):
        status = launch.main(["launch.py", *map(str, tokens)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


INSPECT = ("--config", "swept.py", "--mode", "inspect")


def test_a_sweep_is_inspected_as_a_whole(folder, command):
    status, out, err = command(*INSPECT)
    assert (status, err) == (0, [])
    assert out.startswith("swept\n")
    assert "plan     6 trials, 2 programs\n" in out
    assert max(map(len, out.splitlines())) <= 80
    assert sorted(path.name for path in folder.iterdir()) == ["swept.py"]


def test_a_plan_can_be_had_as_json_and_csv(folder, command):
    status, out, _ = command(*INSPECT, "--format", "json", "--rates", "1e9,1e9", "--config.base.batch_size", "16")
    told = json.loads(out)
    assert status == 0
    assert (told["name"], told["trials"], len(told["programs"])) == ("swept", 6, 2)
    assert told["changes"] == ["base.batch_size: 32 -> 16"]
    first = told["programs"][0]
    assert first["values"] == {"model.depth": "1", "model.width": "3"}
    assert first["parameters"] == 65 * 3 + 4 * 10
    assert first["batch_size"] == 16
    assert [trial["assignment"]["seed"] for trial in first["trials"]] == [0, 1, 2]
    assert told["training_flops"] == sum(3 * program["training_flops"] for program in told["programs"])
    assert told["least_seconds"] > 0
    status, out, _ = command(*INSPECT, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["model.depth"], row["trials"], row["parameters"]) for row in rows] == [
        ("1", "3", str(first["parameters"])),
        ("2", "3", str(65 * 4 + 5 * 4 + 5 * 10)),
    ]


def test_space_and_base_are_changed_on_the_command_line(folder, command):
    _, out, _ = command(*INSPECT, "--config.space.spaces.0.space.values", "2", "--config.space.spaces.1.times", "5")
    assert "plan     5 trials, 1 program\n" in out
    assert "changed  space.spaces.0.space.values: 1 2 3 -> 2\n" in out


def test_a_sweep_is_run_by_the_same_command(folder, command):
    status, out, err = command("--config", "swept.py", "--config.base.duration", "6 steps")
    assert (status, err) == (0, [])
    assert "kept in runs/swept/" in out
    (kept,) = (folder / "runs" / "swept").iterdir()
    rows = (kept / "trials.jsonl").read_text().splitlines()
    assert sum('"stage": "search"' in row for row in rows) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.space.spaces.1.path", "sed"],
            "error: sed: no such field; Experiment has no 'sed'; did you mean 'seed'",
        ),
        (
            ["--config.space.spaces.0.space.values", "x"],
            "where: shallow, which is given {path: value}, fails: TypeError",
        ),
        (["--config.space.spaces.0.space.values", "7"], "shallow admits none of the 1 assignments"),
        (["--config.base.model", "convnet"], "model.depth: no such field; ConvNet has no 'depth'"),
        (["--format", "html"], "--format html: swept.py returns a Sweep"),
        (["--compile"], "--compile: swept.py returns a Sweep"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, command, flags, message):
    status, out, err = command(*INSPECT, *flags)
    assert (status, out) == (2, "")
    assert any(message in line for line in err), err
    assert all(line.startswith("error: ") for line in err)


def test_a_mistake_in_the_space_is_told_with_its_line_in_the_file(folder, command):
    (folder / "swept.py").write_text(SWEEP.replace('repeat("seed", 3)', 'repeat("seed", 0)'))
    _, _, err = command(*INSPECT)
    assert err == ["error: swept.py:12 in get_config: times: 0 is not in [1, inf)"]


OWN = """
import flax.linen as nn


class Fragile(nn.Module):
    width: int

    @nn.compact
    def __call__(self, inputs, train):
        if self.width > 4:
            raise RuntimeError("too wide")
        return nn.Dense(10, name="head")(nn.Dense(self.width, name="hidden")(inputs.reshape(inputs.shape[0], -1)))
"""


def test_a_model_of_the_file_that_fails_has_a_row_that_says_where(folder, command):
    swept = (
        SWEEP.replace("model=MLP(width=4)", "model=Fragile(width=4)")
        .replace(", derived(", "")
        .replace('"model.width", width)', "")
    )
    swept = swept.replace('where(grid("model.depth", 1, 2, 3), shallow)', 'grid("model.width", 4, 8)')
    (folder / "swept.py").write_text(swept + OWN)
    status, out, err = command(*INSPECT)
    assert (status, err) == (0, [])
    assert re.search(r"^4 +3 +2 +310 ", out, re.MULTILINE)
    assert re.search(r"^8 +3 +fails$", out, re.MULTILINE)
    assert re.search(r"^fails +model.width 8: swept.py:\d+ in __call__:\s+RuntimeError: too\s+wide", out, re.MULTILINE)


def depth_sweep(variant=""):
    return make_plan(load_config(f"{ROOT}/experiments/depth_sweep.py{variant}", (Sweep,)).config)


def test_the_depth_sweep_has_a_program_for_each_depth():
    plan = depth_sweep()
    assert [row.inspection.depth.longest for row in plan.rows] == [2, 3, 5, 9, 17, 5, 9, 17]
    assert len(plan.trials) >= 60
    seen = [as_row(row)["field_before_pooling"][0] for row in plan.rows[:5]]
    assert seen == [3, 5, 9, 17, 33]  # of 8 pixels


def test_the_depth_sweep_at_matched_sizes_has_them():
    sizes = [row.inspection.parameters for row in depth_sweep(":matched").rows]
    assert all(size == pytest.approx(5_000, rel=0.1) for size in sizes)


def test_the_full_depth_sweep_has_every_family_and_budget():
    plan = depth_sweep(":full")
    assert {type(row.group.experiment.model).__name__ for row in plan.rows} == {"ConvNet", "MLP", "ViT"}
    assert {budget for trial in plan.trials for budget in trial.budgets} == {
        "",
        "5,000 parameters",
        "310,000 multiply-adds",
    }
    depths = [row.inspection.depth.longest for row in plan.rows if type(row.group.experiment.model).__name__ == "MLP"]
    assert sorted(set(depths)) == [2, 3, 5, 9, 17, 33]
