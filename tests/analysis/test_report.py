"""The page needs nothing else, holds everything once, and does in a browser what it says."""

import html.parser
import importlib
import json
import re
import shutil
import subprocess

import pytest

from research.analysis.report import NEEDED, report

VOID = {"meta", "input", "br", "path", "use", "link"}


class Page(html.parser.HTMLParser):
    """Checks that what is opened is closed, and keeps what is asked for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.loaded = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        about = dict(attributes)
        self.tags.append(tag)
        if "id" in about:
            self.ids.append(about["id"])
        self.loaded += [about[name] for name in ("src", "href", "xlink:href") if name in about]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(world):
    text = report(world.sweep(world.by_field(), examples=300))
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(each.startswith("#") for each in page.loaded)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "http" not in text.replace("http://www.w3.org", "")


def test_the_verdict_is_on_top_and_figures_and_tables_follow(world):
    text = report(world.sweep(world.by_field(), examples=300))
    places = [
        text.index(part)
        for part in ("class=verdict", "Depth 5 (convolutions 4) is", "<svg", "id=networks", "id=trials")
    ]
    assert places == sorted(places)
    for title in (
        "Test accuracy by depth",
        "Training and test loss by depth",
        "Test accuracy against cost",
        "What mattered",
    ):
        assert f'aria-label="{title}"' in text
    assert text.count("<tbody") == 5 + 30 + 25


def test_figures_are_drawn_in_the_ink_of_the_page(world):
    text = report(world.sweep(world.by_field(), examples=300))
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert "currentColor" in drawn
    assert not re.search(r"(fill|stroke): #(0{6}|010203|f{6})", drawn)
    assert "Test accuracy by depth</text>" in drawn  # text is text


def test_the_common_config_is_there_once_however_many_trials_there_are(world):
    folder = world.sweep(world.by_field(), examples=300)
    told = json.loads((folder / "sweep.json").read_text())
    told["plan"]["base"]["note"] = "a common field"
    (folder / "sweep.json").write_text(json.dumps(told))
    assert report(folder).count("a common field") == 1


def test_the_page_grows_with_the_trials_and_no_faster(world):
    few = world.sweep(world.by_field()[:2], "few", examples=20, rates=(0.001, 0.01), metrics=False)
    rates = tuple(0.001 + 0.0001 * i for i in range(100))
    many = world.sweep(world.by_field()[:2], "many", examples=20, rates=rates, metrics=False)
    shorter, longer = len(report(few)), len(report(many))
    assert (longer - shorter) / (4 * 98) < 1_200  # bytes a trial


def test_text_in_a_page_is_escaped(world):
    folder = world.sweep(world.by_field()[:2], examples=20)
    path = folder / "trials.jsonl"
    path.write_text(
        path.read_text().replace('"optimizer.learning_rate": 0.003', '"optimizer.learning_rate": "</script><b>"')
    )
    text = report(folder)
    assert "</script><b>" not in text
    assert text.count("</script>") == 2


def changed(folder, change):
    """The folder, with what `change` makes of the values of each trial."""
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    text = "".join(f"{json.dumps(row | {'values': change(row)})}\n" for row in rows)
    (folder / "trials.jsonl").write_text(text)
    return folder


def test_draws_of_the_data_are_told_where_networks_are_compared_by_them(world):
    folder = world.sweep(world.by_field(), examples=300)
    before = report(folder)
    assert "paired over examples." in before and "draw by draw" not in before
    after = report(changed(folder, lambda row: row["values"] | {"data.seed": row["values"]["seed"]}))
    assert "paired over examples and draws of the data." in after and "their differences draw by draw" in after
    assert "chance in the seed" in after and "seed explains" not in after


def test_what_a_name_says_has_no_column_of_its_own(world):
    folder = world.sweep([world.truth(4, 0.9), world.truth(5, 0.95)], examples=300)
    kinds = ("none", "Finetuning(source glyphs)")

    def titles(name):
        """Those of the table of trials, where each program has a kind, and `name` makes a name of a row."""
        page = report(changed(folder, lambda row: {"name": name(row), "kind": kinds[row["program"]]}))
        head = page[page.index("<table id=trials>") :].partition("</thead>")[0]
        return re.findall(r"<button>(.*?)</button>", head)

    assert {"name", "kind"} & set(titles(lambda row: "ab"[row["program"]])) == {"name"}
    assert {"name", "kind"} <= set(titles(lambda row: "abc"[row["trial"] % 3]))


def test_trials_that_failed_say_why(world):
    folder = world.sweep(world.by_field()[:2], examples=20)
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {
        "status": "failed",
        "validation": None,
        "test": None,
        "train": None,
        "problems": ["<4 pixels are left>"],
    }
    rows[1] |= {"status": "not finite", "validation": None, "test": None, "train": None}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    text = report(folder)
    assert "&lt;4 pixels are left&gt;" in text
    assert "1 not finite; 1 failed" in text


def test_a_page_is_made_of_whatever_is_there(world):
    folder = world.sweep(world.by_field(), "bare", fresh=False, kept=False, metrics=False)
    assert "Without trials on fresh seeds" in report(folder)
    (folder / "summary.json").unlink()
    assert "Without trials on fresh seeds" in report(folder)
    (folder / "sweep.json").unlink()
    text = report(folder)
    assert "Nothing can be said of depth" in text
    assert "id=trials" in text and "id=networks" not in text
    one = world.sweep([world.truth(5, 0.9)], "one", rates=(0.01,), seeds=1)
    assert "there is but one" in report(one)


DRIVE = """<script>{
const told = {}, rows = () => [...document.querySelectorAll("#trials tbody")].filter(b => !b.hidden)
  .map(b => Number(b.rows[0].cells[0].textContent));
told.all = rows();
const title = [...document.querySelectorAll("#trials th button")].find(b => b.textContent === "test accuracy");
title.click(); told.ascending = rows(); title.click(); told.descending = rows();
const filter = document.getElementById("filter");
filter.value = "JUDGEMENT 1001"; filter.dispatchEvent(new Event("input")); told.filtered = rows();
told.shown = document.getElementById("shown").textContent;
const body = document.querySelector("#trials tbody[data-trial='0']"), more = body.querySelector(".more");
filter.value = ""; filter.dispatchEvent(new Event("input"));
told.before = getComputedStyle(more).display;
body.querySelector("details").open = true;
setTimeout(() => {
  told.after = getComputedStyle(more).display; told.config = more.innerText;
  told.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const place = document.createElement("pre");
  place.textContent = `<<${JSON.stringify(told)}>>`;
  document.body.append(place);
}, 200);
}</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no browser")
def test_in_a_browser_trials_are_sorted_filtered_and_opened(world, tmp_path):
    folder = world.sweep(world.by_field(), examples=300)
    page = tmp_path / "page.html"
    page.write_text(report(folder).replace("</body>", DRIVE))
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    flags += f" disable-component-update user-data-dir={tmp_path / 'browser'} window-size=500,900"
    command = ["chromium", *(f"--{flag}" for flag in flags.split()), "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    told = json.loads(html.unescape(re.search(r"&lt;&lt;(.*?)&gt;&gt;", done.stdout)[1]))
    rows = {row["trial"]: row for row in map(json.loads, (folder / "trials.jsonl").read_text().splitlines())}
    assert sorted(told["all"]) == sorted(rows)
    accuracies = [rows[trial]["test"]["accuracy"] for trial in told["ascending"]]
    assert accuracies == sorted(accuracies)
    accuracies = [rows[trial]["test"]["accuracy"] for trial in told["descending"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert sorted(told["filtered"]) == [i for i, row in rows.items() if row["values"]["seed"] == 1_001]
    assert told["shown"] == "5 of 55 trials"
    assert (told["before"], told["after"]) == ("none", "table-row")
    assert "model.features [16]" in told["config"]
    assert "optimizer.learning_rate 0.001" in told["config"]
    assert "convolutions 1 instead of" in told["config"]
    assert told["wide"] == 0


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_imported_ahead_is_there(name):  # what is not is passed over in silence
    assert importlib.import_module(name)
