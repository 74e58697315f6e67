"""Which course of the learning rate, and how high its peak? Ten schedules at five peaks each.

    python launch.py --config experiments/schedule_sweep.py

Time: about 3 min on two cores. Result: OneCycle at a peak of 0.03 is best, with 95.3 % of 5,000 glyphs right (95 %
interval 94.2 to 96.4); a cosine or a straight line after a warm-up cannot be told from it.

Compare each schedule at its own best peak: those with a warm-up bear a peak of 0.03, most others 0.01. At one peak for
all, rates would be compared, and not schedules. Without the warm-up the cosine and the straight line lose 2 to 3
points, and an exponential fall, which is low for most of the time, 12. A schedule is another program, a peak a number
in it.
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
