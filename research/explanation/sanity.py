"""Whether attributions are about what was learned: with other weights they must change.

The weights of layers are shuffled, the last layer first, then those before it as well, up to all (Adebayo et al.,
"Sanity checks for saliency maps", 2018, who draw new ones; shuffled, they keep their sizes in any network). A method
whose map stays as it was shows the picture's edges, and not the network's reasons.

Two maps are compared by their rank correlation over places, signs and all. Without signs, methods that multiply by the
input are alike in any network, as they are strong only where something is drawn; so that is told beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.deployment.trained import Trained
from research.explanation.looking import grouped, layers_of

STAGES = 6
"""At how many depths maps are compared, at most."""
UNCHANGED = 0.5
"""A correlation with the map of shuffled weights above which a method does not tell what was learned."""


def stages(trained: Trained, seed: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """(the first layer that is shuffled, parameters) from the last layer alone to all parameters."""
    random = np.random.default_rng(seed)
    fresh = {path: _shuffled(random, np.asarray(value)) for path, value in sorted(trained.parameters.items())}
    layers = [call.path for call in layers_of(trained)][::-1]
    ends = sorted({round(share * (len(layers) - 1)) for share in np.linspace(0, 1, min(STAGES, len(layers)))})
    found = []
    for end in ends:
        shuffled = {path for layer in layers[: end + 1] for path in grouped(layer, fresh)}
        if end == len(layers) - 1:
            shuffled = set(fresh)
        mixed = {path: fresh[path] if path in shuffled else value for path, value in trained.parameters.items()}
        found.append((layers[end], mixed))
    return found


def _shuffled(random: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return random.permutation(values.ravel()).reshape(values.shape)


def check(
    trained: Trained, methods: Mapping[str, Callable[[Mapping], np.ndarray]], seed: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """{method: [{"layer", "correlation"}, ...]} of maps with the layers from the last to this one shuffled.

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
    """The methods whose maps are much the same with all weights shuffled."""
    return [name for name, rows in found.items() if (rows[-1]["correlation"] or 0) > UNCHANGED]


def late(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The other methods whose maps are much the same until the weights of the first layers are shuffled as well."""
    same = [name for name, rows in found.items() if len(rows) > 2 and (rows[-2]["correlation"] or 0) > UNCHANGED]
    return [name for name in same if name not in doubtful(found)]


def outlines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The other methods whose maps are strong at much the same places with all weights shuffled."""
    strong = [name for name, rows in found.items() if (rows[-1]["correlation_without_signs"] or 0) > UNCHANGED]
    return [name for name in strong if name not in doubtful(found)]
