"""How deep should a convolutional network be? One to sixteen layers of equal width, plain and residual.

    python launch.py --config experiments/depth_sweep.py

Time: about 40 s on two cores with AVX-512, and 30 s where it was run before. Result: four plain layers are best,
with 92.2 % of 10,000 glyphs right (95 % interval 89.9 to 94.3).

Layers are 3x3 and nothing is pooled, so each sees one pixel more to every side: the eight pixels of these glyphs are
covered from the fourth on. Plain networks get worse again when they get deeper, on the training data as well, which
skip connections mend. `--mode inspect` shows the plan alone. Other variants:

    depth_sweep.py:matched    deeper networks are narrower, so that all have about as many parameters
    depth_sweep.py:full       MLPs and ViTs as well, and convolutions at matched parameters and at matched FLOPs
"""

from research.data import Glyphs
from research.models import MLP, ConvNet, ViT
from research.sweeps import Sweep, chain, grid, matched, product, repeat
from research.training import AdamW, Cosine, Experiment, percent, steps

PARAMETERS = 5_000
MULTIPLY_ADDS = 310_000


def get_config(variant: str = "") -> Sweep:
    depths = grid("model.convolutions", 1, 2, 4, 8, 16)
    plain = product(grid("model.residual", False), depths)
    residual = product(grid("model.residual", True), grid("model.convolutions", 4, 8, 16))
    same_size = product(plain, matched("model.features", parameters=PARAMETERS))
    spaces = {
        "": chain(plain, residual),
        "matched": same_size,
        "full": chain(
            plain,
            residual,
            same_size,
            product(plain, matched("model.features", multiply_adds=MULTIPLY_ADDS)),
            product(
                grid("model", MLP(width=64), MLP(width=64, residual=True)),
                grid("model.depth", 1, 2, 4, 8, 16, 32),
            ),
            product(grid("model", ViT(width=32, heads=4, patch=2)), grid("model.depth", 1, 2, 4, 8)),
        ),
    }
    if variant not in spaces:
        raise ValueError(f"'{variant}' is none of the variants matched and full")
    return Sweep(
        base=Experiment(
            data=Glyphs(size=8, examples=2_000, validation=1_000, test=10_000),
            model=ConvNet(features=(8,), norm="batch", pooling=None, head="average"),
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(10)),
            duration=steps(250),
            batch_size=16,
            evaluate_every=steps(250),
            norms="none",
        ),
        space=product(spaces[variant], grid("optimizer.learning_rate", 1e-2, 2e-2, 4e-2, 8e-2), repeat("seed", 2)),
        judge=4,
        tested="chosen",
    )
