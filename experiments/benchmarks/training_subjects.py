"""What training is measured with: networks, shapes and batches as plain numbers, which every worker reads.

    W1      two 5x5 convolutions of 32 and 64 features, each with 2x2 max pooling, 1024, 10    28x28x1
    W2      one 3x3 convolution of 16 features with 2x2 max pooling, 120, 84, 10               28x28x1
    W3      a perceptron of eight layers of 256                                                28x28x1
    W4      ResNet-20 with group norms                                                         32x32x3
    W5      a GPT of six blocks of width 192, on bytes                                         128 tokens
    ViT-B/16 and GPT-2, on a GPU: 224x224x3 and 1000 classes, 1024 of 50,257 tokens            bfloat16

Each is expressed by a config of ours as it is. Nothing heavy is imported, so that a worker's start is its own.
"""

from typing import Any, NamedTuple

RATE, DECAY = 1e-3, 1e-2
CHECK = {"learning_rate": 0.01, "epsilon": 1e-2, "weight_decay": 0.1}
"""AdamW where one step of it is compared: it goes far, and where a gradient is but rounding it goes nowhere."""
MOST_EXAMPLES, MOST_BYTES = 60_000, 1 << 26


class Workload(NamedTuple):
    """A network and its batches. `sizes` are arguments of the config of our family."""

    name: str
    family: str
    sizes: dict[str, Any]
    shape: tuple[int, ...]
    """Of one example; of tokens (positions,)."""
    classes: int
    """Or, of tokens, how many there are."""
    batch: int
    precision: str = "float32"

    @property
    def of_tokens(self) -> bool:
        """Whether examples are tokens and not pictures."""
        return self.family == "gpt"

    @property
    def examples(self) -> int:
        """How many lie on the device: as many as a common data set has, but not more bytes than a few batches."""
        bytes_each = 1
        for size in self.shape:
            bytes_each *= size
        return max(4 * self.batch, min(MOST_EXAMPLES, MOST_BYTES // bytes_each))

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Workload":
        """From JSON, which has no tuples."""
        sizes = {name: tuple(size) if isinstance(size, list) else size for name, size in values["sizes"].items()}
        return cls(**{**values, "sizes": sizes, "shape": tuple(values["shape"])})


_BYTES = {"width": 192, "heads": 6, "context": 128}
WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "convnet", {"features": (32, 64), "kernel_size": 5, "hidden": (1024,)}, (28, 28, 1), 10, 100),
        Workload("W2", "convnet", {"features": (16,), "kernel_size": 3, "hidden": (120, 84)}, (28, 28, 1), 10, 64),
        Workload("W3", "mlp", {"depth": 8, "width": 256}, (28, 28, 1), 10, 128),
        Workload("W4", "resnet", {"depth": 20, "norm": "group"}, (32, 32, 3), 10, 128),
        Workload("W5", "gpt", {"depth": 6, **_BYTES}, (128,), 256, 32),
    )
}
GPU_BATCHES = {"W1": 4096, "W2": 8192, "W3": 8192, "W4": 1024, "W5": 256}
"""Batches that fill a GPU."""
_BASE = {"depth": 12, "width": 768, "heads": 12}
LARGE = {
    each.name: each
    for each in (
        Workload("ViT-B/16", "vit", {**_BASE, "patch": 16}, (224, 224, 3), 1000, 128, "bfloat16"),
        Workload("GPT-2", "gpt", {**_BASE, "context": 1024}, (1024,), 50_257, 16, "bfloat16"),
    )
}
NAMES = (*WORKLOADS, *LARGE)
_TINY: dict[str, dict[str, Any]] = {
    "W1": {"sizes": {"features": (4, 6), "kernel_size": 5, "hidden": (16,)}, "shape": (8, 8, 1), "batch": 8},
    "W2": {"sizes": {"features": (4,), "kernel_size": 3, "hidden": (12, 8)}, "shape": (8, 8, 1), "batch": 8},
    "W3": {"sizes": {"depth": 2, "width": 16}, "shape": (8, 8, 1), "batch": 8},
    "W4": {"sizes": {"depth": 8, "norm": "group", "width": 8}, "shape": (8, 8, 3), "batch": 8},
    "W5": {"sizes": {"depth": 1, "width": 16, "heads": 2, "context": 12}, "shape": (12,), "classes": 32, "batch": 4},
    "ViT-B/16": {
        "sizes": {"depth": 1, "width": 16, "heads": 2, "patch": 4},
        "shape": (8, 8, 3),
        "classes": 10,
        "batch": 4,
    },
    "GPT-2": {"sizes": {"depth": 1, "width": 16, "heads": 2, "context": 12}, "shape": (12,), "classes": 32, "batch": 4},
}
CHECKED_BATCH = 4
"""Examples of the batch that large networks are compared on."""


def workload(name: str, *, gpu: bool = False, tiny: bool = False) -> Workload:
    """The one of a name, as large as suits the device; or as small as runs at all."""
    found = {**WORKLOADS, **LARGE}[name]
    if tiny:
        return found._replace(**_TINY[name])
    return found._replace(batch=GPU_BATCHES[name]) if gpu and name in GPU_BATCHES else found


def checked(found: Workload) -> Workload:
    """What is compared in the place of a workload: itself, or a few examples through two of its blocks in float32.

    Its batch is no larger than on a CPU: among millions of activations some are so near to 0 that rounding decides
    whether their gradient passes.
    """
    if found.precision == "float32":
        return found._replace(batch=min(found.batch, WORKLOADS[found.name].batch))
    sizes = {**found.sizes, "depth": min(2, found.sizes["depth"])}
    return found._replace(sizes=sizes, batch=CHECKED_BATCH, precision="float32")


def examples(found: Workload) -> dict[str, Any]:
    """Made up on the spot: {"inputs": (examples, *shape) uint8, or int32 for tokens, "labels": (examples,) int32}."""
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (found.examples, *found.shape)
    if found.of_tokens:
        inputs = generator.integers(found.classes, size=shape, dtype=np.int32)
        return {"inputs": inputs, "labels": np.full(found.examples, -1, np.int32)}
    inputs = generator.integers(256, size=shape, dtype=np.uint8)
    return {"inputs": inputs, "labels": generator.integers(found.classes, size=found.examples, dtype=np.int32)}


SCALE, MEAN, DEVIATION = 1 / 255, 0.5, 0.29
"""How pictures are normalised: (x * scale - mean) / deviation."""
