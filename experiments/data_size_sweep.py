"""How the best depth moves with the number of training examples, and with the number of steps.

    python launch.py --config experiments/data_size_sweep.py

Time: about 3 min on two cores. Result: after 1,000 steps depth 2 is best with 100 examples, and depth 5 with 1,000 and
with 10,000; after 100 steps it is 2, 3 and 3.

Perceptrons of one width, with one to eight hidden layers (depth counts the last one, too), for each of three sizes of
the training split and two durations. The first figure of the page shows how the best depth moves, and which depths
cannot be told from it: with few examples hardly any, and where 99 % are right at any depth, as with 10,000 examples,
less depth is enough. Validation and test split are the same throughout, so that all are judged by the same examples.
"""

from research.data import Glyphs
from research.models import MLP
from research.sweeps import Sweep, grid, product, repeat
from research.training import AdamW, Cosine, Experiment, percent, steps


def get_config() -> Sweep:
    return Sweep(
        base=Experiment(
            data=Glyphs(size=8, validation=1_000, test=5_000),
            model=MLP(width=64),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(10)),
            batch_size=32,
            evaluate_every=percent(25),
            norms="none",
        ),
        space=product(
            grid("data.examples", 100, 1_000, 10_000),
            grid("duration", steps(100), steps(1_000)),
            grid("model.depth", 1, 2, 4, 8),
            grid("optimizer.learning_rate", 1e-3, 3e-3, 1e-2),
            repeat("seed", 2),
        ),
        judge=3,
        judge_most=24,
    )
