"""The page of an explanation: the answers, what they rest on, what they remind of, and what the layers are good for."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.analysis import page
from research.analysis.evaluation_page import STYLE, percent, show, wide_figure
from research.analysis.report import svg

REFERENCES = (
    "Gradient x input: Shrikumar et al., 2016. Integrated gradients: Sundararajan, Taly and Yan, 2017. SmoothGrad: "
    "Smilkov et al., 2017. Occlusion: Zeiler and Fergus, 2014. Grad-CAM: Selvaraju et al., 2017. Attention rollout: "
    "Abnar and Zuidema, 2020. Check with other weights: Adebayo et al., 2018. Blocks removed: Veit, Wilber and "
    "Belongie, 2016."
)
EXTRA = """<style>
.near { display: grid; gap: .35rem .7rem; grid-template-columns: 6.5rem repeat(5, minmax(3.2rem, 5.5rem));
  margin: .6rem 0; align-items: start; max-width: 46rem } .near figure { max-width: 5.5rem }
.near img { image-rendering: pixelated; width: 100%; display: block; border-radius: 3px }
.near figcaption { font-size: .75rem; line-height: 1.25; margin-top: .1rem }
.near .own img { outline: 2px solid var(--accent) }
.text { background: var(--soft); border-radius: 4px; font: .8rem/1.7 ui-monospace, monospace; overflow-wrap: anywhere;
  padding: .5rem .7rem; white-space: pre-wrap }
