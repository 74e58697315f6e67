"""Which course of the learning rate, and how high its peak? Ten schedules at five peaks each.

    python launch.py --config experiments/schedule_sweep.py

Time: TIME. Result: RESULT.

Compare each schedule at its own best peak, for one that ends low bears a higher peak: at one rate for all, the
comparison is of rates and not of schedules. A schedule is another program, a peak is a number in it.
"""

from research.data import Glyphs
from research.models import ConvNet
from research.sweeps import Sweep, grid, product, repeat
from research.training import (
    AdamW,
    Constant,
    Cosine,
    Experiment,
    Exponential,
    InverseSquareRoot,
    Linear,
    OneCycle,
    StepDecay,
    percent,
    steps,
)

WARMUP = percent(10)


def get_config() -> Sweep:
    schedules = (
        Constant(),
        Constant(warmup=WARMUP),
        Linear(),
        Linear(warmup=WARMUP),
        Cosine(),
        Cosine(warmup=WARMUP),
        StepDecay(),
        Exponential(),
        InverseSquareRoot(warmup=WARMUP),
        OneCycle(),
    )
    return Sweep(
        base=Experiment(
            data=Glyphs(size=8, examples=2_000, validation=1_000, test=5_000),
            model=ConvNet(features=(8, 16), hidden=(32,)),
            optimizer=AdamW(weight_decay=1e-2),
            duration=steps(300),
            batch_size=32,
            evaluate_every=steps(50),
            norms="none",
        ),
        space=product(
            grid("schedule", *schedules),
            grid("optimizer.learning_rate", 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            repeat("seed", 2),
        ),
        judge=4,
    )
