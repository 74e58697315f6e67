import dataclasses
import json
import math

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research.config import ConfigError, fingerprint, from_json, override, to_json, validate
from research.data import Digits, Few, Glyphs
from research.errors import UserError
from research.models import MLP, ConvNet
from research.parameters.partition import Partition, freeze, train
from research.sweeps import (
    Sweep,
    chain,
    choice,
    derived,
    grid,
    groups,
    integers,
    log_uniform,
    matched,
    product,
    repeat,
    trials,
    uniform,
    where,
    zipped,
)
from research.sweeps.shelf import Shelf
from research.sweeps.sweep import fresh, groups_of_one_source, setting
from research.training import SGD, AdamW, Lion, Task, Tasks
from research.training.matching import match


def twice_the_batch(experiment):
    return 2 * experiment.batch_size


def of_depth_and_width(experiment):
    return experiment.model.depth + experiment.model.width


def is_small(assignment):
    return assignment["model.depth"] < 3


def of(base, *spaces) -> Sweep:
    return Sweep(base=base, space=product(*spaces))


# ---------------------------------------------------------------------------------------------------------------------
# Trials


def test_a_trial_is_the_base_with_the_values_of_its_assignment(base):
    found = trials(of(base, grid("model.depth", 1, 2), grid("optimizer.learning_rate", 0.1, 1)))
    assert [trial.index for trial in found] == [0, 1, 2, 3]
    assert found[1].assignment == {"model.depth": 1, "optimizer.learning_rate": 1.0}
    expected = override(override(base, "model.depth", 2), "optimizer.learning_rate", 0.1)
    assert found[2].experiment == expected
    assert found[2].fingerprint == fingerprint(validate(expected)) == fingerprint(found[2].experiment)


def test_any_part_can_be_swept_by_config_or_by_name(base):
    parts = {
        "optimizer": ("lion", SGD(), AdamW(beta2=0.9)),
        "model": (ConvNet(features=(4,)), MLP(depth=0)),
        "data": (Digits(), Digits(test=0.3)),
        "partition": (Partition(), Partition(rules=(freeze("block.*"), train("head.*")))),
    }
    found = trials(of(base, *(grid(path, *values) for path, values in parts.items())))
    assert len({trial.fingerprint for trial in found}) == len(found) == 3 * 2 * 2 * 2
    assert found[0].experiment.optimizer == found[0].assignment["optimizer"] == Lion()
    assert {type(trial.experiment.model) for trial in found} == {ConvNet, MLP}


def test_a_part_is_replaced_before_its_fields_are_set_wherever_they_stand(base):
    rates = grid("optimizer.learning_rate", 0.1, 0.2)
    kinds = grid("optimizer", AdamW(), SGD())
    for spaces in ((rates, kinds), (kinds, rates)):
        found = {
            (type(t.experiment.optimizer), t.experiment.optimizer.learning_rate) for t in trials(of(base, *spaces))
        }
        assert found == {(AdamW, 0.1), (AdamW, 0.2), (SGD, 0.1), (SGD, 0.2)}


def test_duplicates_are_kept_once_and_counted(base):
    found = trials(of(base, choice("model.depth", 1, 2, trials=40), grid("name", "a", "b")))
    assert len(found) == 2
    assert sum(trial.duplicates for trial in found) == 78
    assert found[0].index == 0


def test_a_trial_has_the_same_fingerprint_in_every_sweep(base):
    few = {t.fingerprint for t in trials(of(base, log_uniform("optimizer.learning_rate", 1e-3, 1, trials=3)))}
    many = log_uniform("optimizer.learning_rate", 1e-3, 1, trials=9)
    assert few < {t.fingerprint for t in trials(of(base, many, repeat("seed", 2)))}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(seed=st.integers(0, 9), count=st.integers(1, 9))
def test_trials_are_the_same_each_time(base, seed, count):
    sweep = of(base, uniform("optimizer.beta1", 0, 0.9, trials=count, seed=seed), integers("seed", 0, 99, trials=2))
    assert trials(sweep) == trials(sweep)


