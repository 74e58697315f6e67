"""The shell of a page: its style for screens, phones, the dark and paper; tables that sort, filter and unfold.

Every row of a table is a body of its own, so that what unfolds beneath a row moves with it. A row unfolds by the
`<details>` in its first cell and by style alone; the script sorts, filters, and fills in configs when they are opened.
"""

import html
from collections.abc import Sequence
from typing import Any

PRINTED = 60
"""Rows of a table that go to paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1d21; --quiet: #5c626b; --paper: #fff; --line: #dfe2e6; --soft: #f4f6f8;
  --accent: #1f6fb5; --good: #e9f2fb }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --quiet: #a2a8b2; --paper: #15171b; --line: #343840;
  --soft: #1d2026; --accent: #6fb0ee; --good: #1b2b3d } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 92rem; padding: 1.5rem clamp(.9rem, 3vw, 2.5rem) 3rem }
h1 { font-size: 1.35rem; line-height: 1.2; margin: 0 } h2 { font-size: 1.1rem; margin: 2.4rem 0 .3rem }
p { margin: .35rem 0 } .quiet { color: var(--quiet) } section > p { max-width: 60rem }
.verdict { background: var(--soft); border-left: 4px solid var(--accent); border-radius: 4px; margin: 1.1rem 0 1.6rem;
  padding: .9rem 1.2rem }
.verdict p, .verdict li { max-width: 62rem } .answer { font-size: 1.3rem; font-weight: 600; line-height: 1.35 }
.verdict ul { margin: .6rem 0 .2rem; padding-left: 1.1rem } .weak { color: var(--quiet) }
.figures { display: grid; gap: 1.6rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)) }
figure { margin: 0; max-width: 34rem; break-inside: avoid } figure svg { display: block; height: auto; width: 100% }
figcaption { color: var(--quiet); font-size: .87rem; margin-top: .3rem }
.wide { border-bottom: 1px solid var(--line); overflow-x: auto }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; min-width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .28rem .45rem; text-align: left; white-space: nowrap }
th { line-height: 1.25; vertical-align: bottom; white-space: normal } td.n, th.n { text-align: right }
th button { all: unset; color: var(--quiet); cursor: pointer; font-weight: 600; position: relative }
th button:focus-visible, summary:focus-visible, input:focus-visible { outline: 2px solid var(--accent) }
th button::after { bottom: 0; content: "\\2191"; position: absolute; right: -.8em; visibility: hidden }
th[aria-sort] button { color: var(--ink) }
th[aria-sort] button::after { visibility: visible } th[aria-sort=descending] button::after { content: "\\2193" }
tbody.best > tr:first-child { background: var(--good) } tbody:hover > tr:first-child { background: var(--soft) }
.mark { background: var(--accent); border-radius: 3px; color: var(--paper); font-size: .75rem; padding: .05rem .35rem }
summary { cursor: pointer } .more { display: none } tbody:has(details[open]) > .more { display: table-row }
.more td { background: var(--soft); white-space: normal } .more td > div { left: .5rem; max-width: min(60rem, 86vw);
  position: sticky } .config { columns: 22rem; font: .8rem/1.55 ui-monospace, monospace; margin-top: .4rem;
  overflow-wrap: anywhere } .config b { color: var(--accent) } .config div { break-inside: avoid }
input { background: var(--paper); border: 1px solid var(--line); border-radius: 4px; color: inherit; font: inherit;
  max-width: 100%; padding: .2rem .5rem; width: 16rem }
.paper { display: none } .method p { color: var(--quiet); font-size: .87rem }
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --paper: #fff; --line: #ccc; --soft: #f4f4f4;
    --accent: #1f6fb5; --good: #eef4fa }
  @page { margin: 12mm; size: landscape } body { font-size: 10pt; max-width: none; padding: 0 }
  .wide { overflow: visible } .paper { display: block }
  .figures { grid-template-columns: 1fr 1fr 1fr; gap: 4mm 7mm } label, #shown, th button::after { display: none }
  table { font-size: 7pt; min-width: 0 }
  th, td { padding: 1pt 3pt; white-space: normal } td.n { white-space: nowrap } .mark { font-size: 6pt }
  tr { break-inside: avoid } thead { break-inside: avoid; display: table-header-group } h2 { break-after: avoid }
  tbody:nth-of-type(n + PRINTED) { display: none } .verdict { border-left-width: 2pt }
}
""".replace("PRINTED", str(PRINTED + 1))

