"""A small experiment that sweeps vary."""

import pytest

from research.data import Digits
from research.models import MLP
from research.training import AdamW, Experiment, steps


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
