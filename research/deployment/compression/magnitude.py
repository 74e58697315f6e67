"""Pruning by magnitude: the smallest weights of the kernels become 0, and stay 0 while the others are trained.

A weight is pruned if it is 0, so no mask is kept beside it: `Sparse` passes no gradient to what is 0, and what gets no
gradient is not moved. At once or in stages, as the cubic schedule has it (Zhu and Gupta, 2017, eq. 1):

    sparsity after stage k of n     s (1 - (1 - k / n)^3)

The arrays keep their shapes; what is gained is on the disk, where zeros are not stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from research.config import config, leaf, structure
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.layers import with_kernels
from research.deployment.compression.retraining import Retraining
from research.models.base import Altered, AnyModel, Network
from research.parameters import paths


@config
class MagnitudePruning(Method):
    """The smallest weights become 0, in one shot or gradually, each time with training under the mask."""

    sparsity: float = leaf(0.8, "share of the kernels' weights that become 0", within="[0, 1)")
    among: Literal["network", "layer"] = structure("network", "what the smallest are chosen among")
    stages: int = structure(1, "1 prunes at once; more prune by and by", within="[1, inf)")
    retraining: Retraining | None = structure(Retraining(), "training after each stage; none if None")

    def does(self) -> str:
        gradually = "" if self.stages == 1 else f" in {self.stages} stages"
        return f"pruned {100 * self.sparsity:.3g} %{gradually}"

    def unsuited(self, work: Work) -> Iterator[str]:
        if not with_kernels(work.trained):
            yield "has no dense layer and no convolution, whose weights could be pruned"
        if self.retraining is not None:
            yield from self.retraining.unsuited(work)

    def compress(self, work: Work) -> Compressed:
        trained, layers = work.trained, tuple(with_kernels(work.trained))
        parameters, model_state = dict(trained.parameters), dict(trained.model_state)
        for stage in range(1, self.stages + 1):
            share = self.sparsity * (1 - (1 - stage / self.stages) ** 3)
            parameters = pruned(parameters, [f"{layer}/kernel" for layer in layers], share, among=self.among)
            if self.retraining is not None:
                sparse = Sparse(model=trained.model, layers=layers)
                parameters, model_state = self.retraining.train(work, sparse, parameters, model_state)
        told = {"sparsity": {layer: float(np.mean(parameters[f"{layer}/kernel"] == 0)) for layer in layers}}
        return Compressed(trained._replace(parameters=parameters, model_state=model_state), told)


def pruned(
    parameters: Mapping[str, Any], kernels: Iterable[str], share: float, *, among: Literal["network", "layer"]
) -> dict[str, Any]:
    """The parameters with a share of the weights of some kernels 0: floor(share * weights) of them, the smallest.

    Of weights that are equal, the first in the order of paths and positions.
    """
    kernels = list(kernels)
    groups = [kernels] if among == "network" else [[path] for path in kernels]
    found = dict(parameters)
    for group in groups:
        sizes = [np.size(parameters[path]) for path in group]
        amounts = np.concatenate([np.abs(np.asarray(parameters[path])).ravel() for path in group])
        keep = np.ones(len(amounts), bool)
        keep[np.argsort(amounts, kind="stable")[: int(share * len(amounts) + 1e-9)]] = False
        for path, mask in zip(group, np.split(keep, np.cumsum(sizes)[:-1]), strict=True):
            kernel = np.asarray(parameters[path])
            found[path] = np.where(mask.reshape(kernel.shape), kernel, 0).astype(kernel.dtype)
    return found


@config
class Sparse(Altered):
    """A model some of whose weights are 0 and get no gradient; it gives what the model gives."""

    model: AnyModel = structure(doc="what is sparse")
    layers: tuple[str, ...] = structure(doc="those whose kernels are")

    def alter(self, network: Network) -> Network:
        def apply(variables, inputs, **options):
            parameters = paths.flatten(variables["params"])
            for layer in self.layers:
                kernel = parameters[f"{layer}/kernel"]
                parameters[f"{layer}/kernel"] = jnp.where(kernel != 0, kernel, 0)
            return network.apply({**variables, "params": paths.unflatten(parameters)}, inputs, **options)

        return network._replace(apply=apply)
