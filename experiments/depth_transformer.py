"""How deep should a small language model be? One to eight blocks of GPT on the bytes of the Python reference.

    python launch.py --config experiments/depth_transformer.py

Time: about 2 min on two cores with AVX-512. Result: after so little training one, two and four
blocks are alike, at 3.8 bits per byte of the validation text.

Models are selected by the loss of the validation text; what they come to is told in bits for each byte, the loss
divided by log 2. Every depth sees the same text as often: 300 batches of eight times 64 bytes, by which a model learns
which bytes are frequent and which follow which (their frequencies alone need 4.67 bits), and for that one block will
do. gpt.py goes on to 2.13 bits. Longer training is `--config.base.duration "3000 steps"`. Other variants:

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
