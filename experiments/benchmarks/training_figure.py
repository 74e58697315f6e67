"""What `training.py --write FOLDER` leaves: the times of every round, a table in Markdown, and a figure.

    write(folder, title, {"W1": {"ours": [116.0, ...], "PyTorch, tuned": [108.2, ...]}})

training.json has the milliseconds of a step as they came; training.md and training.png are made of these alone.
"""

import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from core import ratios  # noqa: E402
from training_rows import EAGER, FLAX, OURS, OURS_ONEDNN, TUNED, spread  # noqa: E402

COMPILED = f"{EAGER}, compiled"
STYLES = {OURS_ONEDNN: 3, FLAX: 1, EAGER: 0, COMPILED: 2}
"""The colour and the marker of each kind of setting, from the lowest line of a network to the highest."""
Times = dict[str, dict[str, list[float]]]
"""Milliseconds of a step by round, by setting, by network."""


def write(folder: Path, title: str, times: Times) -> None:
    """Writes all three, as far as there is anything; `title` says when, where and with what."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps({"title": title, "ms": times}, indent=1))
    (folder / "training.md").write_text(markdown(title, times))
    draw(folder / "training.png", title, times)


def markdown(title: str, times: Times) -> str:
    """A table a network: the median, the least and the most, and the ratio to the first of ours, round by round."""
    parts = [f"{title}\n"]
    for network, rows in times.items():
        base = rows[OURS]
        parts.append(f"| {network} | ms a step | times as long as ours |\n|---|---|---|")
        for name, taken in rows.items():
            ratio = "1" if taken is base else spread(ratios(taken, base))
            parts.append(f"| {name} | {spread(taken, 3)} | {ratio} |")
        parts.append("")
    return "\n".join(parts)


def kind_of(name: str) -> str:
    """Which of `STYLES` a row is drawn as."""
    return next((kind for kind in (COMPILED, FLAX, OURS_ONEDNN) if name.startswith(kind)), EAGER)


def draw(path: Path, title: str, times: Times) -> None:
    """How many times as long as ours each setting takes: like with like, so those that are tuned beside ours tuned."""
    from research.analysis import drawing

    figure, axes = drawing.new_figure(title, "times as long as ours", "", (6.4, 0.9 + 0.55 * len(times)))
    axes.set_xscale("log", base=2)
    axes.axvline(1, color=drawing.QUIET, linewidth=1.2)
    networks = list(times)[::-1]
    named: set[str] = set()
    for place, network in enumerate(networks):
        rows = times[network]
        for name, taken in rows.items():
            if name in (OURS, OURS + TUNED):
                continue
            base = rows.get(OURS + TUNED) if name.endswith(TUNED) else rows[OURS]
            found = ratios(taken, base) if base else []
            if not found:
                continue
            kind = kind_of(name)
            at = place + 0.2 * (list(STYLES).index(kind) - (len(STYLES) - 1) / 2)
            look = {"color": drawing.colour_of(STYLES[kind]), "marker": drawing.MARKERS[STYLES[kind]]}
            axes.plot([min(found), max(found)], [at, at], color=look["color"], linewidth=1.1, alpha=0.6)
            label = None if kind in named else kind
            axes.plot(statistics.median(found), at, linestyle="", markersize=5.5, label=label, **look)
            named.add(kind)
    axes.set_yticks(range(len(networks)), networks)
    axes.set_ylim(-0.6, len(networks) - 0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    drawing.legend(figure, axes)
    figure.savefig(path, dpi=150)
