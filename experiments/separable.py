"""Depthwise separable convolutions, a small MobileNet, on drawn digits of 16x16 pixels.

    python launch.py --config experiments/separable.py

Time: about a minute and a half on two cores. Result: about 94 % test accuracy.
"""

from research.data import Glyphs
from research.models import SeparableNet
from research.training import AdamW, Cosine, Experiment, epochs, percent


def get_config() -> Experiment:
    return Experiment(
        data=Glyphs(size=16, examples=5000),
        model=SeparableNet(depth=18, width=16, stem_stride=1),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        duration=epochs(10),
        batch_size=64,
        evaluate_every=epochs(2),
    )
