"""Ways to say which parameters: by pattern, by kind of layer, by depth.

    train(last(3))                      the last three blocks, and what comes after them
    freeze(below("stage_2"))            all that is used before stage_2
    train(of_kind("norm", "bias"))      the norms, and all biases
    freeze(others())                    whatever no other rule says anything of
    train(of_adapters(), clip=1.0)      the adapters, of which no rule of another kind says anything

A selector says the same of a stack that is stored stacked and of one that is not. What is said of depth is read off the
network, not its names: `parameters.depth`. A selector of one's own is a config with a method `select`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from research.config import config, structure
from research.errors import UserError, did_you_mean
from research.models.adapters import A, B
from research.parameters import depth
from research.parameters.paths import SEPARATOR

Kind = Literal["norm", "bias", "kernel", "embedding"]


class Selector:
    """Base of the configs that pick parameters."""

    def select(self, order: Sequence[str]) -> set[str]:
        """Which of the paths, which are given in the order of use. Raises UserError for a layer that is not there."""
        raise NotImplementedError(f"{type(self).__name__} has no method `select(self, order)`")


@config
class Matching(Selector):
    """Parameters whose whole path matches a regular expression."""

    pattern: str = structure(".*", "regular expression for whole paths")

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"'{self.pattern}' is no regular expression: {error}"

    def select(self, order):
        return {path for path in order if re.fullmatch(self.pattern, path)}

    def __str__(self) -> str:
        return f"'{self.pattern}'"


@config
class OfKind(Selector):
    """Parameters of some kinds of layers: norms, biases, kernels, embeddings (of tokens, positions and patches)."""

    kinds: tuple[Kind, ...] = structure((), "which of norm, bias, kernel, embedding")

    def select(self, order):
        norms = _norms(order)
        return {path for path in order if any(_is_of_kind(kind, path, norms) for kind in self.kinds)}

    def __str__(self) -> str:
        return f"of_kind({', '.join(map(repr, self.kinds))})"


def _norms(order: Iterable[str]) -> set[str]:
    """The layers that are norms: by their name, or for all they have is a scale, and a bias beside it."""
    names: dict[str, set[str]] = {}
    for path in order:
        layer, _, name = path.rpartition(SEPARATOR)
        names.setdefault(layer, set()).add(name)
    told = {layer for layer in names if any("norm" in part.lower() for part in layer.split(SEPARATOR))}
    return told | {layer for layer, found in names.items() if layer and "scale" in found <= {"scale", "bias"}}


def _is_of_kind(kind: Kind, path: str, norms: Collection[str]) -> bool:
    *layers, name = path.split(SEPARATOR)
    match kind:
        case "norm":
            return SEPARATOR.join(layers) in norms
        case "embedding":
            return "embedding" in (*layers, name) or name in ("positions", "class_token")
    return name == kind


@config
class Last(Selector):
    """The last blocks, and what comes after them: the last norm and the head, say."""

    blocks: int = structure(1, "how many blocks", within="[0, inf)")

    def select(self, order):
        _check_blocks(self, self.blocks, order)
        return {path for path, height in depth.heights(order).items() if height <= self.blocks}

    def __str__(self) -> str:
        return f"last({self.blocks})"


@config
class First(Selector):
    """The first blocks, and what comes before them: the embedding, say."""

    blocks: int = structure(1, "how many blocks", within="[0, inf)")

    def select(self, order):
        _check_blocks(self, self.blocks, order)
        left = len(depth.blocks(order)) - self.blocks
        return {path for path, height in depth.heights(order).items() if height > left}

    def __str__(self) -> str:
        return f"first({self.blocks})"


def _check_blocks(selector: Selector, count: int, order: Sequence[str]) -> None:
    found = list(depth.blocks(order))
    if count > len(found):
        there = f"{len(found)} blocks, {found[0]} to {found[-1]}" if found else "no blocks"
        raise UserError(f"partition: {selector} asks for {count} blocks; this model has {there}")


@config
class Below(Selector):
    """All that is used before a layer."""

    layer: str = structure("", "path of a layer: stage_2")

    def select(self, order):
        return set(order[: _first_of(self, order)])

    def __str__(self) -> str:
        return f"below('{self.layer}')"


@config
class Onwards(Selector):
    """A layer, and all that is used after it."""

    layer: str = structure("", "path of a layer: stage_2")

    def select(self, order):
        return set(order[_first_of(self, order) :])

    def __str__(self) -> str:
        return f"onwards('{self.layer}')"


def _first_of(selector: Below | Onwards, order: Sequence[str]) -> int:
    """Where the parameters of the selector's layer begin."""
    for i, path in enumerate(order):
        if path.startswith(selector.layer + SEPARATOR):
            return i
    layers = {path[: slash.start()] for path in order for slash in re.finditer(SEPARATOR, path)}
    raise UserError(f"partition: {selector}: no layer '{selector.layer}'{did_you_mean(selector.layer, layers)}")


