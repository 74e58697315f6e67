"""A GPT that knows the Python reference learns to write Python, by adapters alone; and what it forgets of the first.

    python launch.py --config experiments/gpt.py
    python launch.py --config experiments/finetune_gpt.py
    ... experiments/finetune_gpt.py:poems.txt              any other text, a file or a folder of them

Time: about a minute on two cores, after that of gpt.py. Result: 2.07 bits per byte of the other text, 2.85 before.

The other text is the source of a few of Python's own modules. At the end the test text is judged by the source and by
the result, in bits per byte, and so is that of the reference, which the source knows: what was learned, and what was
forgotten. A byte of the reference takes 2.49 bits then, and took 2.11. There are 73,728 numbers in the adapters, 9 for
each 100 of the network. They are saved alone, 300 kB of `adapters.safetensors` in the run's folder, with the SHA-256 of
the network that they belong to.
"""

from pathlib import Path

from research.data import ModuleText, PythonText, Text
from research.errors import UserError
from research.models import GPT
from research.parameters import LoRA
from research.training import AdamW, Cosine, Experiment, Finetuning, NextToken, Pretrained, steps

SOURCE = "runs/gpt"


def get_config(text: str = "") -> Experiment:
    if not Path(SOURCE).is_dir():
        raise UserError(f"{SOURCE}: there is no such run yet; first: python launch.py --config experiments/gpt.py")
    sizes = {"length": 128, "stride": 16}
    return Experiment(
        data=Text(path=text, **sizes) if text else ModuleText(**sizes),
        model=GPT(depth=4, width=128, heads=4, context=128),
        objective=NextToken(),
        finetuning=Finetuning(
            source=Pretrained(SOURCE),
            adapters=(LoRA("attention/(query|key|value|output)/kernel|dense_./kernel", rank=8),),
            earlier=PythonText(length=128),
        ),
        optimizer=AdamW(learning_rate=5e-3, beta2=0.99),
        schedule=Cosine(warmup=steps(20)),
        duration=steps(300),
        batch_size=16,
        clip=1.0,
        select="validation/loss",
        evaluate_every=steps(100),
        norms="none",
    )
