"""How deep should a convolutional network be? One to sixteen layers of equal width, at some learning rates and seeds.

    python launch.py --config experiments/depth_sweep.py

Time: about 1.5 min on two cores. Result: 98.9 % validation and test accuracy is the best of 40 trials, by four layers;
one layer comes to 60 %, two to 89 %, eight and sixteen to 97.8 %.

Layers are 3x3 and nothing is pooled, so each sees one pixel more to every side: the eight pixels of these digits are
covered from the fourth on, and more depth gains nothing. `--mode inspect` shows the plan alone, and `--config
experiments/depth_sweep.py:matched` makes deeper networks narrower, so that all have about as many parameters.
"""

from research.data import Digits
from research.models import ConvNet
from research.sweeps import Sweep, grid, log_uniform, matched, product, repeat
from research.training import AdamW, Cosine, Experiment, epochs, percent, steps

PARAMETERS = 20_000


def get_config(widths: str = "equal") -> Sweep:
    if widths not in ("equal", "matched"):
        raise ValueError(f"'{widths}' is neither equal nor matched")
    budget = [matched("model.features", parameters=PARAMETERS)] if widths == "matched" else []
    return Sweep(
        base=Experiment(
            data=Digits(),
            model=ConvNet(features=(16,), pooling=None, head="average"),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(5)),
            duration=steps(400),
            batch_size=64,
            evaluate_every=epochs(5),
        ),
        space=product(
            grid("model.convolutions", 1, 2, 4, 8, 16),
            *budget,
            log_uniform("optimizer.learning_rate", 1e-3, 3e-2, trials=4),
            repeat("seed", 2),
        ),
        select="validation/accuracy",
    )
