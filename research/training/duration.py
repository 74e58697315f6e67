"""How long something takes, in the unit that one thinks in: steps, epochs, examples, or percent of training.

    epochs(10)    steps(500)    percent(5)    Duration.from_text("10 epochs")

A duration becomes a whole number of steps once the sizes of the data and of a batch are known. It is never cut short:
ten epochs of 1437 examples in batches of 64 are 224.5 steps, and so 225.
"""

import math
from fractions import Fraction
from typing import Literal

from research.config import config, structure
from research.errors import UserError, did_you_mean
from research.parameters.partition import OwnStart

Unit = Literal["steps", "epochs", "examples", "percent"]
UNITS = {name: name for name in ("steps", "epochs", "examples", "percent")} | {
    "step": "steps",
    "epoch": "epochs",
    "example": "examples",
    "%": "percent",
    "": "steps",
}


@config
class Duration(OwnStart):
    """An amount of training."""

    amount: float = structure(doc="how many, more than 0", within="(0, inf)")
    unit: Unit = structure("steps", "steps, epochs, examples, or percent of the whole training")

    def __str__(self):
        amount = f"{self.amount:.15g}"
        if self.unit == "percent":
            return f"{amount}%"
        return f"{amount} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"

    @classmethod
    def from_text(cls, text: str) -> "Duration":
        """The duration that is meant by "500", "500 steps", "10 epochs", "1e6 examples" or "5%".

        Raises ValueError, saying what is accepted, for any other text.
        """
        words = text.strip().lower()
        number = words.rstrip("abcdefghijklmnopqrstuvwxyz%_ ")
        unit = words[len(number) :].strip()
        try:
            amount = float(number.replace("_", ""))
        except ValueError:
            raise ValueError(f"'{text}' is no duration; write it as 500, 10 epochs, 1e6 examples or 5%") from None
        if unit not in UNITS:
            raise ValueError(f"'{text}' is in no unit that is known{did_you_mean(unit, filter(None, UNITS))}")
        if not 0 < amount < math.inf:
            raise ValueError(f"'{text}' is no duration; it must be more than 0")
        return cls(amount=amount, unit=UNITS[unit])


def steps(amount: float) -> Duration:
    """So many updates of the parameters."""
    return Duration(amount=amount, unit="steps")


def epochs(amount: float) -> Duration:
    """So many passes over the training examples."""
    return Duration(amount=amount, unit="epochs")


def examples(amount: float) -> Duration:
    """So many examples, counted as often as they are seen."""
    return Duration(amount=amount, unit="examples")


def percent(amount: float) -> Duration:
    """So much of the whole training."""
    return Duration(amount=amount, unit="percent")


def to_steps(duration: Duration, *, examples: int, batch_size: int, total: int | None) -> int:
    """The whole number of steps, at least 1, that a duration takes, rounded up.

    examples: of the training split. total: steps of the whole training, None while they are not known.
    Raises UserError for a percentage of an unknown total, and for an amount that is not more than 0.
    """
    return _round_up(duration, Fraction(examples, batch_size), Fraction(1, batch_size), total)


def to_scheduled_steps(duration: Duration, *, steps_per_epoch: float, total: int) -> int:
    """The same where all that is known of the data is the length of an epoch in steps, as in schedules.

    Raises UserError for a duration in examples, which that does not tell.
    """
    if duration.unit == "examples":
        raise UserError(f"schedule: '{duration}' cannot be used here; say it in steps, epochs or percent")
    # A ratio of two whole numbers came as a float: near a whole number of steps, that is what was meant.
    return _round_up(duration, Fraction(steps_per_epoch).limit_denominator(10**6), Fraction(0), total)


def _round_up(duration: Duration, steps_per_epoch: Fraction, steps_per_example: Fraction, total: int | None) -> int:
    if not 0 < duration.amount < math.inf:
        raise UserError(f"{duration}: a duration must be more than 0")
    if duration.unit == "percent" and total is None:
        raise UserError(f"{duration}: a percentage of what? say steps, epochs or examples")
    units = {
        "steps": Fraction(1),
        "epochs": steps_per_epoch,
        "examples": steps_per_example,
        "percent": Fraction(total or 0, 100),
    }
    amount = Fraction(repr(float(duration.amount)))  # of the decimal digits: 0.1 is a tenth, not the float next to it
    return max(1, math.ceil(amount * units[duration.unit]))
