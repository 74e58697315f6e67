"""A Flax module of your own as the model: copy this file and change it.

    python launch.py --config experiments/own_model.py

Time: about 8 s on two cores. Result: 98.1 % test accuracy (mean of three seeds).

`classes` is left open and set from the data. Its fields can be changed from the command line like any other:
`--config.model.width 128`.
"""

import flax.linen as nn

from research.data import Digits
from research.training import Experiment, epochs


class Wide(nn.Module):
    """One wide hidden layer with dropout."""

    width: int = 512
    classes: int | None = None

    @nn.compact
    def __call__(self, images, *, train: bool):
        hidden = nn.relu(nn.Dense(self.width, name="hidden")(images.reshape(len(images), -1)))
        hidden = nn.Dropout(0.5, name="dropout")(hidden, deterministic=not train)
        return nn.Dense(self.classes, name="head")(hidden)


def get_config() -> Experiment:
    return Experiment(data=Digits(), model=Wide(), duration=epochs(40), evaluate_every=epochs(4))
