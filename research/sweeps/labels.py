"""What values are called where several stand side by side: as typed, and told apart where that would look the same.

labels([AdamW(), AdamW(weight_decay=0.1), SGD()], as_set) == [
    "AdamW(weight_decay 0.01)", "AdamW(weight_decay 0.1)", "SGD"
]
"""

from collections.abc import Callable, Sequence
from typing import Any

from research.commandline.fields import as_typed
from research.config import Entry, entries, is_config


def labels(values: Sequence[Any], show: Callable[[Entry], str]) -> list[str]:
    """A label for each value; of configs of one kind, with the fields that `show` shows differently."""
    plain = [_plain(value) for value in values]
    fields = [{e.path: show(e) for e in entries(value)} if is_config(value) else {} for value in values]
    found = []
    for label, own in zip(plain, fields, strict=True):
        alike = [other for other_label, other in zip(plain, fields, strict=True) if other_label == label]
        told = [f"{path} {text}" for path, text in own.items() if any(other.get(path) != text for other in alike)]
        found.append(f"{label}({', '.join(told)})" if told else label)
    return found


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
