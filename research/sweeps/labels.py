"""What values are called where several stand side by side: as typed, and told apart where that would look the same.

labels([AdamW(), AdamW(weight_decay=0.1), SGD()], as_set) == [
    "AdamW(weight_decay 0.01)", "AdamW(weight_decay 0.1)", "SGD"
]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.commandline.fields import as_typed
from research.config import Entry, entries, is_config

LONGEST = 120
"""Characters of a part that is told as a whole."""


def labels(values: Sequence[Any], show: Callable[[Entry], str]) -> list[str]:
    """A label for each value; of configs of one kind, with the fields that `show` shows differently."""
    plain = [_plain(value) for value in values]
    fields = [{e.path: show(e) for e in entries(value)} if is_config(value) else {} for value in values]
    found = []
    for value, label, own in zip(values, plain, fields, strict=True):
        alike = [other for other_label, other in zip(plain, fields, strict=True) if other_label == label]
        told = [f"{path} {own[path]}" if own[path] else f"no {path}" for path in _told(own, alike, value)]
        found.append(f"{label}({', '.join(told)})" if told else label)
    return found


def _told(own: Mapping[str, str], alike: Sequence[Mapping[str, str]], value: Any) -> list[str]:
    """The fields in which others differ, each part once: as a whole where it says what it is, or by its own fields."""
    differing = [path for path, text in own.items() if any(other.get(path) != text for other in alike)]
    kinds = {entry.path: type(entry.value).__name__ for entry in entries(value)} if differing else {}
    told: list[str] = []
    for path in differing:  # a part comes before what it holds
        is_held = any(path.startswith(f"{other}.") for other in told)
        holds = any(other.startswith(f"{path}.") for other in differing)
        if not is_held and not (holds and (own[path] == kinds[path] or len(own[path]) > LONGEST)):
            told.append(path)
    return told


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"({as_typed(value)})" if isinstance(value, tuple) else as_typed(value)


def as_set(entry: Entry) -> str:
    """A field's value, as typed."""
    return as_typed(entry.value)


def as_structure(entry: Entry) -> str:
    """A field's value as far as the program depends on it: of a leaf, whether there is a number."""
    return "a number" if entry.role == "leaf" and entry.value is not None else as_typed(entry.value)


def few(words: Sequence[str], count: int) -> str:
    """So many of some words at most, the last among them."""
    return ", ".join(words if len(words) <= count else [*words[: count - 1], "...", words[-1]])
