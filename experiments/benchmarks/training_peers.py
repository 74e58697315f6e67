"""The workloads of `training_subjects` without this codebase; `training.py` starts this file, see `training_worker`.

    training_peers.py '{"name": "W1", ...}' '{"peer": "torch", "compiled": "default", ...}'

PyTorch, as fast as we know how: examples lie on the device, batches are taken by random indices drawn there, and no
step waits for a number. Flax, as its documentation has it: a jitted step that a batch of NumPy arrays is given to. In
both, the loss is read at the end of a turn.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import training_subjects as subjects
from training_worker import OnJax, Trainer, serve


class Setting(NamedTuple):
    """How a peer trains."""

    peer: str = "torch"
    """Or "flax"."""
    compiled: str | None = None
    """The mode of `torch.compile`, if at all."""
    channels_last: bool = False
    fused: bool = True
    """AdamW in one kernel."""
    device: str = "cpu"


def optimizer_of(model, *, learning_rate: float, weight_decay: float, epsilon: float = 1e-8, fused: bool = True):
    """AdamW as ours is: weight decay of kernels and embeddings alone."""
    import torch
    from training_torch import is_decayed

    groups: dict[bool, list] = {True: [], False: []}
    for name, value in model.named_parameters():
        groups[is_decayed(name, value)].append(value)
    found = [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in found if group["params"]], lr=learning_rate, eps=epsilon, fused=fused)


def targets_of(inputs, labels, *, of_tokens: bool):
    """What is to be told: the labels, or for each token the next one, and -1 after the last."""
    import torch

    return torch.nn.functional.pad(inputs[:, 1:], (0, 1), value=-1) if of_tokens else labels


class Torch(Trainer):
    """A plain PyTorch loop."""

    def __init__(self, found: subjects.Workload, setting: Setting):
        import torch
        from training_torch import network

        self.workload, self.setting = found, setting
        if setting.device == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("PyTorch sees no GPU")
            self._exact(False)
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.format = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.model = self._placed(network(found))
        self.optimizer = optimizer_of(
            self.model, learning_rate=subjects.RATE, weight_decay=subjects.DECAY, fused=setting.fused
        )
        data = subjects.examples(found)
        self.inputs, self.labels = self._on_device(data["inputs"], data["labels"])
        self.loss = self._loss if setting.compiled is None else torch.compile(self._loss, mode=setting.compiled)

    def _exact(self, exact: bool) -> None:
        """Whether float32 is multiplied as such on a GPU, or as TF32, which is JAX's default too."""
        import torch

        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact

    def _placed(self, model):
        """On the device, in the layout of the setting."""
        model = model.to(self.setting.device)
        return model.to(memory_format=self.format) if self.setting.channels_last else model

    def _on_device(self, inputs, labels):
        """Raw examples as tensors there; pictures have their features first."""
        import torch

        inputs = torch.from_numpy(inputs).to(self.setting.device)
        if self.workload.of_tokens:
            inputs = inputs.long()
        else:
            inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        return inputs, torch.from_numpy(labels).to(self.setting.device).long()

    def _loss(self, model, inputs, labels):
        import torch

        tokens = self.workload.of_tokens
        targets = targets_of(inputs, labels, of_tokens=tokens)
        if not tokens:
            inputs = (inputs.float() * subjects.SCALE - subjects.MEAN) / subjects.DEVIATION
            inputs = inputs.contiguous(memory_format=self.format)
        low = self.workload.precision == "bfloat16"
        with torch.autocast(self.setting.device, torch.bfloat16, enabled=low):
            logits = model(inputs)
        logits = logits.float()
        if tokens:
            logits, targets = logits.flatten(0, 1), targets.flatten()
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)

    def run(self, count: int) -> None:
        import torch

        size = (self.workload.batch,)
        for _ in range(count):
            if self.setting.compiled == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            chosen = torch.randint(len(self.inputs), size, device=self.setting.device)
            loss = self.loss(self.model, self.inputs[chosen], self.labels[chosen])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        loss.item()
        if self.setting.device == "cuda":
            torch.cuda.synchronize()

    def settle(self, seconds: float) -> dict[str, Any]:
        """Chooses the number of threads too, on a CPU: one, two or all."""
        import torch

        if self.setting.device == "cuda":
            told = super().settle(seconds)
            torch.cuda.reset_peak_memory_stats()
            return told
        taken = {}
        for count in sorted({1, 2, os.cpu_count() or 1}):
            torch.set_num_threads(count)
            taken[count] = super().settle(seconds)["ms"]
        best = min(taken, key=taken.__getitem__)
        torch.set_num_threads(best)
        return super().settle(seconds) | {"threads": best}

    def turn(self) -> dict[str, Any]:
        told = super().turn()
        if self.setting.device == "cuda":
            import torch

            torch.cuda.empty_cache()  # others need it
        return told

    def parameters(self) -> int:
        return sum(value.numel() for value in self.model.parameters())

    def memory(self) -> dict[str, Any]:
        import torch

        return {"bytes": torch.cuda.max_memory_allocated()} if self.setting.device == "cuda" else super().memory()

    def peak(self, size: int) -> dict[str, Any]:
        """FLOP/s of a product of two square matrices in the precision of the workload."""
        import torch

        def wait() -> None:
            if self.setting.device == "cuda":
                torch.cuda.synchronize()

        matrix = torch.randn(size, size, device=self.setting.device, dtype=getattr(torch, self.workload.precision))
        best = float("inf")
        for _ in range(6):
            wait()
            begun = time.perf_counter()
            for _ in range(5):
                matrix @ matrix
            wait()
            best = min(best, (time.perf_counter() - begun) / 5)
        return {"rate": 2 * size**3 / best}

    def check(self, workload: dict[str, Any], path: str) -> dict[str, Any]:
        """How far a step is from the one that was written: the loss relative to it, parameters as they are.

        Raises ValueError where parameters are not the same by name and shape.
        """
        import numpy as np
        import torch

        with np.load(path) as arrays:
            kept = dict(arrays)
        before, after = (
            {name.removeprefix(f"{when}/"): value for name, value in kept.items() if name.startswith(f"{when}/")}
            for when in ("before", "after")
        )
        if self.setting.device == "cuda":
            self._exact(True)
        try:
            return self._compared(subjects.Workload.of(workload), kept, before, after)
        finally:
            if self.setting.device == "cuda":
                self._exact(False)
                torch.cuda.empty_cache()

    def _compared(self, found: subjects.Workload, kept, before, after) -> dict[str, Any]:
        from training_torch import converted, network

        whole, self.workload = self.workload, found
        try:
            model = network(found)
            model.load_state_dict(converted(model, before))
            model = self._placed(model)
            optimizer = optimizer_of(model, **subjects.CHECK, fused=self.setting.fused)
            loss = self._loss(model, *self._on_device(kept["inputs"], kept["labels"]))
            loss.backward()
            optimizer.step()
        finally:
            self.workload = whole
        expected, now = converted(model, after), dict(model.named_parameters())
        moved = {name: value.detach().cpu() - expected[name] for name, value in now.items()}
        worst = max(moved, key=lambda name: moved[name].abs().max())
        relative = abs(loss.item() - float(kept["loss"])) / abs(float(kept["loss"]))
        return {"loss": relative, "parameters": float(moved[worst].abs().max()), "worst": worst}