# ---------------------------------------------------------------------------------------------------------------------
# Computed values


def test_a_derived_value_follows_from_the_trial(base):
    sweep = of(base, derived("model.width", twice_the_batch), grid("batch_size", 8, 16))
    found = trials(sweep)
    assert [t.experiment.model.width for t in found] == [16, 32]
    assert [t.assignment["model.width"] for t in found] == [16, 32]


def test_derived_values_are_computed_in_the_order_of_the_space(base):
    sweep = of(
        base, derived("model.width", twice_the_batch), derived("seed", of_depth_and_width), grid("batch_size", 8)
    )
    assert trials(sweep)[0].experiment.seed == 1 + 16


def test_a_matched_width_is_that_of_match(base):
    found = trials(of(base, grid("model.depth", 1, 3), matched("model.width", parameters=2000), repeat("seed", 3)))
    for trial in found:
        alone = match(override(base, "model.depth", trial.experiment.model.depth), parameters=2000)
        assert trial.experiment.model.width == trial.assignment["model.width"] == alone.model.width
    assert len({trial.experiment.model.width for trial in found}) == 2


def test_a_trial_knows_its_budgets_also_those_of_its_duplicates(base):
    depths = grid("model.depth", 1, 3)
    first, *_ = trials(of(base, depths, matched("model.width", parameters=2000)))
    assert first.budgets == ("2,000 parameters",)
    as_it_is = product(grid("model.width", first.experiment.model.width), depths)
    space = chain(as_it_is, product(depths, matched("model.width", parameters=2000)))
    found = trials(of(base, space))
    assert [trial.budgets for trial in found] == [("", "2,000 parameters"), ("",), ("2,000 parameters",)]


def test_a_width_is_matched_once_for_each_structure_and_data_loaded_once(base, monkeypatch):
    from research.sweeps import spaces

    calls, loads = [], []
    load = Digits.load
    monkeypatch.setattr(spaces, "match", lambda *a, **k: calls.append(a) or match(*a, **k))
    monkeypatch.setattr(Digits, "load", lambda self: loads.append(self) or load(self))
    trials(of(base, grid("model.depth", 1, 3), matched("model.width", parameters=2000), repeat("seed", 5)))
    assert (len(calls), len(loads)) == (2, 1)


def test_a_draw_is_a_leaf_and_trials_of_one_program_are_apart_by_what_they_read(base):
    tasks = Tasks(few=Task(Few(Digits(), 20)), all=Task(Digits()))
    weight, draw = grid("data.tasks.1.weight", 1.0, 2.0), repeat("data.tasks.0.data.seed", 2)
    found = trials(of(dataclasses.replace(base, data=tasks), weight, draw))
    assert len(groups(found)) == 1
    assert [[trial.index for trial in group.trials] for group in groups_of_one_source(found)] == [[0, 2], [1, 3]]
    shelf = Shelf()
    loaded = [shelf.load(trial.experiment.data) for trial in found]
    assert loaded[0] is loaded[2]
    assert loaded[0] is not loaded[1]


def test_repeats_differ_in_seeds_alone_and_fresh_ones_are_of_no_other(base):
    base = dataclasses.replace(base, data=Few(Digits(), 20))
    pairs = zipped(repeat("seed", 2), grid("data.seed", 7, 9), grid("data_seed", 4, 5))
    found = trials(of(base, grid("optimizer.learning_rate", 0.1, 0.2), pairs))
    assert [setting(trial) for trial in found] == [setting(found[i]) for i in (0, 0, 2, 2)]
    assert setting(found[0]) != setting(found[2])
    (one, first), (other, second) = fresh(found[2], found, 2)
    assert one == {"optimizer.learning_rate": 0.2, "seed": 2, "data.seed": 10, "data_seed": 6}
    assert other == {"optimizer.learning_rate": 0.2, "seed": 3, "data.seed": 11, "data_seed": 7}
    assert (first.seed, first.data.seed, second.data_seed) == (2, 10, 7)
    assert jax.tree.structure(first) == jax.tree.structure(found[2].experiment)


