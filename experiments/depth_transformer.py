"""How deep should a small language model be? One to eight blocks of GPT on the bytes of the Python reference.

    python launch.py --config experiments/depth_transformer.py

Time: TIME. Result: RESULT.

Models are selected by the loss of the validation text; what they come to is told in bits for each byte, the loss
divided by log 2. Every depth sees the same text as often. Other variants:

    depth_transformer.py:matched    deeper models are narrower, so that all have about as many parameters
"""

from research.data import PythonText
from research.models import GPT
from research.sweeps import Sweep, grid, matched, product, repeat
from research.training import AdamW, Cosine, Experiment, NextToken, percent, steps

PARAMETERS = 60_000


def get_config(variant: str = "") -> Sweep:
    depths = grid("model.depth", 1, 2, 4, 8)
    spaces = {"": depths, "matched": product(depths, matched("model.width", parameters=PARAMETERS))}
    if variant not in spaces:
        raise ValueError(f"'{variant}' is no variant; there is matched")
    return Sweep(
        base=Experiment(
            data=PythonText(length=64, stride=16),
            model=GPT(width=32, heads=4, context=64),
            objective=NextToken(),
            optimizer=AdamW(beta2=0.99, weight_decay=0.1),
            schedule=Cosine(warmup=percent(10)),
            duration=steps(300),
            batch_size=8,
            clip=1.0,
            select="validation/loss",
            evaluate_every=steps(100),
            norms="none",
        ),
        space=product(spaces[variant], grid("optimizer.learning_rate", 2e-3, 4e-3), repeat("seed", 1)),
        select="validation/loss",
        judge=2,
    )
