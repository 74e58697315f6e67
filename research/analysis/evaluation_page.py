"""A page about one run that needs nothing else: is it good enough, where is it wrong, and how far does that hold?

Path("evaluation.html").write_text(evaluation_page(judged, pictures))
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.analysis import evaluation_figures as draw
from research.analysis import page
from research.analysis.report import svg
from research.analysis.statistics import RESAMPLES

STYLE = """<style>
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); margin: .6rem 0 }
.gallery figure { max-width: 10rem } .gallery img { background: var(--soft); border-radius: 3px; display: block;
  image-rendering: pixelated; width: 100% } .gallery pre { background: var(--soft); font-size: .75rem; margin: 0;
  max-height: 9rem; overflow: auto; padding: .4rem; white-space: pre-wrap } .wide-figure { max-width: 62rem }
.gallery figcaption { line-height: 1.3 } .scroll { overflow-x: auto } .scroll > div { min-width: 34rem }
</style>"""
WORDS = {
    "accuracy": "the share that is right",
    "loss": "what training minimised, the mean over examples",
    "nll": "the mean surprise at the true class, in nats; log loss",
    "brier": "the mean squared distance of the probabilities from the truth",
    "ece": "the mean gap between how sure it is and how often right; 0 is perfect",
    "worst_class_accuracy": "the share that is right of the class where it is least",
    "macro_precision": "the mean over classes",
    "macro_recall": "the mean over classes",
    "macro_f1": "the mean over classes",
    "parameters": "of the network",
    "robustness/mean_accuracy": "the mean over all ways and strengths",
    "robustness/least_accuracy": "of the way and strength that is hardest",
}


def evaluation_page(
    judged: Mapping[str, Any],
    inputs: Mapping[int, np.ndarray] | None = None,
    *,
    drawn: Mapping[str, Any] | None = None,
    kind: str = "image",
    maximum: float | None = None,
) -> str:
    """The page of a judgement. `inputs` are the raw examples that are shown, by their place in the split; `drawn` its
    figures, where these are there already."""
    parts = [
        f"{STYLE}<header><h1>{_text(judged['name'])}: is it good enough?</h1><p class=quiet>{_text(_about(judged))}</p>"
        "</header>",
        _verdict(judged),
        _figures(judged, draw.draw_all(judged) if drawn is None else drawn),
        _gallery(judged, inputs or {}, kind, maximum),
        _classes(judged) if "classes" in judged else "",
        _all_figures(judged),
        _method(judged),
    ]
    return page.page(f"{judged['name']}: evaluation", "\n".join(filter(None, parts)))


def sentence(judged: Mapping[str, Any]) -> tuple[str, str]:
    """What a judgement comes to, in a short sentence and a longer one."""
    figures, intervals = judged["figures"], judged["intervals"]
    low, high = intervals["accuracy"]
    what = (
        f"{judged['tokens']:,} tokens" if "tokens" in judged else f"{judged['examples']:,} {judged['split']} examples"
    )
    first = f"{percent(figures['accuracy'])} of {what} are right (95 % interval {percent(low)} to {percent(high)})."
    if "classes" not in judged:
        return first, ""
    present = [row for row in judged["classes"] if row["examples"]]
    worst = min(present, key=lambda row: row["recall"])
    told = (
        f"The worst class is {worst['name']}, {percent(worst['recall'])} right (interval {percent(worst['low'])} to "
        f"{percent(worst['high'])}, of {worst['examples']:,}). "
    )
    told = told if worst["recall"] < 1 else ""  # there is none
    return first, f"{told}{calibrated(judged)} {_bends(judged)}".strip()


def calibrated(judged: Mapping[str, Any]) -> str:
    """How well the network knows how sure to be, in words."""
    rows = [row for row in judged["reliability"] if row["count"]]
    more = sum(row["count"] * (row["confidence"] - row["accuracy"]) for row in rows) / sum(row["count"] for row in rows)
    ece = 100 * judged["figures"]["ece"]
    low, high = (100 * bound for bound in judged["intervals"]["ece"])
    way = "too sure" if more > 0 else "not sure enough"
    told = f"Its probabilities are off by {ece:.1f} points (ECE; interval {low:.1f} to {high:.1f})"
    return f"{told}, on the whole {way} by {abs(100 * more):.1f}."


def _bends(judged: Mapping[str, Any]) -> str:
    """At which strength each way of making examples harder takes a tenth of the answers."""
    figures, lost, held = judged["figures"], [], []
    for way in judged["harder"]:
        values = {strength: figures[f"robustness/{way['name']}_{strength}/accuracy"] for strength in way["strengths"]}
        beyond = [strength for strength, value in values.items() if value < figures["accuracy"] - 0.1]
        unit = "°" if way["per"].startswith("degrees") else " %"
        if beyond:
            lost.append(f"{way['name']} of {beyond[0]}{unit} (to {percent(values[beyond[0]])})")
        else:
            held.append(way["name"])
    told = f"It loses more than 10 points by {_listed(lost)}." if lost else ""
    if held:
        less = "Less than that by" if lost else "It loses less than 10 points by"
        told += f" {less} any {_listed(held, 'or')} that was tried."
    return told


def _listed(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def percent(share: float) -> str:
    """97.2 %."""
    return f"{100 * share:.1f} %"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _about(judged: Mapping[str, Any]) -> str:
    return f"{judged['folder']}, best checkpoint (step {judged['step']:,}), on the {judged['split']} split."


def _verdict(judged: Mapping[str, Any]) -> str:
    first, rest = sentence(judged)
    against = f"<p>{_text(judged['against']['sentence'])}</p>" if "against" in judged else ""
    left_out = "".join(f"<li>Left out: {_text(each)}.</li>" for each in judged["left_out"])
    told = f"<p class=answer>{_text(first)}</p>{f'<p>{_text(rest)}</p>' if rest else ''}{against}"
    return f"<section class=verdict>{told}{f'<ul class=weak>{left_out}</ul>' if left_out else ''}</section>"


def _figures(judged: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    if not drawn:
        return ""
    captions = {
        "reliability": "On the line, it is right as often as it says. Below it, it is too sure.",
        "confusion": _caption_of_confusion(judged),
        "classes": "With the 95 % interval of as many examples as the class has.",
    }
    shown = (_figure(drawn[name], caption, number) for number, (name, caption) in enumerate(captions.items()))
    harder = ""
    if "robustness" in drawn:
        caption = "The same examples, made harder; the band is the 95 % interval. At 0 they are as they were."
        shown_wide = wide_figure(svg(drawn["robustness"], len(captions)), caption)
        harder = f"<section><h2>Made harder</h2>{shown_wide}</section>"
    return f"<section class=figures>{''.join(shown)}</section>{harder}"


def _figure(figure: Any, caption: str, number: int) -> str:
    return f"<figure>{svg(figure, number)}<figcaption>{_text(caption)}</figcaption></figure>"


def wide_figure(shown: str, caption: str) -> str:
    """A figure over the whole width, which on a phone is moved sideways."""
    inside = f"<div class=scroll><div>{shown}</div></div>"
    return f"<figure class=wide-figure>{inside}<figcaption>{_text(caption)}</figcaption></figure>"


def _caption_of_confusion(judged: Mapping[str, Any]) -> str:
    found = np.asarray(judged["confusion"])
    np.fill_diagonal(found := found.copy(), 0)
    if not found.any():
        return "There is no mistake."
    i, j = np.unravel_index(found.argmax(), found.shape)
    names = [row["name"] for row in judged["classes"]]
    hidden = len(names) - draw.CLASSES_DRAWN
    more = f" Of {len(names)} classes, those told worst." if hidden > 0 else ""
    if found.max() == 1:
        return f"No mistake was made twice.{more}"
    return f"Most often, {found[i, j]:,} times, {names[i]} was taken for {names[j]}.{more}"


def _gallery(judged: Mapping[str, Any], inputs: Mapping[int, np.ndarray], kind: str, maximum: float | None) -> str:
    parts = []
    for title, name, said in (
        ("Most confidently wrong", "confidently_wrong", "Wrong, and the surest of it first."),
        ("Hardest", "hardest", "Those whose true class surprises it most, right or wrong."),
    ):
        rows = judged.get(name, [])
        if rows and inputs:
            shown = "".join(_example(row, inputs[row["example"]], kind, maximum) for row in rows)
            parts.append(
                f"<section><h2>{title}</h2><p class=quiet>{said}</p><div class=gallery>{shown}</div></section>"
            )
    return "".join(parts)


def _example(row: Mapping[str, Any], raw: np.ndarray, kind: str, maximum: float | None) -> str:
    right = row["label"] == row["predicted"]
    told = f"<b>{_text(row['label'])}</b>, {'and' if right else 'but'} says {_text(row['predicted'])}"
    sure = f"{percent(row['probability'])} sure"
    own = "" if right else f"; {percent(row['probability_of_label'])} for {_text(row['label'])}"
    number = f"<br><span class=quiet>example {row['example']:,}</span>"
    unbroken = f"{sure}{own}".replace(" %", "\u00a0%")
    return f"<figure>{show(raw, kind, maximum)}<figcaption>{told}<br>{unbroken}{number}</figcaption></figure>"


def show(raw: np.ndarray, kind: str, maximum: float | None) -> str:
    """A raw example as HTML: a picture, a text, a curve, or its numbers."""
    if kind == "bytes":
        text = bytes(int(token) for token in raw.ravel() if 0 < token < 256).decode(errors="replace")
        return f"<pre>{_text(text)}</pre>"
    if kind == "image" and raw.ndim == 3:
        return f'<img alt="" src="{picture_uri(raw, maximum)}">'
    if raw.ndim == 2 and np.issubdtype(raw.dtype, np.floating):
        return _curve(raw[:, 0])
    numbers = ", ".join(f"{float(value):.3g}" for value in raw.ravel()[:40])
    return f"<pre>{_text(numbers)}{' ...' if raw.size > 40 else ''}</pre>"


def _curve(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    at = (values - low) / ((high - low) or 1)
    points = " ".join(f"{100 * i / max(1, len(at) - 1):.1f},{49 - 48 * y:.1f}" for i, y in enumerate(at))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width=".8"/>'
    return f'<svg viewBox="0 0 100 50" role="img" aria-label="a signal">{line}</svg>'


def picture_uri(raw: np.ndarray, maximum: float | None) -> str:
    """A picture (height, width, features) as a PNG within the page; without colours its first feature."""
    from PIL import Image

    low, high = (0.0, maximum) if maximum is not None else (float(raw.min()), float(raw.max()))
    grey = np.clip((raw.astype(np.float64) - low) / ((high - low) or 1), 0, 1) * 255
    pixels = np.rint(grey).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# ---------------------------------------------------------------------------------------------------------------------


def _classes(judged: Mapping[str, Any]) -> str:
    rows = [
        page.row(
            [
                page.cell(row["name"]),
                page.cell(f"{row['examples']:,}", row["examples"]),
                page.cell(percent(row["recall"]), row["recall"]),
                page.cell(f"{percent(row['low'])} to {percent(row['high'])}"),
                page.cell(percent(row["precision"]), row["precision"]),
                page.cell(percent(row["f1"]), row["f1"]),
            ]
        )
        for row in judged["classes"]
    ]
    titles = ["class", "#examples", "#right (recall)", "95 % interval", "#precision", "#F1"]
    return f"<section><h2>Classes</h2>{page.table('classes', titles, rows)}</section>"


def _all_figures(judged: Mapping[str, Any]) -> str:
    rows = []
    for name, value in judged["figures"].items():
        low, high = judged["intervals"].get(name, (None, None))
        between = "" if low is None else f"{low:.4g} to {high:.4g}"
        told = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        rows.append(
            page.row([page.cell(name), page.cell(told, value), page.cell(between), page.cell(WORDS.get(name, ""))])
        )
    said = "By these names a figure can be asked for, and a decision made to depend on it."
    titles = ["figure", "#value", "95 % interval", "what it is"]
    return f"<section><h2>Every figure</h2><p class=quiet>{said}</p>{page.table('figures', titles, rows)}</section>"


def _method(judged: Mapping[str, Any]) -> str:
    told = [
        "Intervals hold in 95 of 100 cases, over other examples of the same kind: examples were drawn anew "
        f"{RESAMPLES:,} times with replacement. Of shares, one example that is right and one that is wrong take part "
        "in the drawing, so that no interval is of no width. They do not tell of other seeds: another run of the same "
        "config would differ."
    ]
    if "reliability" in judged:
        told.append(
            f"The calibration error is the mean gap over {len(judged['reliability'])} bins of equal width by the "
            "probability of what is predicted (Guo et al., 2017). Chance alone makes it more than 0, so its "
            "interval is mirrored about it."
        )
    if judged.get("harder"):
        ways = "; ".join(f"{way['name']} in {way['per']}" for way in judged["harder"])
        told.append(f"Made harder: {ways}. Every random choice follows from the example's place in the split.")
    if "against" in judged:
        told.append("Two runs are compared on the same examples by McNemar's exact test, two-sided.")
    return f"<section class=method><h2>Method</h2>{''.join(f'<p>{_text(each)}</p>' for each in told)}</section>"
