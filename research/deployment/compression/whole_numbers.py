"""Methods that make whole numbers of weights: int8, with inputs too, int4, and trained to be so.

What is quantized, and how, is in `quantization`. Batch norms are folded into the layers before them first, where the
model can be without. Each layer is by itself, so that one which suffers from it can be left out.
"""

from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np

from research.config import config, structure
from research.data import base
from research.data.base import Streamed
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.folding import folded
from research.deployment.compression.layers import input_ranges, with_kernels
from research.deployment.compression.quantization import FakeQuantized, Quantized, quantize_layers
from research.deployment.compression.retraining import Retraining
from research.deployment.trained import Trained
from research.errors import did_you_mean
from research.training import evaluation


@config
class Quantization(Method):
    """Base of the methods that quantize weights."""

    skip: tuple[str, ...] = structure((), "layers that stay float32, by path")

    def bits(self, trained: Trained) -> dict[str, int]:
        """The bits of each layer that is quantized: 8."""
        return {layer: 8 for layer in with_kernels(trained) if layer not in self.skip}

    def unsuited(self, work: Work) -> Iterator[str]:
        layers = with_kernels(work.trained)
        if not layers:
            yield "has no dense layer and no convolution, whose weights could be quantized"
        for layer in self.skip:
            if layer not in layers:
                yield f"has no layer '{layer}' to skip{did_you_mean(layer, layers)}"

    def compress(self, work: Work) -> Compressed:
        trained = folded(work.trained)
        return quantized(trained, self.bits(trained), {})


@config
class Int8(Quantization):
    """Weights of 8 bits with a scale for each output feature; nothing is trained."""

    def does(self) -> str:
        return "int8 weights"


@config
class Int8Activations(Quantization):
    """Weights of 8 bits, and what comes to each layer as well, by ranges seen on training examples."""

    examples: int = structure(512, "of the training split, for the ranges of inputs", within="[1, inf)")
    percentile: float = structure(
        100.0, "of the absolute inputs, which stands for the largest; what is beyond is cut off", within="(0, 100]"
    )

    def does(self) -> str:
        return "int8 weights and activations"

    def compress(self, work: Work) -> Compressed:
        trained = folded(work.trained)
        ranges, bits = calibrate(work, trained, self.examples, self.percentile), self.bits(trained)
        return quantized(trained, bits, {layer: ranges[layer] for layer in bits})


@config
class Int4(Quantization):
    """Weights of 4 bits in dense layers, two to a byte, and of 8 bits in convolutions; nothing is trained."""

    def does(self) -> str:
        return "int4 dense weights"

    def bits(self, trained: Trained) -> dict[str, int]:
        return bits_of_kinds(trained, self.skip, dense=4)

    def unsuited(self, work: Work) -> Iterator[str]:
        yield from Quantization.unsuited(self, work)
        if 4 not in self.bits(work.trained).values():
            yield "has no dense layer, and only those get 4 bits"


@config
class QuantizationAware(Quantization):
    """Fine-tuning as if weights and inputs were whole numbers already, so that the network makes up for it.

    Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference" (2018),
    section 3; the gradient goes straight through what rounds.
    """

    dense: Literal[4, 8] = structure(4, "bits of the weights of dense layers")
    activations: bool = structure(True, "whether the inputs of layers become whole numbers too, of 8 bits")
    examples: int = structure(512, "of the training split, for the ranges of inputs", within="[1, inf)")
    percentile: float = structure(100.0, "of the absolute inputs, which stands for the largest", within="(0, 100]")
    retraining: Retraining = structure(Retraining(), "how it is trained")

    def does(self) -> str:
        return f"quantization-aware, int{self.dense} dense"

    def bits(self, trained: Trained) -> dict[str, int]:
        return bits_of_kinds(trained, self.skip, dense=self.dense)

    def unsuited(self, work: Work) -> Iterator[str]:
        yield from Quantization.unsuited(self, work)
        yield from self.retraining.unsuited(work)

    def compress(self, work: Work) -> Compressed:
        trained = folded(work.trained)
        bits, ranges = self.bits(trained), {}
        if self.activations:
            seen = calibrate(work, trained, self.examples, self.percentile)
            ranges = {layer: seen[layer] for layer in bits}
        fake = FakeQuantized(model=trained.model, bits=tuple(bits.items()), ranges=tuple(ranges.items()))
        parameters, model_state = self.retraining.train(work, fake, trained.parameters, trained.model_state)
        return quantized(trained._replace(parameters=parameters, model_state=model_state), bits, ranges)


def bits_of_kinds(trained: Trained, skip: tuple[str, ...], *, dense: int) -> dict[str, int]:
    """So many bits for the dense layers of a network that are not skipped, and 8 for the other layers."""
    layers = with_kernels(trained).items()
    return {layer: dense if found.kind == "dense" else 8 for layer, found in layers if layer not in skip}


def quantized(trained: Trained, bits: dict[str, int], ranges: dict[str, float]) -> Compressed:
    """A network with some of its layers as whole numbers, and some of their inputs too."""
    model = Quantized(model=trained.model, bits=tuple(bits.items()), inputs=tuple(ranges))
    parameters = jax.device_get(quantize_layers(trained.parameters, bits, ranges))
    return Compressed(trained._replace(model=model, parameters=parameters), {"bits": bits, "ranges": ranges})


def calibrate(work: Work, trained: Trained, examples: int, percentile: float) -> dict[str, float]:
    """The ranges of what comes to each layer on training examples, spread evenly over the split."""
    train, spec = work.loaded.splits["train"], work.loaded.spec
    chosen = np.unique(np.linspace(0, len(train) - 1, min(examples, len(train))).astype(int))
    raw = train.read(chosen) if isinstance(train, Streamed) else train.inputs[chosen]
    normalisation = base.of_examples(evaluation.as_float32(work.loaded.normalisation), spec, train.labels[chosen])
    return input_ranges(trained, base.normalise(normalisation, raw), percentile)
