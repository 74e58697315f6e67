"""Durations: text, units, and a whole number of steps that is never too few."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.config import ConfigError, config, from_json, override, structure, to_json, validate
from research.errors import UserError
from research.training.duration import (
    Duration,
    epochs,
    examples,
    percent,
    steps,
    to_scheduled_steps,
    to_steps,
)


@config
class Training:
    length: Duration = structure(epochs(10), "how long")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("500", steps(500)),
        ("500 steps", steps(500)),
        ("1 step", steps(1)),
        ("10 epochs", epochs(10)),
        (" 0.5 Epoch ", epochs(0.5)),
        ("10epochs", epochs(10)),
        ("1e6 examples", examples(1e6)),
        ("1_000", steps(1000)),
        ("5%", percent(5)),
        ("12.5 %", percent(12.5)),
        ("5 percent", percent(5)),
    ],
)
def test_text_is_read_as_it_is_meant(text, want):
    assert Duration.from_text(text) == want


@pytest.mark.parametrize("duration", [steps(1), steps(12345678), epochs(0.1), epochs(1), examples(1e9), percent(2.5)])
def test_a_duration_reads_back_what_it_prints(duration):
    assert Duration.from_text(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no duration; write it as 500, 10 epochs, 1e6 examples or 5%"),
        ("soon", "'soon' is no duration"),
        ("ten epochs", "'ten epochs' is no duration"),
        ("5 %%", "'5 %%' is in no unit"),
        ("10 epoch5", "'10 epoch5' is no duration"),
        ("10 epohcs", "'10 epohcs' is in no unit that is known; did you mean 'epochs'?"),
        ("10 hours", "'10 hours' is in no unit that is known"),
        ("0 epochs", "'0 epochs' is no duration; it must be more than 0"),
        ("-5%", "'-5%' is no duration; it must be more than 0"),
        ("nan", "'nan' is no duration"),
        ("inf steps", "'inf steps' is no duration"),
        ("1e999", "'1e999' is no duration; it must be more than 0"),
    ],
)
def test_other_text_is_refused_with_what_is_accepted(text, message):
    with pytest.raises(ValueError, match="duration|unit") as caught:
        Duration.from_text(text)
    assert message in str(caught.value)


def test_text_and_json_reach_a_field_of_a_config():
    assert override(Training(), "length", "5%").length == percent(5)
    assert override(Training(), "length.amount", 3).length == epochs(3)
    assert from_json(to_json(Training(length=percent(5))), Training) == Training(length=percent(5))
    with pytest.raises(ConfigError, match="length: '10 hours' is in no unit"):
        override(Training(), "length", "10 hours")


@pytest.mark.parametrize("amount", [0.0, -1.0, math.inf, math.nan])
def test_amounts_that_cannot_be_are_refused(amount):
    with pytest.raises(ConfigError, match=r"length.amount: .* is not in \(0, inf\)"):
        validate(Training(length=epochs(amount)))
    with pytest.raises(UserError, match="more than 0"):
        to_steps(epochs(amount), examples=10, batch_size=2, total=None)


@pytest.mark.parametrize(
    ("duration", "want"),
    [
        (steps(7), 7),
        (steps(6.5), 7),
        (epochs(1), 23),
        (epochs(10), 225),
        (examples(64), 1),
        (examples(65), 2),
        (percent(5), 50),
        (percent(0.01), 1),
        (percent(100), 1000),
        (percent(7), 70),
    ],
)
def test_durations_are_whole_numbers_of_steps_rounded_up(duration, want):
    assert to_steps(duration, examples=1437, batch_size=64, total=1000) == want


@given(st.integers(1, 1000), st.integers(1, 100_000), st.integers(1, 1024))
def test_epochs_are_exact_however_large(amount, count, batch_size):
    got = to_steps(epochs(amount), examples=count, batch_size=batch_size, total=None)
    assert got == -(-amount * count // batch_size)
    assert got == to_scheduled_steps(epochs(amount), steps_per_epoch=count / batch_size, total=1)


@given(st.integers(1, 1000), st.integers(1, 10**6))
def test_decimal_percentages_are_taken_as_written(tenths, total):
    got = to_steps(percent(tenths / 10), examples=1, batch_size=1, total=total)
    assert got == max(1, math.ceil(Fraction(tenths, 1000) * total))


def test_a_percentage_needs_a_total():
    with pytest.raises(UserError, match="5%: a percentage of what"):
        to_steps(percent(5), examples=10, batch_size=2, total=None)


def test_schedules_cannot_count_examples():
    with pytest.raises(UserError, match="'100 examples' cannot be used here; say it in steps, epochs or percent"):
        to_scheduled_steps(examples(100), steps_per_epoch=22.5, total=100)
