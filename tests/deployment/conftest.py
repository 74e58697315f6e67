"""Runs of a few steps that the tests of the deployment room share."""

import pytest

from research.data import Digits, ModuleText, PythonTopics, Tones
from research.models import BERT, GPT, ConvNet, TextCNN
from research.training import CrossEntropy, Experiment, MaskedToken, NextToken, run, steps

OF_TOKENS = {"language": NextToken(), "hidden": MaskedToken()}


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a run of a kind: pictures, texts, sounds, or a language model, of next or of hidden tokens."""
    made = {}
    kinds = {
        "pictures": (Digits(), ConvNet(features=(4,), convolutions=1, hidden=(8,))),
        "texts": (PythonTopics(length=16), TextCNN(width=4, windows=(2,), features=4)),
        "sounds": (
            Tones(samples=128, examples=32, validation=8, test=16),
            ConvNet(features=(4,), convolutions=1, hidden=()),
        ),
        "language": (ModuleText(length=16), GPT(depth=1, width=16, heads=2, context=16)),
        "hidden": (ModuleText(length=16), BERT(depth=1, width=16, heads=2, context=16, head="tokens")),
    }

    def make(kind: str) -> str:
        if kind not in made:
            data, model = kinds[kind]
            objective = OF_TOKENS.get(kind, CrossEntropy())
            experiment = Experiment(
                data=data, model=model, objective=objective, duration=steps(8), batch_size=16, devices=1
            )
            made[kind] = run.train(experiment, workdir=str(tmp_path_factory.mktemp(kind)))["folder"]
        return made[kind]

    return make
