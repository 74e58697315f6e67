"""Runs of a few steps that the tests of the deployment room share."""

import pytest

from research.data import Digits, PythonTopics, Tones
from research.models import ConvNet, TextCNN
from research.training import Experiment, run, steps


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a run of a kind: pictures, texts or sounds."""
    made = {}
    kinds = {
        "pictures": (Digits(), ConvNet(features=(4,), convolutions=1, hidden=(8,))),
        "texts": (PythonTopics(length=16), TextCNN(width=4, windows=(2,), features=4)),
        "sounds": (
            Tones(samples=128, examples=32, validation=8, test=16),
            ConvNet(features=(4,), convolutions=1, hidden=()),
        ),
    }

    def make(kind: str) -> str:
        if kind not in made:
            data, model = kinds[kind]
            experiment = Experiment(data=data, model=model, duration=steps(8), batch_size=16, devices=1)
            made[kind] = run.train(experiment, workdir=str(tmp_path_factory.mktemp(kind)))["folder"]
        return made[kind]

    return make
