"""Two tasks on one trunk: printed letters, and handwritten digits of which only a hundred are labelled.

    python launch.py --config experiments/two_tasks.py
    python launch.py --config experiments/two_tasks.py:alone      the digits by themselves

Time: about 25 s on two cores. Result: 87.8 % of the digits right, and 92.1 % of the letters.

Each task has its own head, and its own figures; the best checkpoint is the best at digits. A weight of a task can be
swept like any number, `data.tasks.1.weight`, and so can the draw of the labels, `data.tasks.0.data.seed`.

One draw says little. With this one the digits by themselves come to 91.9 %; over four draws it is 88.7 % by themselves
and 89.5 % with the letters, which help a little. A network that begins with printed digits is far better than either:
`finetune_digits.py`.
"""

from research.data import Digits, Few, Glyphs
from research.errors import UserError
from research.models import ConvNet
from research.training import AdamW, Cosine, Experiment, Task, Tasks, percent, steps

LABELLED = 100


def get_config(variant: str = "") -> Experiment:
    if variant not in ("", "alone"):
        raise UserError(f"'{variant}' is no variant; there is 'alone'")
    digits = Task(Few(Digits(), LABELLED))
    letters = Task(Glyphs(size=8, fill=1.0, blur=0.0, alphabet="letters", examples=10_000))
    return Experiment(
        data=Tasks(digits=digits) if variant == "alone" else Tasks(digits=digits, letters=letters),
        model=ConvNet(features=(12, 24, 48), norm="group"),
        optimizer=AdamW(learning_rate=4e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        duration=steps(800),
        batch_size=32,
        select="validation/digits/accuracy",
        evaluate_every=steps(200),
        norms="none",
    )