@config
class Either(Selector):
    """What any of several selectors picks."""

    selectors: tuple[Selector, ...] = structure((), "of which any may pick a parameter")

    def select(self, order):
        return set().union(*(selector.select(order) for selector in self.selectors))

    def __str__(self) -> str:
        return f"either({', '.join(map(str, self.selectors))})"


@config
class But(Selector):
    """What one selector picks and others do not."""

    selector: Selector = structure(Matching(), "which parameters")
    exceptions: tuple[Selector, ...] = structure((), "and which not")

    def select(self, order):
        return self.selector.select(order).difference(*(selector.select(order) for selector in self.exceptions))

    def __str__(self) -> str:
        return f"but({', '.join(map(str, (self.selector, *self.exceptions)))})"


@config
class Others(Selector):
    """What no other rule of a partition picks; what that is, the partition knows."""

    def select(self, order):
        return set()

    def __str__(self) -> str:
        return "others()"


@config
class OfAdapters(Selector):
    """Parameters of low-rank adapters; no other selector picks any."""

    pattern: str = structure(".*", "regular expression for their whole paths: .*/lora_b")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from Matching(pattern=self.pattern).problems()

    def select(self, order):
        return {path for path in order if is_adapter(path) and re.fullmatch(self.pattern, path)}

    def __str__(self) -> str:
        return f"of_adapters({'' if self.pattern == '.*' else repr(self.pattern)})"


def is_adapter(path: str) -> bool:
    """Whether a parameter is of a low-rank adapter."""
    return path.rpartition(SEPARATOR)[2] in (A, B)


def as_selector(what: str | Selector) -> Selector:
    """A selector, or the one of whole paths that match a regular expression."""
    return Matching(pattern=what) if isinstance(what, str) else what


def of_kind(*kinds: Kind) -> OfKind:
    """The parameters of layers of these kinds."""
    return OfKind(kinds=kinds)


def last(blocks: int) -> Last:
    """The last blocks, and what comes after them."""
    return Last(blocks=blocks)


def first(blocks: int) -> First:
    """The first blocks, and what comes before them."""
    return First(blocks=blocks)


def below(layer: str) -> Below:
    """All that is used before a layer."""
    return Below(layer=layer)


def onwards(layer: str) -> Onwards:
    """A layer, and all that is used after it."""
    return Onwards(layer=layer)


def either(*selectors: str | Selector) -> Either:
    """What any of these picks; text is a pattern of whole paths."""
    return Either(selectors=tuple(map(as_selector, selectors)))


def but(selector: str | Selector, *exceptions: str | Selector) -> But:
    """What the first picks and the others do not."""
    return But(selector=as_selector(selector), exceptions=tuple(map(as_selector, exceptions)))


def others() -> Others:
    """What no other rule picks."""
    return Others()


def of_adapters(pattern: str = ".*") -> OfAdapters:
    """The parameters of low-rank adapters, or those whose whole path matches a pattern."""
    return OfAdapters(pattern=pattern)
