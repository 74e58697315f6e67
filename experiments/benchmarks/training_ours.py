"""The workloads of `training_subjects` with this codebase; `training.py` starts this file, see `training_worker`.

training_ours.py '{"name": "W1", ...}' '{"handed": "products and convolutions to oneDNN", "devices": 2}'

What XLA hands to libraries, and how many devices of the processor share a batch, are as usual, and one, if not told.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from research import runtime  # noqa: E402

if __name__ == "__main__":
    HOW = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    runtime.remember_programs()
    runtime.tune()
    if HOW:
        flags = runtime.HANDED[HOW["handed"]] if "handed" in HOW else runtime.FLAGS
        runtime.hand({**flags, runtime.DEVICES: str(HOW.get("devices", 1))})

import training_subjects as subjects  # noqa: E402
from training_worker import OnJax, serve  # noqa: E402

from research.config import config, structure  # noqa: E402
from research.data.base import Dataset, Loaded, Normalisation, Split  # noqa: E402
from research.spec import Spec  # noqa: E402


@config
class Synthetic(Dataset):
    """Examples of a workload, which say nothing."""

    family: str = structure(doc="of the network")
    shape: tuple[int, ...] = structure(doc="of an example")
    classes: int = structure(doc="or tokens")
    batch: int = structure(doc="of the workload")

    def load(self) -> Loaded:
        import numpy as np

        found = subjects.Workload("", self.family, {}, self.shape, self.classes, self.batch)
        split = Split(**subjects.examples(found))
        spec = Spec(self.shape, self.classes, ("",) * self.classes, self.classes if found.of_tokens else None)
        features = np.ones(self.shape[-1], np.float32)
        normalisation = Normalisation(subjects.SCALE, subjects.MEAN * features, subjects.DEVIATION * features)
        splits = {"train": split, "validation": split.take(np.arange(1)), "test": split.take(np.arange(1))}
        return Loaded(spec, splits, None if found.of_tokens else normalisation, "array")


def model(found: subjects.Workload) -> Any:
    """The network of a workload, of our families."""
    from research.models import GPT, MLP, ConvNet, SmallResNet, ViT

    families = {"convnet": ConvNet, "mlp": MLP, "resnet": SmallResNet, "gpt": GPT, "vit": ViT}
    return families[found.family](**found.sizes)


def experiment(found: subjects.Workload, devices: int = 1, **optimizer: float) -> Any:
    """The training of a workload on so many devices; optimizer: what is not as usual."""
    from research.training import AdamW, CrossEntropy, Experiment, NextToken, steps

    return Experiment(
        data=Synthetic(family=found.family, shape=found.shape, classes=found.classes, batch=found.batch),
        model=model(found),
        objective=NextToken() if found.of_tokens else CrossEntropy(),
        optimizer=AdamW(**{"learning_rate": subjects.RATE, "weight_decay": subjects.DECAY, **optimizer}),
        duration=steps(10**6),
        select="validation/loss",
        batch_size=found.batch,
        precision=found.precision,
        norms="none",
        devices=devices,
    )


class Ours(OnJax):
    """Our compiled chunk of steps, called as the loop calls it."""

    def __init__(self, found: subjects.Workload, devices: int = 1, **optimizer: float):
        from core import Prepared

        self.workload, self.it = found, Prepared.of(experiment(found, devices, **optimizer))
        self.state = self.it.state()

    def begin(self) -> dict[str, Any]:
        mesh = self.it.plan.mesh
        return super().begin() | {"devices": 1 if mesh is None else mesh.size}

    def run(self, count: int) -> None:
        self.advance(count)

    def advance(self, count: int) -> dict[str, Any]:
        """Takes steps, and returns what is logged of them."""
        import jax

        from research.training.loop import lengths
        from research.training.step import train_chunk

        it = self.it
        self.state, logged = train_chunk(it.plan, it.leaves, {}, self.state, it.data, lengths(0, [count]))
        jax.block_until_ready(self.state)
        return logged

    def parameters(self) -> int:
        return sum(value.size for value in self.state.trainable.values())

    def flops(self) -> dict[str, Any]:
        """Of a step but for the update, forward and backward, as our inspection counts them."""
        from research.training.inspecting import inspect_experiment

        found = inspect_experiment(self.it.experiment, self.it.plan, self.it.loaded)
        return {"flops": found.forward.flops + found.backward.flops}

    def peak(self, size: int) -> dict[str, Any]:
        """FLOP/s of a product of two square matrices in the precision of the workload, as it is by default."""
        import jax

        key = jax.random.key(0)
        matrix = jax.random.normal(key, (size, size)).astype(self.workload.precision)
        product = jax.jit(lambda x: x @ x)
        jax.block_until_ready(product(matrix))
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            jax.block_until_ready([product(matrix) for _ in range(5)])
            best = min(best, (time.perf_counter() - begun) / 5)
        return {"rate": 2 * size**3 / best}

    def check(self, workload: dict[str, Any], path: str) -> dict[str, Any]:
        """Writes a step of a workload to a file."""
        return {"loss": write_step(subjects.Workload.of(workload), path)}

    def sizes(self, workloads: list[dict[str, Any]], seconds: float, rounds: int) -> dict[str, Any]:
        """Of several workloads, which take turns: milliseconds a step of each, by round, and its FLOPs."""
        trainers = [Ours(subjects.Workload.of(each)) for each in workloads]
        for each in trainers:
            each.settle(seconds)
        taken = [[each.turn()["ms"] for each in trainers] for _ in range(rounds)]
        return {"ms": list(zip(*taken, strict=True)), "flops": [each.flops()["flops"] for each in trainers]}


def write_step(found: subjects.Workload, path: str) -> float:
    """Writes a batch, the parameters before and after a step on it, and its loss, which it returns."""
    import jax
    import numpy as np

    from research.data import order

    rounds = jax.default_backend() != "cpu"  # there products are exact as they are, and the program is the one timed
    with jax.default_matmul_precision("highest") if rounds else contextlib.nullcontext():
        ours = Ours(found, **subjects.CHECK)
        before = {f"before/{name}": np.asarray(value) for name, value in ours.state.trainable.items()}
        loss = float(ours.advance(1)["objective"][0])
    after = {f"after/{name}": np.asarray(value) for name, value in ours.state.trainable.items()}
    chosen = np.asarray(order.indices(0, 0, batch_size=found.batch, examples=found.examples))
    data = subjects.examples(found)
    np.savez(path, loss=loss, **{name: values[chosen] for name, values in data.items()}, **before, **after)
    return loss


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    serve(lambda: Ours(subjects.Workload.of(asked), HOW.get("devices", 1)))
