"""Small experiments that the tests of the training room share."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from research.config import config, structure
from research.data.base import Dataset, Loaded, Normalisation, Split, Streamed
from research.models import MLP
from research.spec import Spec
from research.training import SGD, Experiment, steps


@config
class Blobs(Dataset):
    """Points around one centre a class, six numbers each."""

    train: int = structure(50)
    held_out: int = structure(23)
    classes: int = structure(3)

    def load(self) -> Loaded:
        random = np.random.default_rng(0)
        centres = random.normal(size=(self.classes, 6))

        def split(count):
            labels = random.integers(0, self.classes, count).astype(np.int32)
            return Split((centres[labels] + 0.8 * random.normal(size=(count, 6))).astype(np.float32), labels)

        splits = {"train": split(self.train), "validation": split(self.held_out), "test": split(self.held_out)}
        spec = Spec((6,), self.classes, tuple(f"blob {i}" for i in range(self.classes)))
        normalisation = Normalisation(1.0, np.full(6, 0.1, np.float32), np.full(6, 1.5, np.float32))
        return Loaded(spec, splits, normalisation, kind="table", background=None)


@config
class StreamedBlobs(Blobs):
    """The same points, handed out only when they are read."""

    def load(self) -> Loaded:
        loaded = super().load()

        def streamed(split):
            rows = np.arange(len(split))
            return Streamed(split.labels, rows, split.shape, split.dtype, lambda indices: split.inputs[indices])

        return loaded._replace(splits={name: streamed(split) for name, split in loaded.splits.items()})


class Affine(nn.Module):
    """One dense layer, whose step can be worked out by hand."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.classes, name="head")(inputs)


@pytest.fixture
def tiny():
    """An experiment of a few milliseconds; keyword arguments replace its fields."""

    def make(**fields) -> Experiment:
        experiment = Experiment(
            data=Blobs(),
            model=MLP(depth=2, width=8),
            optimizer=SGD(learning_rate=0.1),
            duration=steps(20),
            batch_size=16,
            log_every=steps(4),
            evaluate_every=steps(10),
            devices=1,
        )
        return dataclasses.replace(experiment, **fields)

    return make


@pytest.fixture
def streamed():
    """The data of `tiny`, streamed."""
    return StreamedBlobs()


@pytest.fixture
def affine():
    """A model of one dense layer."""
    return Affine()
