"""Networks of a few units on digits, with random weights, and what methods need to work on them."""

import jax
import numpy as np
import pytest

from research.data import Digits, base
from research.deployment.compression.base import Work
from research.deployment.trained import Trained, logits
from research.models.base import network
from research.parameters import paths
from research.training import Experiment, steps


@pytest.fixture(scope="session")
def digits():
    return Digits().load()


@pytest.fixture(scope="session")
def make(digits):
    """A network of a model whose biases, norms and running statistics are random too, and not 0 and 1."""

    def make(model, seed=0) -> Trained:
        random = np.random.default_rng(seed)
        variables = dict(jax.device_get(network(model, digits.spec).init(jax.random.key(seed))))
        parameters, state = paths.flatten(variables.pop("params")), paths.flatten(variables)

        def other(path, array):
            if path.endswith("kernel"):
                return array
            low = 0.5 if path.endswith(("var", "scale")) else -0.5
            return random.uniform(low, low + 1, array.shape).astype(np.float32)

        parameters, state = ({path: other(path, a) for path, a in tree.items()} for tree in (parameters, state))
        return Trained(model, base.from_description(base.describe(digits)), parameters, state, {"path": "-", "step": 0})

    return make


@pytest.fixture(scope="session")
def work_on(digits):
    """What a method works on, of a network."""

    def work_on(trained: Trained, **fields) -> Work:
        told = {"data": Digits(), "model": trained.model, "batch_size": 32, "duration": steps(4), **fields}
        return Work(trained, Experiment(**told), digits)

    return work_on


@pytest.fixture(scope="session")
def inputs(digits):
    """Some digits as a network sees them."""
    return np.asarray(base.normalise(digits.normalisation, digits.splits["test"].inputs[:16]))


@pytest.fixture(scope="session")
def answers(inputs):
    """The logits of a network on these digits."""

    def answers(trained: Trained) -> np.ndarray:
        return np.asarray(logits(trained, trained.parameters, trained.model_state, inputs))

    return answers
