"""Training as a pure function, and the edge around it: experiments, steps, the loop, evaluation, checkpoints.

What a config file needs is here by name:

    from research.training import AdamW, Cosine, Experiment, epochs
"""

from research.training.duration import Duration, epochs, examples, percent, steps
from research.training.experiment import EarlyStopping, Experiment
from research.training.finetuning import Adapted, Finetuning, Pretrained
from research.training.objective import CrossEntropy, MaskedToken, NextToken, Objective
from research.training.optimizers import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Lion,
    Momentum,
    Muon,
    Nesterov,
    Optimizer,
    RMSprop,
)
from research.training.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    Linear,
    OneCycle,
    Schedule,
    StepDecay,
)
from research.training.tasks import Task, Tasks

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Adapted",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Duration",
    "EarlyStopping",
    "Experiment",
    "Exponential",
    "Finetuning",
    "InverseSquareRoot",
    "Linear",
    "Lion",
    "MaskedToken",
    "Momentum",
    "Muon",
    "Nesterov",
    "NextToken",
    "Objective",
    "OneCycle",
    "Optimizer",
    "Pretrained",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "Task",
    "Tasks",
    "epochs",
    "examples",
    "percent",
    "steps",
]