def test_a_seed_that_makes_another_program_is_not_drawn_afresh(base):
    base = dataclasses.replace(base, data=Glyphs(size=8, examples=50))
    one, other = trials(of(base, grid("data.seed", 0, 1)))  # with other test examples, too
    assert setting(one) != setting(other)
    ((assignment, experiment),) = fresh(other, [one, other], 1)
    assert assignment == {"data.seed": 1, "seed": 1}
    assert (experiment.data, experiment.seed) == (other.experiment.data, 1)


def test_a_shelf_makes_a_thing_once_and_raises_its_error_again():
    shelf, made = Shelf(), []

    def fail():
        made.append(1)
        raise UserError("no")

    for _ in range(2):
        with pytest.raises(UserError, match="no"):
            shelf.once("a", fail)
    assert made == [1]
    assert shelf.once("b", lambda: 3) == shelf.once("b", lambda: 4) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Groups


def test_leaves_share_one_program(base):
    sweep = of(base, grid("optimizer.learning_rate", 0.1, 0.2), repeat("seed", 3), grid("optimizer.weight_decay", 0, 1))
    (group,) = groups(trials(sweep))
    assert len(group.trials) == 12
    assert group.experiment == group.trials[0].experiment


def test_each_depth_is_a_program(base):
    found = groups(trials(of(base, repeat("seed", 3), grid("model.depth", 4, 1, 2))))
    assert [group.experiment.model.depth for group in found] == [4, 1, 2]
    assert [len(group.trials) for group in found] == [3, 3, 3]


def test_absence_is_another_program_and_edges_are_none(base):
    assert len(groups(trials(of(base, grid("model.dropout", None, 0.1, 0.2))))) == 2
    assert len(groups(trials(of(base, grid("name", "a", "b"), repeat("seed", 2))))) == 1


def test_trials_of_a_group_can_be_stacked(base):
    (group,) = groups(trials(of(base, log_uniform("optimizer.learning_rate", 1e-3, 1, trials=4))))
    stacked = jax.tree.map(lambda *leaves: leaves, *(trial.experiment for trial in group.trials))
    assert stacked.optimizer.learning_rate == tuple(t.assignment["optimizer.learning_rate"] for t in group.trials)


# ---------------------------------------------------------------------------------------------------------------------
# As a config


def test_a_sweep_comes_back_from_json(base):
    sweep = Sweep(
        base=base,
        space=chain(
            product(where(grid("model.depth", 1, 2, 3), is_small), derived("model.width", twice_the_batch)),
            zipped(grid("optimizer", AdamW(), SGD()), grid("seed", 1, 2)),
        ),
        select="validation/loss",
    )
    back = from_json(json.loads(json.dumps(to_json(sweep))), Sweep)
    assert back == sweep
    assert fingerprint(back) == fingerprint(validate(sweep))
    assert trials(back) == trials(sweep)


def test_base_and_space_of_a_sweep_can_be_overridden(base):
    sweep = of(base, repeat("seed", 3), grid("model.depth", 1, 2))
    sweep = override(override(sweep, "base.batch_size", 8), "space.spaces.0.times", 2)
    found = trials(sweep)
    assert len(found) == 4
    assert {trial.experiment.batch_size for trial in found} == {8}


def test_a_metric_that_no_trial_logs_is_refused(base):
    with pytest.raises(ConfigError, match="select: 'test/accuracy' is no one of 'validation/accuracy'"):
        validate(Sweep(base=base, space=repeat("seed", 2), select="test/accuracy"))


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def problems_of(sweep) -> tuple[str, ...]:
    with pytest.raises(UserError) as raised:
        trials(sweep)
    return raised.value.problems


