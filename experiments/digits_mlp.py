"""The smallest thing that learns digits: a perceptron of two hidden layers.

    python launch.py --config experiments/digits_mlp.py

Time: about 6 s on two cores. Result: 97.9 % test accuracy (mean of five seeds).

An argument sets the depth: `--config experiments/digits_mlp.py:8`.
"""

from research.data import Digits
from research.models import MLP
from research.training import AdamW, Cosine, Experiment, steps


def get_config(depth: int = 2) -> Experiment:
    return Experiment(
        data=Digits(),
        model=MLP(depth=depth, width=64),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2),
        schedule=Cosine(),
        duration=steps(1200),
        batch_size=64,
    )
