"""How deep should a convolutional network be on MNIST? One, two or four layers in each of three stages.

    MNIST_DIR=path/to/mnist python launch.py --config experiments/depth_mnist.py

Time: about 1 min on two cores with AVX-512. Result: two layers in each stage come to 96.1 % of the validation digits,
one to 91.7 %; of the test digits, judged on two fresh seeds, the 4.7 points between them are too few to name a depth.

Each stage is pooled, so that a feature of the last sees the whole digit however few layers there are: unlike in
depth_sweep.py, depth is not needed to see. 6,000 of the training examples are enough to tell depths apart in 200 steps;
all of the test split judges. `MNIST_DIR` is the folder of the four idx files; without it they are looked for in the
cache and downloaded. Other variants:

    depth_mnist.py:matched    deeper networks are narrower, so that all have about as many parameters
    depth_mnist.py:mlp        perceptrons of one to sixteen hidden layers, plain and residual
"""

from research.data import MNIST
from research.models import MLP, ConvNet
from research.sweeps import Sweep, chain, grid, matched, product, repeat
from research.training import AdamW, Cosine, Experiment, percent, steps

PARAMETERS = 10_500


def get_config(variant: str = "") -> Sweep:
    plain, residual = grid("model.residual", False), grid("model.residual", True)
    depths, deeper = grid("model.convolutions", 1, 2, 4), grid("model.convolutions", 2, 4)
    spaces = {
        "": chain(product(plain, depths), product(residual, deeper)),
        "matched": product(plain, depths, matched("model.features", parameters=PARAMETERS)),
        "mlp": chain(
            product(grid("model", MLP(width=64)), grid("model.depth", 1, 2, 4, 8, 16)),
            product(grid("model", MLP(width=64, residual=True)), grid("model.depth", 4, 8, 16)),
        ),
    }
    if variant not in spaces:
        raise ValueError(f"'{variant}' is none of the variants matched and mlp")
    return Sweep(
        base=Experiment(
            data=MNIST(examples=6_000, validation=1_000),
            model=ConvNet(features=(4, 8, 16), norm="batch", head="average"),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(10)),
            duration=steps(200),
            batch_size=32,
            evaluate_every=steps(200),
            norms="none",
        ),
        space=product(spaces[variant], grid("optimizer.learning_rate", 1e-2, 3e-2), repeat("seed", 1)),
        judge=2,
    )
