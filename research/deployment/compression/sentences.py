"""What a compression came to, in sentences: of cost and time only what differs, and on how many examples it rests."""

from collections.abc import Iterator, Mapping
from typing import Any

CHEAPER, FASTER = 1.05, 1.2
"""From so many times on a network is said to be; times of the same work differ by a sixth."""


def verdict(told: Mapping[str, Any]) -> list[str]:
    """Which networks are the smallest, cheapest and fastest of those within the budget, the smallest first."""
    made = told["rows"][1:]
    kept = [row for row in made if row["within"]]
    points = in_points(told["budget"])
    if not kept:
        return [f"No network keeps within {points}, so none is handed on.", *basis(told)]
    return [*_best(kept, points), *_missed(made), *basis(told)]


def in_points(share: float, digits: int = 3) -> str:
    """A share of the examples in points: "0.3 points", "1 point"."""
    number = f"{100 * share:.{digits}g}"
    return f"{number} point{'s' * (number != '1')}"


def basis(told: Mapping[str, Any]) -> Iterator[str]:
    """On which examples it rests, and how fine they can tell."""
    examples, budget = told["examples"], told["budget"]
    allowed = int(budget * examples + 1e-9)
    yield (
        f"It rests on the {examples:,} examples of the {told['split']} split, of which one is "
        f"{in_points(1 / examples, digits=2)}: the budget is {allowed or 'less than 1'} example{'s' * (allowed > 1)}."
    )
    yield (
        f"These examples decide what is kept, and are no fresh test of it; a loss whose interval reaches beyond "
        f"{in_points(budget)} may be larger on others."
    )


def _best(kept: list[Mapping[str, Any]], points: str) -> Iterator[str]:
    smallest, cheapest, fastest = (
        min(kept, key=lambda row, column=column: row[column]) for column in ("bytes", "flops", "milliseconds")
    )
    yield f"{_named(smallest)} is the smallest within {points}: {_smaller(smallest)}."
    yield f"It {_lost(smallest)}."
    if cheapest["times_cheaper"] >= CHEAPER:
        yield f"{_named(cheapest)} has {cheapest['times_cheaper']:.2f} times fewer FLOPs; it {_lost(cheapest)}."
    if fastest["times_faster"] >= FASTER:
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
