"""BERT fills gaps in the Python reference: it tells masked bytes from what is around them.

    python launch.py --config experiments/bert.py

Time: about a minute and a quarter on two cores. Result: 2.45 bits per masked byte, 54 % of them told.
The bytes' own frequencies need 4.67 bits each, and the most frequent one, the space, is a fifth of all.

A small network learns faster when more is masked than BERT's 15 % (Wettig et al., 2023), and from kernels wider than
its 0.02, which suits a width of 768: with both as published, and windows of 64, 3.8 bits were left after longer.
"""

from research.data import PythonText
from research.models import BERT
from research.training import AdamW, Cosine, Experiment, MaskedToken, steps


def get_config() -> Experiment:
    return Experiment(
        data=PythonText(length=32, stride=8),
        model=BERT(depth=3, width=128, heads=4, context=32, head="tokens", initializer="lecun_normal"),
        objective=MaskedToken(rate=0.3),
        optimizer=AdamW(learning_rate=2e-3, beta2=0.99, weight_decay=0.1),
        schedule=Cosine(warmup=steps(100)),
        duration=steps(1000),
        batch_size=64,
        clip=1.0,
        select="validation/loss",
        evaluate_every=steps(250),
    )