class Flax(OnJax):
    """A plain Flax loop."""

    def __init__(self, found: subjects.Workload, setting: Setting):
        import jax
        import jax.numpy as jnp
        import numpy as np
        import optax
        from flax.training.train_state import TrainState
        from training_flax import network

        self.workload = found
        data = subjects.examples(found)
        self.inputs, self.labels = data["inputs"], data["labels"]
        if not found.of_tokens:
            self.inputs = ((self.inputs * np.float32(subjects.SCALE)) - np.float32(subjects.MEAN)) / np.float32(
                subjects.DEVIATION
            )
        model = network(found)
        variables = jax.jit(model.init)(jax.random.key(0), self.inputs[:1])
        optimizer = optax.adamw(subjects.RATE, weight_decay=subjects.DECAY)
        self.state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optimizer)
        self.generator = np.random.default_rng(0)

        @jax.jit
        def train_step(state, inputs, labels):
            def loss(parameters):
                logits = state.apply_fn({"params": parameters}, inputs).astype(jnp.float32)
                if found.of_tokens:
                    logits, targets = logits[:, :-1], inputs[:, 1:]
                else:
                    targets = labels
                return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

            value, gradient = jax.value_and_grad(loss)(state.params)
            return state.apply_gradients(grads=gradient), value

        self.train_step = train_step

    def run(self, count: int) -> None:
        size, order = self.workload.batch, []
        for _ in range(count):
            if len(order) < size:
                order = self.generator.permutation(len(self.inputs))
            chosen, order = order[:size], order[size:]
            self.state, loss = self.train_step(self.state, self.inputs[chosen], self.labels[chosen])
        float(loss)

    def parameters(self) -> int:
        import jax

        return sum(value.size for value in jax.tree.leaves(self.state.params))


if __name__ == "__main__":
    asked, how = (json.loads(text) for text in sys.argv[1:3])
    setting = Setting(**how)
    kind = {"torch": Torch, "flax": Flax}[setting.peer]
    serve(lambda: kind(subjects.Workload.of(asked), setting))
