"""What a compression came to, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any


def verdict(told: Mapping[str, Any]) -> list[str]:
    """Which networks are the smallest, cheapest and fastest of those within the budget, the smallest first."""
    original, *made = told["rows"]
    kept = [row for row in made if row["within"]]
    points = f"{100 * told['budget']:.3g} points"
    if not kept:
        return [f"No network keeps within {points}, so none is handed on."]
    return [*_best(original, kept, points), *_missed(made)]


def _best(original: Mapping[str, Any], kept: list[Mapping[str, Any]], points: str) -> Iterator[str]:
    smallest, cheapest, fastest = (
        min(kept, key=lambda row, column=column: row[column]) for column in ("bytes", "flops", "milliseconds")
    )
    yield f"{_named(smallest)} is the smallest within {points}: {_smaller(smallest)}."
    yield f"It {_lost(smallest)}."
    if cheapest["flops"] < original["flops"]:
        yield f"{_named(cheapest)} has {cheapest['times_cheaper']:.2f} times fewer FLOPs; it {_lost(cheapest)}."
    if fastest["milliseconds"] < original["milliseconds"]:
        yield f"{_named(fastest)} was the fastest, by {fastest['times_faster']:.2f} times; it {_lost(fastest)}."


def _missed(made: list[Mapping[str, Any]]) -> Iterator[str]:
    if missed := [row["network"] for row in made if not row["within"]]:
        yield f"Not kept, for they lose more: {', '.join(missed)}."


def _smaller(row: Mapping[str, Any]) -> str:
    zipped, plain = row["times_smaller"], row["times_smaller_plain"]
    return f"{zipped:.2f} times smaller than the original, both gzipped, and {plain:.2f} times if neither is"


def _named(row: Mapping[str, Any]) -> str:
    return f"“{row['network']}”"


def _lost(row: Mapping[str, Any]) -> str:
    points = 100 * row["lost"]
    low, high = (f"{100 * row[name]:+.1f}" for name in ("lost_low", "lost_high"))
    if abs(points) < 0.005:
        return f"loses nothing (95 % interval {low} to {high} points)"
    return f"{'loses' if points > 0 else 'gains'} {abs(points):.2f} points (95 % interval of the loss {low} to {high})"
