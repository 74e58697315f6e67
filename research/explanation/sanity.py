"""Whether attributions are about what was learned: with other weights they must change.

Layers get fresh initial values, the last first, then those before it as well, up to all (Adebayo et al., "Sanity checks
for saliency maps", 2018). A method whose map stays as it was shows the picture's edges, and not the network's reasons.
Two maps are compared by their rank correlation over places, signs and all. Without signs, methods that multiply by the
input are alike in any network, as they are strong only where something is drawn; so that is told beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from research.deployment.trained import Trained
from research.explanation.looking import grouped, layers_of
from research.models.base import network
from research.parameters import paths

STAGES = 6
"""At how many depths maps are compared, at most."""
UNCHANGED = 0.5
"""A correlation with the map of untrained weights above which a method does not tell what was learned."""


def stages(trained: Trained, seed: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """(the first layer that is untrained, parameters) from the last layer alone to all parameters."""
    fresh = jax.jit(network(trained.model, trained.data.spec).init)(jax.random.key(seed))["params"]
    fresh = paths.flatten(fresh)
    layers = [call.path for call in layers_of(trained)][::-1]
    ends = sorted({round(share * (len(layers) - 1)) for share in np.linspace(0, 1, min(STAGES, len(layers)))})
    found = []
    for end in ends:
        untrained = {path for layer in layers[: end + 1] for path in grouped(layer, fresh)}
        if end == len(layers) - 1:
            untrained = set(fresh)
        mixed = {path: fresh[path] if path in untrained else value for path, value in trained.parameters.items()}
        found.append((layers[end], mixed))
    return found


def check(
    trained: Trained, methods: Mapping[str, Callable[[Mapping], np.ndarray]], seed: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """{method: [{"layer", "correlation"}, ...]} of maps with the layers from the last to this one untrained.

    A method is a function of parameters alone. The correlation is the mean over examples; None where maps are constant.
    """
    mixed = stages(trained, seed)
    found = {}
    for name, method in methods.items():
        whole = method(trained.parameters)
        found[name] = [
            {
                "layer": layer,
                "correlation": correlation(whole, other := method(parameters)),
                "correlation_without_signs": correlation(np.abs(whole), np.abs(other)),
            }
            for layer, parameters in mixed
        ]
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """The mean over examples of the rank correlation of two maps (Spearman); None where maps are constant."""
    each = [_spearman(a.ravel(), b.ravel()) for a, b in zip(one, other, strict=True)]
    told = [value for value in each if value is not None]
    return float(np.mean(told)) if told else None


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale else None


def doubtful(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The methods whose maps are much the same with no layer trained."""
    return [name for name, rows in found.items() if (rows[-1]["correlation"] or 0) > UNCHANGED]


def outlines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The other methods whose maps are strong at much the same places with no layer trained."""
    strong = [name for name, rows in found.items() if (rows[-1]["correlation_without_signs"] or 0) > UNCHANGED]
    return [name for name in strong if name not in doubtful(found)]
