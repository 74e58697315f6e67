"""Sources that tests read: a random model of ours in any layout, saved by us."""

import jax
import numpy as np
import pytest

from research.models import BERT, GPT, VGG, ResNet, ViT, network
from research.parameters import flatten
from research.spec import Spec

NAMES = ("ant", "bee", "cat", "dog", "eel")
PICTURES = Spec((12, 16, 3), 5, NAMES)
TEXT = Spec((10,), 5, NAMES, 23)
TOKENS = Spec((10,), 23, tuple(map(str, range(23))), 23)
_VIT = {"depth": 2, "width": 32, "heads": 4, "patch": 4}
_TEXT = {"depth": 2, "width": 32, "heads": 4, "context": 10}

MODELS = {
    "transformers-resnet": (ResNet(depth=18, width=4), Spec((224, 224, 3), 5, NAMES)),
    "transformers-vit": (ViT(**_VIT), PICTURES),
    "transformers-gpt2": (GPT(**_TEXT), TOKENS),
    "transformers-bert": (BERT(**_TEXT, padding=0), TEXT),
    "torchvision-resnet": (ResNet(depth=18, width=4), Spec((224, 224, 3), 5, tuple("01234"))),
    "torchvision-vgg": (VGG(depth=11, width=2, hidden=(6, 4)), Spec((64, 64, 3), 5, tuple("01234"))),
    "timm-resnet": (ResNet(depth=50, width=4), Spec((64, 64, 3), 5, NAMES)),
    "timm-vit": (ViT(**_VIT, epsilon=1e-6), PICTURES),
    "google-vit": (ViT(**_VIT, epsilon=1e-6, activation="gelu_tanh"), Spec((12, 12, 3), 5, tuple("01234"))),
}
"""A small model of each layout, with the spec that a file of it gives back."""


def shapes_of(model, spec):
    """{path: ShapeDtypeStruct} of a model's parameters and state."""
    variables = jax.eval_shape(network(model, spec).init, jax.random.key(0))
    parameters = variables.pop("params")
    return {**flatten(parameters), **flatten(variables)}


def random_arrays(model, spec, seed=0):
    """Random parameters and state of a model, as (parameters, state)."""
    rng = np.random.default_rng(seed)
    arrays = {
        path: (rng.uniform(0.5, 2, shape.shape) if path.endswith("var") else rng.normal(size=shape.shape) * 0.2)
        for path, shape in shapes_of(model, spec).items()
    }
    arrays = {path: np.asarray(array, np.float32) for path, array in arrays.items()}
    state = {path: array for path, array in arrays.items() if path.startswith("batch_stats/")}
    return {path: array for path, array in arrays.items() if path not in state}, state


@pytest.fixture
def small():
    """small(layout) -> (model, spec, parameters, state) of a small model that the layout can tell of."""

    def made(layout):
        model, spec = MODELS[layout]
        return model, spec, *random_arrays(model, spec)

    return made


@pytest.fixture
def save(tmp_path, small):
    """save(layout) -> the path of a random small model in that layout, with (model, spec, parameters, state)."""
    from research.pretrained import save_pretrained

    def saved(layout, name="source"):
        model, spec, parameters, state = small(layout)
        path = tmp_path / (f"{name}.npz" if layout == "google-vit" else name)
        save_pretrained(path, layout, model, spec, parameters, state)
        return path, (model, spec, parameters, state)

    return saved