@media (max-width: 30rem) { .near { grid-template-columns: 3.6rem repeat(5, 1fr); gap: .3rem } }
</style>"""


def explanation_page(
    told: Mapping[str, Any],
    raw: np.ndarray,
    maps: Mapping[str, np.ndarray],
    near: Mapping[int, np.ndarray],
    drawn: Mapping[str, Any],
    kind: str,
    maximum: float | None,
) -> str:
    """The page; `near` are the raw training examples that are shown, by their place."""
    number = iter(range(100))

    def figure(name: str, caption: str, *, wide: bool = False) -> str:
        if name not in drawn:
            return ""
        shown = svg(drawn[name], next(number))
        if wide:
            return wide_figure(shown, caption)
        return f"<figure>{shown}<figcaption>{_text(caption)}</figcaption></figure>"

    is_text = kind == "bytes"
    parts = [
        f"{STYLE}{EXTRA}<header><h1>{_text(told['name'])}: why does it say so?</h1><p class=quiet>{_text(_about(told))}"
        "</p></header>",
        _verdict(told),
        "<section><h2>What the answers rest on</h2>"
        f"{_texts(told, raw, maps) if is_text else figure('attribution', _caption_of_maps(told), wide=True)}"
        "</section>",
        _neighbours(told, raw, near, kind, maximum),
        "<section><h2>What its layers are good for, and whether maps can be trusted</h2></section>"
        f"<section class=figures>{figure('removal', _caption_of_removal(told))}"
        f"{figure('sanity', _caption_of_sanity())}</section>",
        _looks(figure("kernels", _caption_of_kernels(), wide=True)),
        _removal(told),
        _method(),
    ]
    return page.page(f"{told['name']}: explanation", "\n".join(filter(None, parts)))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _about(told: Mapping[str, Any]) -> str:
    return (
        f"{told['folder']}, best checkpoint (step {told['step']:,}); layers were removed over "
        f"{told['examples_looked_at']:,} examples of the {told['split']} split."
    )


def verdict(told: Mapping[str, Any]) -> tuple[str, str]:
    """What an explanation comes to: how much of the depth is used, and whether the maps can be trusted."""
    gap = told["integrated_gradients"]["largest_gap"]
    steps = told["integrated_gradients"]["steps"]
    complete = f"Integrated gradients add up to the logit within {100 * gap:.2g} % ({steps:,} steps)."
    if told["doubtful"]:
        names = _listed(told["doubtful"])
        change = f"Maps by {names} hardly change when all weights are shuffled: they show the input, not the reasons."
    else:
        change = "With all weights shuffled every map is another, as it must be."
    if told.get("late"):
        change += (
            f" Maps by {_listed(told['late'])} change only once the first layers are shuffled as well: they show what "
            "these look at, and not what the answer rests on."
        )
    if told["outlines"]:
        change += (
            f" Where maps by {_listed(told['outlines'])} are strong is much the same with shuffled "
            "weights, for that is where the input is: read their colours and not their outlines."
        )
    return told["used"], f"{change} {complete}"


def _verdict(told: Mapping[str, Any]) -> str:
    first, rest = verdict(told)
    left_out = "".join(f"<li>Left out: {_text(each)}.</li>" for each in told["left_out"])
    return (
        f"<section class=verdict><p class=answer>{_text(first)}</p><p>{_text(rest)}</p>"
        f"{f'<ul class=weak>{left_out}</ul>' if left_out else ''}</section>"
    )


def _caption_of_maps(told: Mapping[str, Any]) -> str:
    said = "Red speaks for the answer that it gives, blue against it; each map has a scale of its own."
    if any(name in told["methods"] for name in ("Grad-CAM", "attention rollout")):
        bright = " and ".join(name for name in ("Grad-CAM", "attention rollout") if name in told["methods"])
        said += f" The brighter, the more: {bright}."
    return said


def _texts(told: Mapping[str, Any], raw: np.ndarray, maps: Mapping[str, np.ndarray]) -> str:
    """Texts whose bytes are coloured by integrated gradients, or by attention."""
    parts = []
    for i, row in enumerate(told["examples"]):
        parts.append(f"<p>{_answer(row)}</p>")
        for name in ("integrated gradients", "attention rollout"):
            if name in maps:
                parts.append(f"<p class=quiet>{name}</p><div class=text>{_coloured(raw[i], maps[name][i])}</div>")
    return "".join(parts)


def _coloured(tokens: np.ndarray, values: np.ndarray) -> str:
    most = np.abs(values).max() or 1
    spans = []
    for token, value in zip(tokens.ravel(), values.ravel(), strict=True):
        colour = "217,72,60" if value >= 0 else "56,120,200"
        sign = chr(int(token)) if 32 <= int(token) < 127 or int(token) == 10 else "·"
        spans.append(f'<span style="background:rgba({colour},{0.85 * abs(value) / most:.2f})">{_text(sign)}</span>')
    return "".join(spans)


def _answer(row: Mapping[str, Any]) -> str:
    label = "" if row["label"] is None else f"is {_text(row['label'])}, "
    return f"{_text(row['example'])}: {label}says <b>{_text(row['says'])}</b> with {percent(row['probability'])}"


def _neighbours(
    told: Mapping[str, Any], raw: np.ndarray, near: Mapping[int, np.ndarray], kind: str, maximum: float | None
) -> str:
    rows = []
    for i, row in enumerate(told["examples"]):
        cells = [f"<figure class=own>{show(raw[i], kind, maximum)}<figcaption>{_answer(row)}</figcaption></figure>"]
        for each in row["nearest"]:
            caption = f"{_text(each['label'])}<br>{each['distance']:.2f}"
            shown = show(near[each["example"]], kind, maximum)
            cells.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
        rows.append(f"<div class=near>{''.join(cells)}</div>")
    about = told["features_of"]
    said = (
        f"The nearest of {about['looked_through']:,} training examples by what comes to {about['layer']}, with their "
        "class and their distance; 1 is that of two training examples, at the median."
    )
    return f"<section><h2>What they remind it of</h2><p class=quiet>{_text(said)}</p>{''.join(rows)}</section>"


def _caption_of_removal(told: Mapping[str, Any]) -> str:
    hows = {row["how"] for row in told["removal"]}
    said = []
    if "identity" in hows:
        said.append("What gives as many numbers as it takes, such as a residual block, is skipped.")
    if "mean" in hows:
        said.append("Any other layer gives always the mean of its outputs over training examples.")
    if any(row.get("cuts") for row in told["removal"]):
        said.append("Where there is no way around it, nothing of the input is left, which says nothing of the layer.")
    return " ".join([*said, "Nothing was trained again; intervals are of the paired difference."])


def _caption_of_sanity() -> str:
    return "Near 0, a map is about what was learned. Dashed: without signs, which follows the input in any network."


def _caption_of_kernels() -> str:
    return "Kernels, and below them what they give of the first example; of each layer those that answer it most."


def _looks(figure: str) -> str:
    return f"<section><h2>Kernels and feature maps</h2>{figure}</section>" if figure else ""


def _removal(told: Mapping[str, Any]) -> str:
    how = {"identity": "skipped", "mean": "gives its mean", "whole": "nothing is removed"}
    rows = []
    for row in told["removal"]:
        has = "difference" in row
        between = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}".replace("-", "−") if has else ""
        points = f"{100 * row['difference']:+.1f}".replace("-", "−") if has else ""
        cells = [
            page.cell(row["layer"] or "whole network"),
            page.cell(how[row["how"]] + (", and nothing else comes past it" if row.get("cuts") else "")),
            page.cell(percent(row["accuracy"]), row["accuracy"]),
            page.cell(points, row.get("difference")),
            page.cell(between),
        ]
        rows.append(page.row(cells))
    titles = ["without", "how", "#right", "#points", "95 % interval"]
    return f"<section><h2>Layer by layer</h2>{page.table('removal', titles, rows)}</section>"


def _method() -> str:
    paragraphs = [
        "Each map is about the logit of the class that the network names. Of numbers the baseline, which stands for "
        "nothing being there, is the background of pictures or else the training mean; of tokens, no vector.",
        REFERENCES,
    ]
    return f"<section class=method><h2>Method</h2>{''.join(f'<p>{_text(each)}</p>' for each in paragraphs)}</section>"
