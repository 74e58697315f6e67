"""How long a sweep takes is reckoned from what is left, and from how fast earlier sweeps were."""

import json

import pytest

from research import runtime
from research.data import Digits
from research.models import MLP
from research.sweeps import Sweep, grid, product, repeat
from research.sweeps.expectation import OF_A_CORE, expect
from research.sweeps.plan import make_plan
from research.training import Experiment, steps


@pytest.fixture(scope="module")
def plan():
    base = Experiment(data=Digits(), model=MLP(depth=1, width=4), duration=steps(10))
    space = product(grid("model.depth", 1, 2), repeat("seed", 3))
    return make_plan(Sweep(base=base, space=space, judge=2, name="deep"))


@pytest.fixture
def earlier(tmp_path):
    """Writes an earlier sweep, of 1,000 FLOPs a trial and so many seconds for each."""

    def write(name, seconds, steps=10):
        folder = tmp_path / "runs" / name / "20260101-120000-aaaaaa"
        folder.mkdir(parents=True)
        program = {"training_flops": 1_000, "steps": 10}
        (folder / "sweep.json").write_text(json.dumps({"plan": {"programs": [program]}}))
        rows = [{"program": 0, "steps": steps, "seconds": each} for each in seconds]
        (folder / "trials.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return folder

    return write


def flops(plan):
    """Of three seeds that search and two that judge, of each program."""
    return 5 * sum(row.training_flops for row in plan.rows)


def test_without_an_earlier_sweep_it_is_a_guess(plan, tmp_path):
    found = expect(plan, plan.trials, tmp_path / "nowhere")
    assert found.seconds == pytest.approx(flops(plan) / (OF_A_CORE * runtime.cores()))
    assert found.by.endswith("a guess")


def test_it_goes_by_the_speed_of_the_sweep_before_best_of_the_same_name(plan, tmp_path, earlier):
    earlier("wide", [9.0])
    assert expect(plan, plan.trials, tmp_path / "runs").seconds == pytest.approx(flops(plan) / (1_000 / 9.0))
    folder = earlier("deep", [1.0, 3.0])
    found = expect(plan, plan.trials, tmp_path / "runs")
    assert found.seconds == pytest.approx(flops(plan) / (2_000 / 4.0))
    assert found.by == f"as fast as {folder}"


def test_steps_that_were_not_taken_do_not_count(plan, tmp_path, earlier):
    earlier("deep", [1.0], steps=5)
    assert expect(plan, plan.trials, tmp_path / "runs").seconds == pytest.approx(flops(plan) / 500.0)


def test_what_is_done_takes_no_time(plan, tmp_path, earlier):
    earlier("deep", [1.0])
    assert expect(plan, [], tmp_path / "runs").seconds == 0
    one = [row.group.trials[0] for row in plan.rows[:1]]
    expected = 3 * plan.rows[0].training_flops / 1_000  # itself and two that judge
    assert expect(plan, one, tmp_path / "runs").seconds == pytest.approx(expected)


@pytest.mark.parametrize("damage", ["{", '{"plan": null}', '{"plan": {"programs": []}}'])
def test_a_damaged_folder_is_passed_over(plan, tmp_path, earlier, damage):
    (earlier("deep", [1.0]) / "sweep.json").write_text(damage)
    assert expect(plan, plan.trials, tmp_path / "runs").by.endswith("a guess")
