"""Which part of a pretrained network should be trained, with how many labels? Seven strategies on ten to all digits.

    python launch.py --config experiments/pretrain_glyphs.py
    python launch.py --config experiments/finetune_digits.py
    python launch.py --config experiments/finetune_digits.py:hundred    from scratch and full, 100 labels, thirty draws

Time: about four minutes on two cores, `hundred` one. Result: the cheapest that is as good as the best is the last block
with ten labels and from 100 on, and all of it with 30; from scratch is worse with each number, by 28 points with ten
and by 2 with all. In `hundred` 91.8 % of the test digits are right from scratch and 96.8 % in full, 5.0 points more
(95 % interval 3.4 to 6.6, of examples and of thirty draws of the labels; learning rates are chosen on twenty others).

Of each strategy and number of labels the learning rate is chosen by validation, and judged on fresh seeds, each with
labels of its own: which these are decides much where there are few. Strategies see the same draws, and are compared
draw by draw. The page shows accuracy by labels, a line a strategy, which is the cheapest that is as good as the best,
and what each costs: parameters trained, bytes of optimizer state and of activations kept, seconds.
"""

from pathlib import Path

from research.data import Digits, Few
from research.errors import UserError
from research.models import ConvNet
from research.parameters import LoRA, full, gradual, last_blocks, layerwise_decay, linear_probe
from research.sweeps import Sweep, grid, product, repeat, zipped
from research.training import AdamW, Cosine, Experiment, Finetuning, Pretrained, percent, steps

SOURCE = "runs/pretrain_glyphs"
LABELLED, BATCHES = (10, 30, 100, 300, 1257), (10, 15, 20, 20, 20)  # the last are all there are


def strategies() -> dict[str, Finetuning | None]:
    """By name, from nothing that is kept over the least that is trained to all."""
    source = Pretrained(SOURCE)
    low_rank = LoRA("convolution_0/kernel", rank=4)
    return {
        "from scratch": None,
        "linear probe": Finetuning(source=source, partition=linear_probe(new_head=False)),
        "LoRA": Finetuning(source=source, partition=linear_probe(new_head=False), adapters=(low_rank,)),
        "last block": Finetuning(source=source, partition=last_blocks(1)),
        "gradual unfreezing": Finetuning(source=source, partition=gradual(1, percent(20), new_head=False)),
        "layer-wise decay": Finetuning(source=source, partition=layerwise_decay(0.7)),
        "full": Finetuning(source=source, partition=full()),
    }


def get_config(variant: str = "") -> Sweep:
    if variant not in ("", "hundred"):
        raise UserError(f"'{variant}' is no variant; there is 'hundred'")
    if not Path(SOURCE).is_dir():
        first = "python launch.py --config experiments/pretrain_glyphs.py"
        raise UserError(f"{SOURCE}: there is no such run yet; first: {first}")
    compared, rates, tried, judge = strategies(), (2e-3, 8e-3, 3.2e-2), 1, 6
    labelled = [zipped(grid("data.examples", *LABELLED), grid("batch_size", *BATCHES))]
    if variant == "hundred":  # as the base has them
        compared, labelled = {name: compared[name] for name in ("from scratch", "full")}, []
        rates, tried, judge = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), 20, 30
    return Sweep(
        base=Experiment(
            data=Few(Digits(), examples=100),
            model=ConvNet(features=(12, 24, 48), norm="group"),  # that of the source
            optimizer=AdamW(weight_decay=1e-2),
            schedule=Cosine(warmup=percent(10)),
            duration=steps(200),
            batch_size=20,
            evaluate_every=steps(100),
            norms="none",
        ),
        space=product(
            *labelled,
            zipped(grid("name", *compared), grid("finetuning", *compared.values())),
            grid("optimizer.learning_rate", *rates),
            zipped(repeat("seed", tried), repeat("data.seed", tried)),  # each with labels of its own
        ),
        judge=judge,
        judge_most=len(LABELLED) * len(compared),
    )