SCRIPT = """
const value = cell => cell.dataset.v ?? cell.textContent.trim();
const order = (a, b) => {
  if (a === "" || b === "") return null;
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b, undefined, {numeric: true}) : difference;
};
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const title = button.parentNode, table = title.closest("table"), column = title.cellIndex;
  const descending = title.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies].map(body => [value(body.rows[0].cells[column]), body]);
  rows.sort(([a], [b]) => order(a, b) === null ? (a === "") - (b === "") : order(a, b) * (descending ? -1 : 1));
  table.append(...rows.map(([, body]) => body));
});
const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const body of document.getElementById("trials").tBodies) {
    body.told ??= body.rows[0].textContent.toLowerCase();
    body.hidden = !words.every(word => body.told.includes(word));
    shown += !body.hidden;
  }
  document.getElementById("shown").textContent = `${shown.toLocaleString("en")} of ${filter.dataset.all} trials`;
});
const configs = JSON.parse(document.getElementById("configs")?.textContent ?? "null");
const flat = (value, path, told) => {
  if (Array.isArray(value) && value.some(item => item?.kind)) value = {...value};
  if (value === null || typeof value !== "object" || Array.isArray(value)) told.set(path, value);
  else for (const [name, item] of Object.entries(value))
    flat(item, name === "kind" ? path : path ? `${path}.${name}` : name, told);
  return told;
};
document.addEventListener("toggle", event => {
  const body = event.target.closest("#trials tbody"), place = body?.querySelector(".config");
  if (!place || place.childElementCount || !configs) return;
  const told = flat(configs.base ?? {}, "", new Map()), own = new Set();
  configs.paths.forEach((path, i) => {
    const value = configs.values[body.dataset.trial][i];
    if (value === null && !told.has(path)) return;
    for (const other of told.keys()) if (other.startsWith(`${path}.`)) told.delete(other);
    told.set(path, value);
    own.add(path);
  });
  for (const [path, value] of told) if (path) {
    const line = document.createElement("div");
    const text = `${path} ${typeof value === "string" ? value : JSON.stringify(value)}`;
    line.append(own.has(path) ? Object.assign(document.createElement("b"), {textContent: text}) : text);
    place.append(line);
  }
}, true);
"""


def page(title: str, content: str) -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{content}\n<script>{SCRIPT}</script></body></html>\n"
    )


def table(name: str, titles: Sequence[str], rows: Sequence[str]) -> str:
    """A table whose titles sort it. A title that begins with # is that of numbers, which are ranged right."""
    head = "".join(
        f"<th{' class=n' if title.startswith('#') else ''} scope=col>"
        f"<button>{html.escape(title.removeprefix('#'))}</button></th>"
        for title in titles
    )
    return f"<div class=wide><table id={name}><thead><tr>{head}</tr></thead>\n{''.join(rows)}</table></div>"


def cell(text: Any, value: Any = None, extra: str = "") -> str:
    """A cell that shows `text` (and HTML after it) and sorts by `value`, or by its text where that is None."""
    value = text if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    sorts = f' data-v="{value:.10g}"' if is_number and str(value) != str(text) else ""
    return f"<td{' class=n' if is_number else ''}{sorts}>{html.escape(str(text))}{extra}</td>"


def opener(text: Any) -> str:
    """A first cell that unfolds what is beneath its row."""
    return f"<td data-v={text}><details><summary>{html.escape(str(text))}</summary></details></td>"


def row(cells: Sequence[str], kind: str = "", more: str = "", about: str = "") -> str:
    """A row, of a kind that its style shows, with what unfolds beneath it; `about` are attributes more."""
    beneath = f"<tr class=more><td colspan={len(cells)}><div>{more}</div></td></tr>" if more else ""
    return f"<tbody{f' class={kind}' if kind else ''}{about}><tr>{''.join(cells)}</tr>{beneath}</tbody>\n"
