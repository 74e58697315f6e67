"""The trials that sweeps are measured with, as a config file that `launch.py` takes as well.

    python launch.py --config "experiments/benchmarks/sweeps_subjects.py:MLP 2x64,64,600"     64 trials of 600 steps

Trials differ in the learning rate and the seed. They are evaluated at their end alone, and nothing is judged again.
"""

from research.data import Digits
from research.models import MLP, ConvNet, ViT
from research.sweeps import Sweep, grid, product, repeat
from research.training import AdamW, Experiment, percent, steps

BATCH, LOG_EVERY = 64, 100
MODELS = {
    "MLP 2x64": MLP(depth=2, width=64),
    "MLP 8x128": MLP(depth=8, width=128),
    "ConvNet 8, 16": ConvNet(features=(8, 16)),
    "ViT 2x32": ViT(depth=2, width=32, heads=4, patch=2),
    "MLP 1x8": MLP(depth=1, width=8),
}
RATES = (5e-4, 1e-3, 2e-3, 5e-3)


def get_config(variant: str = "MLP 2x64,64,600") -> Sweep:
    name, trials, count = variant.rsplit(",", 2)
    rates = RATES if int(trials) % len(RATES) == 0 else RATES[:1]
    return Sweep(
        base=Experiment(
            data=Digits(),
            model=MODELS[name],
            optimizer=AdamW(weight_decay=1e-2),
            duration=steps(int(count)),
            batch_size=BATCH,
            evaluate_every=percent(100),
            log_every=steps(LOG_EVERY),
            norms="none",
            devices=1,
        ),
        space=product(grid("optimizer.learning_rate", *rates), repeat("seed", int(trials) // len(rates))),
        judge=0,
        name="sweep",
    )
