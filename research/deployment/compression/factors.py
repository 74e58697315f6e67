"""Dense layers as the product of two thin ones: kernel (inputs, features) = first (inputs, r) second (r, features).

Of all products of rank r, the one by the r largest singular values is nearest, and the square of what is missed is the
sum of the squares of those left out (Eckart and Young, 1936). It costs r (inputs + features) multiply-adds in the place
of inputs * features, so that it pays below half the harmonic mean of the two.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from research.config import config, leaf, structure
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.layers import with_kernels
from research.deployment.compression.retraining import Retraining
from research.deployment.trained import Trained
from research.models.altering import Layer, altering
from research.models.base import Altered, AnyModel, Network
from research.parameters import paths
from research.training.duration import epochs

FIRST, SECOND = "first", "second"


@config
class Factorization(Method):
    """Dense layers become two thin ones each, wherever that makes them smaller."""

    energy: float | None = leaf(
        0.9, "share of a kernel's squares that is kept, which decides each layer's rank", within="(0, 1]"
    )
    cost: float | None = leaf(
        None, "in its place: each layer's multiply-adds as a share of what they were", within="(0, 1)"
    )
    retraining: Retraining | None = structure(Retraining(duration=epochs(5)), "training of the two; none if None")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.energy is None) == (self.cost is None):
            yield "energy", "one of energy and cost decides the ranks; set the other to None"

    def does(self) -> str:
        kept = f"{100 * self.energy:.3g} % energy" if self.cost is None else f"{100 * self.cost:.3g} % cost"
        return f"low rank, {kept}"

    def ranks(self, trained: Trained) -> dict[str, int]:
        """The rank of each dense layer that two factors make smaller."""
        found = {}
        for layer, kernel in with_kernels(trained).items():
            if kernel.kind == "dense":
                inputs, features = kernel.shape
                if self.cost is None:
                    rank = rank_of_energy(np.asarray(trained.parameters[f"{layer}/kernel"]), self.energy)
                else:
                    rank = max(1, int(self.cost * inputs * features / (inputs + features)))
                if rank * (inputs + features) < inputs * features:
                    found[layer] = rank
        return found

    def unsuited(self, work: Work) -> Iterator[str]:
        if not any(found.kind == "dense" for found in with_kernels(work.trained).values()):
            yield "has no dense layer that could be factorised"
        elif not self.ranks(work.trained):
            yield "has no dense layer that two factors of the ranks asked for would make smaller; keep less of them"
        if self.retraining is not None:
            yield from self.retraining.unsuited(work)

    def compress(self, work: Work) -> Compressed:
        trained, ranks = work.trained, self.ranks(work.trained)
        model = Factorized(model=trained.model, ranks=tuple(ranks.items()))
        parameters = {path: np.asarray(value) for path, value in factorize(trained.parameters, ranks).items()}
        model_state = trained.model_state
        if self.retraining is not None:
            parameters, model_state = self.retraining.train(work, model, parameters, model_state)
        return Compressed(
            trained._replace(model=model, parameters=parameters, model_state=model_state), {"ranks": ranks}
        )


class Factors(NamedTuple):
    """Two kernels that stand for one."""

    first: Array
    """(inputs, rank)"""
    second: Array
    """(rank, features)"""


def factors(kernel: Array, rank: int) -> Factors:
    """The nearest factors of a rank, with the root of each singular value in both, so that they train alike."""
    left, values, right = jnp.linalg.svd(kernel, full_matrices=False)
    root = jnp.sqrt(values[:rank])
    return Factors(left[:, :rank] * root, root[:, None] * right[:rank])


def rank_of_energy(kernel: np.ndarray, energy: float) -> int:
    """The smallest rank that keeps a share of the sum of squares of a kernel; 1 at least."""
    squares = np.square(np.linalg.svd(kernel.astype(np.float64), compute_uv=False))
    kept = np.cumsum(squares) / max(squares.sum(), np.finfo(np.float64).tiny)
    return min(int(np.searchsorted(kept, energy - 1e-12)) + 1, len(squares))


def factorize(parameters: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Parameters as `Factorized` holds them: first/kernel and second/kernel in the place of some layers' kernels."""
    found = dict(parameters)
    for layer, rank in ranks.items():
        first, second = factors(jnp.asarray(found.pop(f"{layer}/kernel")), rank)
        found |= {f"{layer}/{FIRST}/kernel": first, f"{layer}/{SECOND}/kernel": second}
    return dict(sorted(found.items()))


@config
class Factorized(Altered):
    """A model some of whose dense layers are two thin ones, one after the other."""

    model: AnyModel = structure(doc="what is factorised")
    ranks: tuple[tuple[str, int], ...] = structure(doc="of each layer that is")

    def alter(self, network: Network) -> Network:
        def init(key):
            variables = network.init(key)
            parameters = factorize(paths.flatten(variables["params"]), dict(self.ranks))
            return {**variables, "params": paths.unflatten(parameters)}

        def apply(variables, inputs, **options):
            with altering(_use_factors):
                return network.apply(variables, inputs, **options)

        return network._replace(init=init, apply=apply)


def _use_factors(layer: Layer, inputs: Array) -> Array:
    if layer.kind != "dense" or FIRST not in layer.parameters:
        return layer.call(inputs)
    return layer.with_bias(inputs @ layer.parameters[FIRST]["kernel"] @ layer.parameters[SECOND]["kernel"])
