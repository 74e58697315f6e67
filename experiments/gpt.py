"""GPT learns to write the Python reference, byte by byte.

    python launch.py --config experiments/gpt.py
    python launch.py --mode sample --run runs/gpt --prompt 'The "with" statement' --temperature 0.5

Time: about a minute and a half on two cores. Result: 2.13 bits per byte of the test text (perplexity 4.4).
The bytes' own frequencies need 4.67 bits each, gzip 2.52 and bzip2 2.37, over the same test text.
"""

from research.data import PythonText
from research.models import GPT
from research.training import AdamW, Cosine, Experiment, NextToken, steps


def get_config() -> Experiment:
    return Experiment(
        data=PythonText(length=128, stride=16),
        model=GPT(depth=4, width=128, heads=4, context=128),
        objective=NextToken(),
        optimizer=AdamW(learning_rate=5e-3, beta2=0.99, weight_decay=0.1),
        schedule=Cosine(warmup=steps(100)),
        duration=steps(800),
        batch_size=16,
        clip=1.0,
        select="validation/loss",
        evaluate_every=steps(200),
    )
