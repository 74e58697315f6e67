"""Structured pruning: whole features are cut out, with all that belongs to them, and the model becomes a smaller one.

    ConvNet(features=(32, 64), hidden=(128,))    ->    ConvNet(features=(22, 45), hidden=(90,))

What belongs to a feature, `connections` finds out. Which field of the model tells how many features a layer has is
found as well: a field is made smaller, and what becomes narrower is looked at. All fields shrink by the same share, the
largest that keeps within the FLOPs asked for. Each layer keeps its most important features:

    importance = |weights that make it| * |scale of its batch norm| / deviation * |weights that take it|

which is 0 for a feature that makes no difference: cutting that changes no answer. At once or in stages, each
of which cuts the same share of the FLOPs that the one before left; the last has the model that one stage would have.

    FLOPs after stage k of n     flops^(k / n)
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import config, is_config, leaf, structure, validate
from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.connections import Group, cut, groups
from research.deployment.compression.retraining import Retraining
from research.deployment.trained import Trained
from research.errors import UserError
from research.inspection.matching import size
from research.models.base import CLASSES_FIELDS, AnyModel, network
from research.parameters import paths
from research.spec import Spec

STEPS = 8
"""Halvings of the interval in which the share lies."""
NOTHING = (
    "has no field whose features could be cut: a number of features of layers that others follow, with no norm over "
    "features between"
)


@config
class FeaturePruning(Method):
    """Whole features are cut, until so many FLOPs are left, at once or gradually; what is left is trained each time."""

    flops: float = leaf(0.5, "FLOPs that are left, as a share", within="(0, 1)")
    multiple: int = structure(8, "numbers of features are multiples of it, which processors like", within="[1, inf)")
    retraining: Retraining | None = structure(Retraining(), "training after each stage; none if None")
    stages: int = structure(1, "1 cuts at once; more cut by and by", within="[1, inf)")

    def does(self) -> str:
        gradually = "" if self.stages == 1 else f" in {self.stages} stages"
        return f"features for {100 * self.flops:.3g} % FLOPs{gradually}"

    def unsuited(self, work: Work) -> Iterator[str]:
        if not (sizes := sizes_of(work.trained)):
            yield NOTHING
        elif _at(work.trained, _values(sizes, 0.0, self.multiple), sizes, self.flops) is None:
            yield f"cannot be cut to {100 * self.flops:.3g} % of its FLOPs in multiples of {self.multiple} features"
        if self.retraining is not None:
            yield from self.retraining.unsuited(work)

    def compress(self, work: Work) -> Compressed:
        whole, network, models = work.trained, work.trained, []
        for stage in range(1, self.stages + 1):
            shrinking = plan(whole, self.flops ** (stage / self.stages), self.multiple)
            if shrinking.model == network.model:
                continue  # multiples left nothing between
            network = shrink(network, of_smaller(network, shrinking))
            if self.retraining is not None:
                arrays = self.retraining.train(work, network.model, network.parameters, network.model_state)
                network = network._replace(parameters=arrays[0], model_state=arrays[1])
            models.append(str(network.model))
        return Compressed(network, {"model": models[-1], **({"stages": models} if self.stages > 1 else {})})


class Shrinking(NamedTuple):
    """What is to be cut."""

    model: AnyModel
    """The smaller one."""
    groups: tuple[tuple[Group, int], ...]
    """With how many of its features each keeps."""


class Size(NamedTuple):
    """A whole number in a field of a model, which decides how many features some layers have."""

    place: tuple[str, int | None]
    """A field, and which item of it, if it is a tuple."""
    value: int
    groups: tuple[Group, ...]


def plan(trained: Trained, flops: float, multiple: int = 1) -> Shrinking:
    """The model that has a share of the FLOPs, and what it has to lose for that. Raises ValueError where none has."""
    sizes = sizes_of(trained)
    low, high, best = 0.0, 1.0, _at(trained, _values(sizes, 0.0, multiple), sizes, flops)
    if not sizes or best is None:
        raise ValueError(f"no model of {flops} of the FLOPs; `unsuited` tells why")
    tried: dict[tuple[int, ...], AnyModel | None] = {}
    for _ in range(STEPS):
        middle = (low + high) / 2
        if (values := _values(sizes, middle, multiple)) not in tried:
            tried[values] = _at(trained, values, sizes, flops)
        if tried[values] is None:
            high = middle
        else:
            low, best = middle, tried[values]
    kept = list(zip(sizes, _values(sizes, low, multiple), strict=True))
    return Shrinking(
        best, tuple((group, group.features * count // each.value) for each, count in kept for group in each.groups)
    )


def _values(sizes: Sequence[Size], share: float, multiple: int) -> tuple[int, ...]:
    """A share of each size, the nearest that makes numbers of features multiples; no more than it is, and not 0."""
    steps = [multiple // math.gcd(multiple, each.groups[0].features // each.value) for each in sizes]
    return tuple(
        min(each.value, step * max(1, round(share * each.value / step)))
        for each, step in zip(sizes, steps, strict=True)
    )


def _at(trained: Trained, values: Sequence[int], sizes: Sequence[Size], flops: float) -> AnyModel | None:
    """The model with these values of its sizes, if it can be and has no more than so many of the FLOPs, a share."""
    model, spec = trained.model, trained.data.spec
    places = [each.place for each in sizes]
    try:
        found = smaller_model(model, dict(zip(places, values, strict=True)))
        return found if size(found, spec, "FLOPs") <= flops * size(model, spec, "FLOPs") else None
    except UserError:
        return None


def shrink(trained: Trained, shrinking: Shrinking) -> Trained:
    """The smaller network, with the most important features."""
    parameters, model_state = trained.parameters, trained.model_state
    for group, count in shrinking.groups:  # importance is that in the whole network: so no order matters
        importance = importances(trained, group)
        keep = np.sort(np.argsort(-importance, kind="stable")[:count])
        parameters, model_state = cut(parameters, model_state, group, keep)
    return trained._replace(model=shrinking.model, parameters=parameters, model_state=model_state)


def of_smaller(network: Trained, shrinking: Shrinking) -> Shrinking:
    """What was planned for a network, for one of its family of which some features are cut already."""
    wanted = {group.makers: count for group, count in shrinking.groups}
    now = tuple((group, wanted[group.makers]) for group in groups(network) if group.makers in wanted)
    return Shrinking(shrinking.model, now)


def importances(trained: Trained, group: Group) -> np.ndarray:
    """(features,): how much each feature of a group matters, from weights alone; of several makers, the sum."""
    parameters, state = trained.parameters, trained.model_state
    made, taken, scaled = np.zeros(group.features), np.zeros(group.features), np.ones(group.features)
    for maker in group.makers:
        kernel = np.asarray(parameters[f"{maker}/kernel"], np.float64).reshape(-1, group.features)
        bias = np.asarray(parameters.get(f"{maker}/bias", 0.0), np.float64)
        made += np.sqrt(np.square(kernel).sum(0) + np.square(bias))
    for taker, owners in group.takers.items():
        inside = owners >= 0
        if f"{taker}/kernel" in parameters:
            kernel = np.asarray(parameters[f"{taker}/kernel"], np.float64)
            if kernel.shape[-2] == len(owners):
                squares = np.square(np.moveaxis(kernel, -2, 0)).reshape(len(owners), -1).sum(1)
                taken += np.bincount(owners[inside], squares[inside], group.features)
        elif f"{taker}/scale" in parameters and f"batch_stats/{taker}/var" in state:
            scale = np.abs(parameters[f"{taker}/scale"]) / np.sqrt(state[f"batch_stats/{taker}/var"] + 1e-5)
            scaled[owners[inside]] *= scale[inside]
    return made * scaled * np.sqrt(taken)


# ---------------------------------------------------------------------------------------------------------------------
# Which field is about which features


def sizes_of(trained: Trained) -> list[Size]:
    """The fields that can be made smaller by cutting features, each with what has to be cut."""
    found, model, spec = [], trained.model, trained.data.spec
    together = groups(trained)
    for place, value in _whole_numbers(model):
        half = value // 2
        try:
            smaller = shapes(smaller_model(model, {place: half}), spec)
        except (UserError, TypeError, ValueError):
            continue
        narrower = [
            group
            for group in together
            if all(_features(smaller, maker) * value == group.features * half for maker in group.makers)
        ]
        if narrower and _fits(trained, narrower, value, half, smaller):
            found.append(Size(place, value, tuple(narrower)))
    return found


def _whole_numbers(model: AnyModel) -> Iterator[tuple[tuple[str, int | None], int]]:
    """(place, value) of each whole number from 2 up."""
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        items = enumerate(value) if isinstance(value, tuple) else [(None, value)]
        for index, item in items:
            if type(item) is int and item >= 2 and field.name not in ("parent", "name", *CLASSES_FIELDS):
                yield (field.name, index), item


def smaller_model(model: AnyModel, values: Mapping[tuple[str, int | None], int]) -> AnyModel:
    """The model with other numbers in some places. Raises UserError where it cannot be."""
    fields: dict[str, Any] = {}
    for (field, index), value in values.items():
        if index is None:
            fields[field] = value
        else:
            now = list(fields.get(field, getattr(model, field)))
            now[index] = value
            fields[field] = tuple(now)
    changed = dataclasses.replace(model, **fields)
    return validate(changed) if is_config(changed) else changed


def shapes(model: AnyModel, spec: Spec) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters and the state of a model, by path."""
    variables = dict(jax.eval_shape(network(model, spec).init, jax.random.key(0)))
    parameters = paths.flatten(variables.pop("params"))
    return {path: tuple(leaf.shape) for path, leaf in {**parameters, **paths.flatten(variables)}.items()}


def _features(found: Mapping[str, tuple[int, ...]], maker: str) -> int:
    return found.get(f"{maker}/kernel", (0,))[-1]


def _fits(
    trained: Trained, narrower: list[Group], value: int, half: int, wanted: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether cutting these groups gives just what the smaller model has."""
    parameters, model_state = trained.parameters, trained.model_state
    for group in narrower:
        keep = np.arange(group.features * half // value)
        parameters, model_state = cut(parameters, model_state, group, keep)
    return {path: np.shape(array) for path, array in {**parameters, **model_state}.items()} == dict(wanted)
