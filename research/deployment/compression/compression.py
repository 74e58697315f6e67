"""What a config file returns to have a trained network made smaller: which run, by which methods, at what loss."""

import re
from collections.abc import Iterator
from typing import Literal

from research.config import config, edge, leaf, structure
from research.deployment.compression.base import Method


@config
class Compression:
    """Methods that each make a smaller network of a run's, and what accuracy that may cost."""

    run: str = structure(doc="folder of the run, runs/digits_cnn for the newest of that name")
    methods: tuple[Method, ...] = structure(doc="what is tried, each by itself")
    name: str = edge("", "what it is called; the config file's name if empty")
    budget: float = leaf(0.003, "accuracy that may be lost, as a share: 0.003 is 0.3 points", within="[0, 1]")
    split: Literal["validation", "test"] = structure("test", "whose examples decide what was lost")
    batch: int = structure(256, "examples in a call that is timed", within="[1, inf)")
    rounds: int = structure(30, "calls of each network that are timed, all taking turns", within="[1, inf)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.methods:
            yield "methods", "there is none; Int8() is the simplest"
        titles = [method.title for method in self.methods]
        slugs = [slug(title) for title in titles]
        for title, name in zip(titles, slugs, strict=True):
            if not name:
                yield "methods", f"'{title}' cannot be the name of a folder; give it one with letters or digits"
            elif slugs.count(name) > 1:
                yield "methods", f"two are called '{title}'; give one another name"


def slug(title: str) -> str:
    """What the folder of a network is called: pruned_80 of "pruned 80 %"."""
    return "_".join(re.findall(r"[a-z0-9.]+", title.lower())).strip(".")
