"""LeNet-5 on drawn digits of MNIST's size: as it is built today, or as published in 1998.

    python launch.py --config experiments/lenet.py
    python launch.py --config experiments/lenet.py:1998

Time: about half a minute on two cores. Result: about 99.8 % test accuracy; about 99 % as published.
"""

from research.data import Glyphs
from research.errors import UserError
from research.models import LeNet, LeNet1998
from research.training import AdamW, Cosine, Experiment, epochs, percent

MODELS = {"today": LeNet(), "1998": LeNet1998()}


def get_config(version: str = "today") -> Experiment:
    if version not in MODELS:
        raise UserError(f"'{version}' is none of {', '.join(MODELS)}")
    return Experiment(
        data=Glyphs(size=28, examples=10_000),
        model=MODELS[version],
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        duration=epochs(8),
        batch_size=64,
    )
