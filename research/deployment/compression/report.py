"""The page of a compression: what was kept, the picture, and every network with all of its figures."""

import base64
import html
from collections.abc import Mapping
from typing import Any

from research.analysis import page
from research.deployment.compression import figure
from research.deployment.compression.display import TITLES, cells, note
from research.deployment.compression.sentences import in_points, verdict

NUMBERS = {
    "file": "bytes",
    "smaller": "times_smaller",
    "plain smaller": "times_smaller_plain",
    "parameters": "parameters",
    "not 0": "nonzeros",
    "multiply-adds": "multiply_adds",
    "FLOPs": "flops",
    "ms": "milliseconds",
    "faster": "times_faster",
    "right": "accuracy",
    "lost": "lost",
}


def page_of(told: Mapping[str, Any]) -> str:
    """The page as HTML, with everything in it."""
    name = told["config"]["name"] or "compression"
    picture = base64.b64encode(figure.as_png(told)).decode()
    answer, *others = verdict(told)
    items = "".join(f"<li>{html.escape(line)}</li>" for line in others)
    source = told["source"]
    content = (
        f"<h1>{html.escape(name)}</h1><p class=quiet>{html.escape(source['path'])}, step {source['step']}; at most "
        f"{in_points(told['budget'])} of accuracy may be lost on the {told['split']} split</p>"
        f"<div class=verdict><p class=answer>{html.escape(answer)}</p><ul>{items}</ul></div>"
        f'<figure style="max-width:64rem"><img style="max-width:100%" alt="Accuracy by size, cost and time" '
        f'src="data:image/png;base64,{picture}"><figcaption>Bars are 95 % intervals over the examples. Blue keeps '
        f"within the budget, red does not.</figcaption></figure>"
        f"<h2>Networks</h2>{_table(told)}<p class=quiet>{html.escape(note(told))}</p>"
    )
    return page.page(name, content)


def _table(told: Mapping[str, Any]) -> str:
    titles = [f"#{title}" if title in NUMBERS else title for title in TITLES]
    rows = []
    for index, row in enumerate(told["rows"]):
        line = [
            page.cell(text, float(row[NUMBERS[title]]) if title in NUMBERS and text else None)
            for title, text in cells(row, is_first=index == 0).items()
        ]
        rows.append(page.row(line))
    return page.table("networks", titles, rows)