def test_a_path_that_is_no_field_is_told_once_with_the_nearest(base):
    assert problems_of(of(base, grid("model.dept", *range(50)))) == (
        "model.dept: no such field; MLP has no 'dept'; did you mean 'depth'?",
    )


def test_all_problems_of_all_trials_are_told_together_each_once(base):
    sweep = of(
        base,
        grid("model.depth", 1, -1, "two"),
        uniform("optimizer.beta1", 0.5, 3.0, trials=40),
        grid("optimizer.learning_rat", 1),
    )
    found = problems_of(sweep)
    assert len(found) == 4
    assert "optimizer.learning_rat: no such field; AdamW has no 'learning_rat'; did you mean 'learning_rate'?" in found
    assert "model.depth: -1 is not in [0, inf) (40 of 120 trials)" in found
    assert "model.depth: 'two' is no whole number (40 of 120 trials)" in found
    (beta,) = (problem for problem in found if problem.startswith("optimizer.beta1"))
    assert " is not in [0, 1) (" in beta


def test_many_different_problems_are_not_a_thousand_lines(base):
    letters = [f"value{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(100)]
    found = problems_of(of(base, grid("model.depth", *letters)))
    assert len(found) == 21
    assert found[-1] == "and 80 problems more"


def test_a_field_that_only_some_kinds_have_is_told_for_the_others(base):
    (found,) = problems_of(of(base, grid("model", MLP(), ConvNet()), grid("model.depth", 1, 2)))
    assert found.startswith("model.depth: no such field; ConvNet has no 'depth'")
    assert found.endswith("(2 of 4 trials)")


def test_problems_between_fields_are_told(base):
    (found,) = problems_of(of(base, grid("accumulate", 1, 3)))
    assert found == "accumulate: 3 does not divide batch_size, which is 32 (1 of 2 trials)"


def test_a_budget_that_no_width_meets_is_told(base):
    (found,) = problems_of(of(base, grid("model.depth", 1, 2), matched("model.width", parameters=11)))
    assert found.startswith("model.width: no value gives 11 parameters")


def test_a_function_that_fails_is_named(base):
    (found,) = problems_of(of(base, derived("model.width", lambda experiment: experiment.model.widht)))
    assert found.startswith(
        "model.width: <lambda>, which is given the trial's experiment, fails: "
        "AttributeError: 'MLP' object has no attribute 'widht'"
    )


def test_nothing_is_computed_from_what_is_not_meant(base):
    calls = []
    sweep = of(base, grid("model.depth", "two"), derived("model.width", lambda experiment: calls.append(1) or 8))
    assert problems_of(sweep) == ("model.depth: 'two' is no whole number",)
    assert calls == []


def test_a_derived_value_is_checked_like_any_other(base):
    (found,) = problems_of(of(base, derived("model.width", lambda experiment: experiment.seed)))
    assert found == "model.width: 0 is not in [1, inf)"


def test_random_values_without_a_number_of_trials_are_refused(base):
    (found,) = problems_of(of(base, uniform("optimizer.beta1", 0, 1)))
    assert found == "optimizer.beta1: say how many values are to be drawn: trials=8"


def test_a_space_too_large_to_be_run_is_refused_at_once(base):
    (found,) = problems_of(of(base, repeat("seed", 10**6), repeat("data_seed", 10**6)))
    assert found.startswith("space: 1,000,000,000,000 trials are more than 100,000")


def test_planning_grows_linearly(base):
    """Counts what is done rather than time: one override a value, one fingerprint a trial."""
    from research.sweeps import sweep as module

    counts = []
    for size in (10, 100):
        calls = []
        original = module.override
        module.override = lambda *a: calls.append(1) or original(*a)  # noqa: B023
        try:
            trials(of(base, repeat("seed", size)))
        finally:
            module.override = original
        counts.append(len(calls))
    assert counts == [10, 100]
    assert math.isclose(counts[1] / counts[0], 10)
