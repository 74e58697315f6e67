"""Which choice when: kinds of trials side by side along a number that is no part of the model.

    found = answers(read_sweep("runs/finetune_digits"))
    found.axis.path                                          "data.examples"
    [choice.name for choice in found.axis.choices]           ["from scratch", "linear probe", "full", ...]
    [(place.at, place.best, place.enough) for place in found.axis.places]

Such a sweep does not ask how deep, but which of some choices is best at each value of the number: which strategy of
fine-tuning with how many labelled examples, which optimizer at which batch size.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from research.analysis.networks import Network, in_words
from research.analysis.sweeps import short

if TYPE_CHECKING:
    from research.analysis.answers import Compared


class Choice(NamedTuple):
    """One of the kinds of trials that are compared."""

    name: str
    networks: dict[float, Network]
    """By the value of the axis, in its order."""


class Place(NamedTuple):
    """A value of the axis, and what is best there."""

    at: float
    best: Network
    """By validation."""
    compared: "dict[int, Compared]"
    """The others at this place with the best, by program."""
    enough: Network
    """That which takes the fewest FLOPs of those that are as good as the best."""


class Axis(NamedTuple):
    """A number that is no part of the model, and the choices that were tried at its values."""

    path: str
    choices: list[Choice]
    places: Sequence[Place] = ()

    @property
    def name(self) -> str:
        """The last name of its path."""
        return short(self.path, [self.path])

    def choice_of(self, network: Network) -> str:
        """The name of the choice that a network is of; its series where it is of none."""
        names = (c.name for c in self.choices if any(own is network for own in c.networks.values()))
        return next(names, network.series)


def find_axis(networks: Sequence[Network]) -> Axis | None:
    """The number outside the model that has the most values, and the choices, each tried at two of them at least.

    None where there is no such number, or fewer than two choices. What is said of the axis or of a name in other words,
    such as a batch size that goes with each number of examples, makes no choice of its own.
    """
    values = [network.values for network in networks]
    paths = list(dict.fromkeys(path for each in values for path in each))
    outside = [path for path in paths if not path.startswith("model.")]
    numbers = [path for path in outside if all(_is_number(each, path) for each in values)]
    counted = {path: len({float(each[path]) for each in values}) for path in numbers}
    if not counted or max(counted.values()) < 2:
        return None
    axis = max(counted, key=lambda path: counted[path])
    telling = [path for path in paths if path != axis and not _follows(values, path, axis)]
    telling = ["name"] if "name" in telling and all(_follows(values, path, "name") for path in telling) else telling
    found: dict[str, dict[float, Network]] = {}
    for network in sorted(networks, key=lambda each: float(each.values[axis])):
        told = {path: network.values[path] for path in telling if path in network.values}
        name = told["name"] if telling == ["name"] else in_words(told)
        if found.setdefault(name, {}).setdefault(float(network.values[axis]), network) is not network:
            return None  # they differ in more than that
    order = list(dict.fromkeys(name for network in networks for name, own in found.items() if network in own.values()))
    choices = [Choice(name, found[name]) for name in order]
    if len(choices) < 2 or any(len(choice.networks) < 2 for choice in choices):
        return None
    return Axis(axis, choices)


def _is_number(values: Mapping[str, str], path: str) -> bool:
    try:
        float(values.get(path, ""))
    except ValueError:
        return False
    return True


def _follows(programs: Sequence[Mapping[str, str]], path: str, other: str) -> bool:
    """Whether what a program has at one path is known from what it has at the other."""
    known: dict[str | None, str | None] = {}
    return all(known.setdefault(each.get(other), each.get(path)) == each.get(path) for each in programs)


def runs_of(places: Sequence[tuple[float, str]]) -> list[tuple[str, list[float]]]:
    """Neighbouring places that have the same name, together: [("probe", [10]), ("full", [100, 1000])]."""
    found: list[tuple[str, list[float]]] = []
    for at, name in places:
        if found and found[-1][0] == name:
            found[-1][1].append(at)
        else:
            found.append((name, [at]))
    return found
