"""How deep should a convolutional network be? One to sixteen layers of equal width, at some learning rates and seeds.

    python launch.py --config experiments/depth_sweep.py --mode inspect

Time: about 3 s on two cores, since sweeps can only be inspected as yet. Result: a plan of 60 trials in 5 programs, of
330 to 35,130 parameters.

Layers are 3x3 and nothing is pooled, so each sees one pixel more to every side: the eight pixels of these digits are
covered from the fourth on. `--config experiments/depth_sweep.py:matched` makes deeper networks narrower, so that all
have about as many parameters.
"""

from research.data import Digits
from research.models import ConvNet
from research.sweeps import Sweep, grid, log_uniform, matched, product, repeat
from research.training import AdamW, Cosine, Experiment, epochs, percent, steps

PARAMETERS = 20_000


def get_config(widths: str = "equal") -> Sweep:
    budget = [matched("model.features", parameters=PARAMETERS)] if widths == "matched" else []
    return Sweep(
        base=Experiment(
            data=Digits(),
            model=ConvNet(features=(16,), pooling=None, head="average"),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(5)),
            duration=steps(600),
            batch_size=64,
            evaluate_every=epochs(5),
        ),
        space=product(
            grid("model.convolutions", 1, 2, 4, 8, 16),
            *budget,
            log_uniform("optimizer.learning_rate", 1e-4, 1e-1, trials=4),
            repeat("seed", 3),
        ),
        select="validation/accuracy",
    )
