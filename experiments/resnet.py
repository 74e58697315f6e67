"""ResNet-20, the smallest of those for small pictures, on handwritten digits.

    python launch.py --config experiments/resnet.py
    python launch.py --config experiments/resnet.py --config.model.shortcut None

Time: about half a minute on two cores. Result: about 98.9 % test accuracy.

The second command trains the plain network beside it, which differs in nothing but the shortcuts.
"""

from research.data import Augmentation, Digits
from research.models import SmallResNet
from research.training import AdamW, Cosine, Experiment, epochs, percent


def get_config(depth: str = "20") -> Experiment:
    return Experiment(
        data=Digits(),
        model=SmallResNet(depth=int(depth)),
        augmentation=Augmentation(rotation=10.0, scale=0.1, shift=1.0),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        duration=epochs(20),
        batch_size=64,
        evaluate_every=epochs(4),
    )
