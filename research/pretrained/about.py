"""What a source says about the model in it: settings of its config.json, and the shapes of its tensors.

A layout asks for a setting and says what the shapes have to say where config.json, or all of it, is missing:

    width = about.whole("hidden_size", lambda: about.shape("vit.embeddings.cls_token")[-1])
    about.needs({"qkv_bias": True})                        # the only value that our model can be
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from research.errors import UserError, did_you_mean
from research.spec import Spec

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""What transformers and timm call activations, and what we call them."""

CALLED = {"gelu_tanh": "gelu_new"}
"""What transformers calls those of our activations that have another name there."""

HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Widths of published transformers whose heads have other than 64 features."""


class About:
    """A source's settings and shapes, by their canonical names.

    notes: what had to be assumed, and what else people should know.
    problems: what our model cannot be; see `check`.
    left_out: names of tensors that are not loaded, though another source's would be.
    """

    def __init__(self, where: str, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]):
        self.where = where
        self.settings = settings
        self.shapes = shapes
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.left_out: set[str] = set()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises UserError where it is not there."""
        if name not in self.shapes:
            raise self.error(f"{name} is missing{did_you_mean(name, self.shapes)}")
        return self.shapes[name]

    def dimension(self, name: str, axis: int, axes: int) -> int:
        """The size of a tensor along one of so many axes. Raises UserError for one of another number of axes."""
        shape = self.shape(name)
        if len(shape) != axes:
            raise self.error(f"{name} has the shape {shape}, and {axes} dimensions are needed")
        return shape[axis]

    def count(self, before: str) -> int:
        """How many blocks there are whose names begin so, before their index."""
        found = [re.match(rf"{re.escape(before)}(\d+)\b", name) for name in self.shapes]
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def depth(self, setting: str, before: str) -> int:
        """How many blocks there are, by their names; notes a problem where a setting says otherwise."""
        count = self.count(before)
        if not count:
            raise self.error(f"no tensor begins with {before}0")
        self.agrees(setting, count)
        return count

    def agrees(self, setting: str, found: Any) -> None:
        """Notes a problem where a setting is given, and is not what the tensors say."""
        given = self.settings.get(setting, found)
        if given != found:
            self.problems.append(f"config.json: {setting} is {given!r}, and by the tensors' names it is {found!r}")

    def whole(self, setting: str, otherwise: Callable[[], int]) -> int:
        """A setting that is a positive whole number, or what the shapes say if it is not given."""
        value = self.settings.get(setting)
        if value is None:
            return otherwise()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"config.json: {setting} is {value!r}; a whole number above 0 is needed")
        return value

    def number(self, setting: str, default: float) -> float:
        """A setting that is a number, at least 0."""
        value = self.settings.get(setting, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise self.error(f"config.json: {setting} is {value!r}; a number from 0 is needed")
        return float(value)

    def activation(self, setting: str, default: str) -> str:
        """Our name of an activation."""
        name = self.settings.get(setting, default)
        if name not in ACTIVATIONS:
            self.problems.append(
                f"config.json: {setting} '{name}' is none that we have{did_you_mean(name, ACTIVATIONS)}"
            )
            return "relu"
        return ACTIVATIONS[name]

    def needs(self, values: Mapping[str, Any]) -> None:
        """Notes a problem for each setting that is given and is not the value which our model stands for."""
        for setting, value in values.items():
            given = self.settings.get(setting, value)
            if given != value:
                self.problems.append(f"config.json: {setting} is {given!r}; our model can only be {value!r}")

    def multiple(self, what: str, size: int, width: int) -> int:
        """How many times wider a hidden layer is than a token. Notes a problem where that is no whole number."""
        if size % width:
            self.problems.append(f"{what} of {size} features is no multiple of the width {width}, as in our models")
        return max(1, size // width)

    def heads(self, setting: str, width: int) -> int:
        """The number of heads: a setting, or what is usual for the width, since no tensor tells it."""
        if (given := self.whole(setting, lambda: 0)) > 0:
            return given
        if width not in HEADS and width % 64:
            raise self.error(
                f'no tensor tells how many heads there are; put them in a config.json beside it: {{"{setting}": 4}}'
            )
        heads = HEADS.get(width, width // 64)
        self.notes.append(f"{heads} heads of {width // heads} features, as is usual; no config.json says so")
        return heads

    def names(self, count: int) -> tuple[str, ...]:
        """The names of the classes, in the order of logits; their numbers where they have none."""
        labels = self.settings.get("id2label")
        if not isinstance(labels, Mapping) or set(labels) != {str(i) for i in range(count)}:
            return tuple(map(str, range(count)))
        return tuple(str(labels[str(i)]) for i in range(count))

    def classes(self, name: str) -> int:
        """How many classes a head's tensor (classes, ...) has; 0 where there is none."""
        return self.shapes[name][0] if self.shapes.get(name) else 0

    def picture(self, setting: str, default: Callable[[], int]) -> tuple[int, int]:
        """The size of pictures: a setting that is one number or two."""
        value = self.settings.get(setting)
        if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value):
            return value[0], value[1]
        return (self.whole(setting, default),) * 2

    def pictures(self, size: tuple[int, int], channels: int, classes: int) -> Spec:
        """The spec of pictures of a size."""
        return Spec((*size, channels), classes, self.names(classes))

    def side(self, positions: int, what: str) -> int:
        """The side of a square grid of so many positions."""
        side = math.isqrt(max(0, positions))
        if side * side != positions or not side:
            raise self.error(f"{what} has {positions} positions, which are no square; config.json has to tell the size")
        return side

    def error(self, problem: str) -> UserError:
        """The problem, after those that were noted before it."""
        return UserError(*(f"{self.where}: {line}" for line in (*self.problems, problem)))

    def check(self) -> None:
        """Raises UserError if there were problems."""
        if self.problems:
            raise UserError(*(f"{self.where}: {line}" for line in self.problems))


def labels(spec: Spec) -> dict[str, Any]:
    """How config.json of transformers tells the classes, by their numbers where they have no names."""
    names = spec.names if len(set(spec.names)) == spec.classes else tuple(map(str, range(spec.classes)))
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
