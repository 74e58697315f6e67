"""The trials of `sweeps_subjects` one after another without this codebase: a plain PyTorch loop, and a plain Flax one.

    python experiments/benchmarks/sweeps_peers.py torch "MLP 2x64" --digits digits.npz --trials 0.001:0 0.001:1

Written as a tutorial would, and fast: the data is in memory, batches are taken by index, nothing is logged and no step
waits for a number. PyTorch's AdamW is the fused one. In Flax each trial makes its model, optimizer and jitted step
anew. `sweeps.py` starts this file; it writes what came of it to a file as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BEGUN = time.perf_counter()

import numpy as np  # noqa: E402

WEIGHT_DECAY = 1e-2


def main(arguments: Sequence[str]) -> None:
    """Runs some trials one after another, and writes when each was done and its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["torch", "flax"])
    parser.add_argument("model")
    parser.add_argument("--digits", type=Path, required=True, help="the splits, normalised")
    parser.add_argument("--trials", nargs="+", required=True, metavar="RATE:SEED")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    with np.load(asked.digits) as arrays:
        digits = {name: arrays[name] for name in arrays}
    run = torch_trials if asked.peer == "torch" else flax_trials
    trials = [(float(rate), int(seed)) for rate, _, seed in (text.partition(":") for text in asked.trials)]
    parameters, ready, done, accuracies = run(asked, digits, trials)
    told = {"parameters": parameters, "ready": ready, "done": done, "accuracies": accuracies}
    asked.out.write_text(json.dumps(told))


def since_start() -> float:
    """Seconds."""
    return time.perf_counter() - BEGUN


def batches(examples: int, steps: int, size: int, seed: int) -> np.ndarray:
    """(steps, size) indices: every epoch shows each example once."""
    generator = np.random.default_rng(seed)
    epochs = -(-steps * size // examples)
    order = np.concatenate([generator.permutation(examples) for _ in range(epochs)])
    return order[: steps * size].reshape(steps, size)


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


def torch_trials(asked, digits: dict[str, np.ndarray], trials: Sequence[tuple[float, int]]):
    """(parameters, when the first trial began, when each was done, accuracies)."""
    import torch

    torch.set_num_threads(asked.threads)
    inputs, labels, test, answers = (
        torch.from_numpy(digits[name]) for name in ("train_inputs", "train_labels", "test_inputs", "test_labels")
    )
    inputs, test = inputs.permute(0, 3, 1, 2).contiguous(), test.permute(0, 3, 1, 2).contiguous()
    ready, done, accuracies = since_start(), [], []
    for rate, seed in trials:
        torch.manual_seed(seed)
        model = torch_model(asked.model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        model.train()
        for indices in torch.from_numpy(batches(len(inputs), asked.steps, asked.batch, seed)):
            loss = torch.nn.functional.cross_entropy(model(inputs[indices]), labels[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracies.append((model(test).argmax(dim=1) == answers).float().mean().item())
        done.append(since_start())
    return sum(p.numel() for p in model.parameters()), ready, done, accuracies


def torch_model(name: str):
    """The model of a name in PyTorch."""
    import torch
    from torch import nn

    class ViT(nn.Module):
        def __init__(self, depth: int, width: int, heads: int, patch: int, size: int = 8):
            super().__init__()
            self.embedding = nn.Conv2d(1, width, patch, patch)
            self.token = nn.Parameter(torch.zeros(1, 1, width))
            self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
            self.blocks = nn.Sequential(
                *(
                    nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                    for _ in range(depth)
                )
            )
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, inputs):
            patches = self.embedding(inputs).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(inputs), -1, -1), patches], dim=1) + self.positions
            return self.head(self.norm(self.blocks(tokens)[:, 0]))

    def mlp(depth: int, width: int):
        layers = [nn.Flatten()]
        for index in range(depth):
            layers += [nn.Linear(width if index else 64, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 10))

    def convnet(*features: int):
        layers, before = [], 1
        for after in features:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * (8 >> len(features)) ** 2, 10))

    makes = {
        "MLP 2x64": lambda: mlp(2, 64),
        "MLP 8x128": lambda: mlp(8, 128),
        "ConvNet 8, 16": lambda: convnet(8, 16),
        "ViT 2x32": lambda: ViT(2, 32, 4, 2),
    }
    return makes[name]()


# ---------------------------------------------------------------------------------------------------------------------
# Flax


def flax_trials(asked, digits: dict[str, np.ndarray], trials: Sequence[tuple[float, int]]):
    """(parameters, when the first trial began, when each was done, accuracies)."""
    import jax
    import optax
    from flax.training.train_state import TrainState

    inputs, labels = digits["train_inputs"], digits["train_labels"]
    ready, done, accuracies = since_start(), [], []
    for rate, seed in trials:
        model = flax_model(asked.model)
        variables = model.init(jax.random.key(seed), inputs[:1])
        optimizer = optax.adamw(rate, weight_decay=WEIGHT_DECAY)
        state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optimizer)

        @jax.jit
        def train_step(state, inputs, labels):
            def loss(parameters):
                logits = state.apply_fn({"params": parameters}, inputs)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            return state.apply_gradients(grads=jax.grad(loss)(state.params))

        @jax.jit
        def accuracy(state, inputs, labels):
            return (state.apply_fn({"params": state.params}, inputs).argmax(axis=-1) == labels).mean()

        for indices in batches(len(inputs), asked.steps, asked.batch, seed):
            state = train_step(state, inputs[indices], labels[indices])
        accuracies.append(float(accuracy(state, digits["test_inputs"], digits["test_labels"])))
        done.append(since_start())
    return sum(x.size for x in jax.tree.leaves(state.params)), ready, done, accuracies


def flax_model(name: str):
    """The model of a name in Flax."""
    import flax.linen as nn
    import jax.numpy as jnp

    class MLP(nn.Module):
        depth: int
        width: int

        @nn.compact
        def __call__(self, x):
            x = x.reshape(len(x), -1)
            for _ in range(self.depth):
                x = nn.relu(nn.Dense(self.width)(x))
            return nn.Dense(10)(x)

    class ConvNet(nn.Module):
        features: tuple[int, ...]

        @nn.compact
        def __call__(self, x):
            for features in self.features:
                x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(10)(x.reshape(len(x), -1))

    class ViT(nn.Module):
        depth: int
        width: int
        heads: int
        patch: int

        @nn.compact
        def __call__(self, x):
            patch = (self.patch, self.patch)
            x = nn.Conv(self.width, patch, patch, "VALID")(x).reshape(len(x), -1, self.width)
            token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
            x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
            for _ in range(self.depth):
                x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(nn.LayerNorm()(x))
                hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)), approximate=False)
                x = x + nn.Dense(self.width)(hidden)
            return nn.Dense(10)(nn.LayerNorm()(x)[:, 0])

    makes = {
        "MLP 2x64": lambda: MLP(2, 64),
        "MLP 8x128": lambda: MLP(8, 128),
        "ConvNet 8, 16": lambda: ConvNet((8, 16)),
        "ViT 2x32": lambda: ViT(2, 32, 4, 2),
    }
    return makes[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
