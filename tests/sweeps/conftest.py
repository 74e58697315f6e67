"""A small experiment that sweeps vary, and ways to look into how they are run."""

import contextlib
import itertools

import pytest

from research.data import Digits
from research.models import MLP
from research.sweeps.fit import Pack
from research.training import AdamW, Experiment, interruption, steps


@pytest.fixture
def base() -> Experiment:
    return Experiment(
        data=Digits(),
        model=MLP(depth=1, width=4),
        optimizer=AdamW(),
        duration=steps(6),
        batch_size=32,
        evaluate_every=steps(3),
        devices=1,
    )


@pytest.fixture
def packs(monkeypatch):
    """The trials of each pack that is begun, [(index of a trial, ...)]."""
    begun = []
    begin = Pack.__init__

    def watched(self, program, trials, *rest):
        begun.append([trial.index for trial in trials])
        begin(self, program, trials, *rest)

    monkeypatch.setattr(Pack, "__init__", watched)
    return begun


@pytest.fixture
def interrupted_after(monkeypatch):
    """Has a signal come once it was asked for so many times."""

    def set_up(count):
        answers = itertools.chain([None] * count, itertools.repeat("SIGTERM"))
        monkeypatch.setattr(interruption, "signals", lambda: contextlib.nullcontext(lambda: next(answers)))

    return set_up
