"""MNIST to 99 % in plain PyTorch: the network, optimizer, schedule, batches and epochs of `training_mnist.py`.

    MNIST_DIR=path/to/mnist python experiments/benchmarks/training_mnist_torch.py 3

All examples lie on the device; after each epoch 5000 of the training examples that were held out are judged, and at the
end the test examples, whose accuracy is printed.
"""

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

EPOCHS, BATCH, HELD_OUT, RATE, DECAY = int(sys.argv[1]), 128, 5000, 3e-3, 1e-2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read(name: str) -> np.ndarray:
    """The values of an idx file of bytes, gzipped or not."""
    folder = Path(os.environ["MNIST_DIR"])
    plain = folder / name
    content = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def examples(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (examples, 1, 28, 28) in [0, 1], and labels."""
    pictures, labels = read(f"{part}-images-idx3-ubyte"), read(f"{part}-labels-idx1-ubyte")
    inputs = torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]
    return inputs.to(DEVICE), torch.from_numpy(labels.astype(np.int64)).to(DEVICE)


def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of examples that are told right."""
    with torch.no_grad():
        told = torch.cat([model(part).argmax(dim=1) for part in inputs.split(1000)])
    return (told == labels).float().mean().item()


torch.manual_seed(0)
inputs, labels = examples("train")
mean, deviation = inputs[HELD_OUT:].mean(), inputs[HELD_OUT:].std()
inputs = (inputs - mean) / deviation
validation, inputs = (inputs[:HELD_OUT], labels[:HELD_OUT]), inputs[HELD_OUT:]
labels = labels[HELD_OUT:]
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
).to(DEVICE)
optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
steps = EPOCHS * (len(inputs) // BATCH)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, cycle_momentum=False)
for _ in range(EPOCHS):
    for chosen in torch.randperm(len(inputs), device=DEVICE)[: len(inputs) // BATCH * BATCH].split(BATCH):
        loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    accuracy(model, *validation)
test, answers = examples("t10k")
print(accuracy(model, (test - mean) / deviation, answers))
