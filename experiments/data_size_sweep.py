"""How does the best depth move with the number of training examples, and with the number of steps?

    python launch.py --config experiments/data_size_sweep.py

Time: TIME. Result: RESULT.

Perceptrons of one width, at four depths, for each of three sizes of the training split and two durations. The test
split is the same throughout, so that all are compared on the same 5,000 examples.
"""

from research.data import Glyphs
from research.models import MLP
from research.sweeps import Sweep, grid, product, repeat
from research.training import AdamW, Cosine, Experiment, percent, steps


def get_config() -> Sweep:
    return Sweep(
        base=Experiment(
            data=Glyphs(alphabet="alphanumeric", size=8, validation=1_000, test=5_000),
            model=MLP(width=64),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(10)),
            batch_size=32,
            evaluate_every=percent(25),
            norms="none",
        ),
        space=product(
            grid("data.examples", 300, 2_000, 15_000),
            grid("duration", steps(200), steps(1_000)),
            grid("model.depth", 1, 2, 4, 8),
            grid("optimizer.learning_rate", 3e-3, 1e-2, 3e-2),
            repeat("seed", 1),
        ),
        judge=3,
        judge_most=24,
    )
