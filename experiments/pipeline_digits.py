"""From printed letters to a handwritten-digit reader in use: pretrain, fine-tune, judge, make smaller, judge, export.

    python launch.py --config experiments/pipeline_digits.py

Time: about two minutes on two cores. Result: a new head alone comes to 89.4 % of the validation split, the last block
with it to 97.8 %, and the whole network to 98.3 %; in whole numbers of 8 bits it loses nothing, and 98.3 % of the test
split are right as exported.

Each stage goes on to the next only if its gate holds. Fine-tuning begins with the least that could be enough, a new
head, and trains more where that is not good enough. The same command again runs only what is not done yet;
`--config.stages.1.gate "accuracy >= 99.9 %"` asks for more, and `runs/pipeline_digits/report.html` says what happened
and why. The exit status is 1 if a gate does not hold in the end.
"""

from research.data import Digits, Glyphs
from research.deployment.compression import FeaturePruning, Int8, MagnitudePruning
from research.models import ConvNet
from research.parameters import full, last_blocks, linear_probe
from research.pipelines import Compress, Export, Pipeline, Result, Train, change
from research.training import AdamW, Cosine, Experiment, Finetuning, epochs, percent

MODEL = ConvNet(features=(12, 24, 48), norm="batch")


def get_config() -> Pipeline:
    pretraining = Experiment(
        data=Glyphs(size=8, fill=1.0, blur=0.0, alphabet="alphanumeric", examples=20_000),
        model=MODEL,
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        duration=epochs(4),
        evaluate_every=epochs(2),
    )
    finetuning = Experiment(
        data=Digits(),
        model=MODEL,
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(5)),
        finetuning=Finetuning(source=Result("glyphs"), partition=linear_probe()),
        duration=epochs(20),
        evaluate_every=epochs(2),
    )
    return Pipeline(
        glyphs=Train(pretraining),
        digits=Train(
            finetuning,
            gate="accuracy >= 98 %, worst_class_accuracy >= 85 %, at most 100e3 parameters",
            otherwise=(
                change("finetuning.partition", last_blocks(1, new_head=True)),
                change("finetuning.partition", full(new_head=True)),
                change("duration", epochs(60)),
            ),
        ),
        smaller=Compress(
            of="digits",
            methods=(Int8(), MagnitudePruning(sparsity=0.8), FeaturePruning(flops=0.5)),
            budget=0.01,
            gate="accuracy >= 98 %",
        ),
        deployed=Export(of="smaller", gate="accuracy >= 96 % on test"),
    )
