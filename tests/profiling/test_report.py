"""The report: one file that opens offline, says what was measured and what was not, and sorts in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from records import record, row

from ranvier.profiling import record as records
from ranvier.profiling import report
from ranvier.profiling.record import Error, Missing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: chromium)")


class Page(HTMLParser):
    """A page's tags, its text, and the rows of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.rows, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1] and self.tags[-1][0] in ("td", "th", "button", "line"):
            self.rows[-1][-1] += data


def some_rows():
    return [
        row(case="big", median=3e-3),
        row(case="big", variant="pytorch", median=1.5e-3),
        row(case="small", median=20e-6),
        row(case="small", variant="pytorch", median=40e-6),
        row("add", "flat", flops=0, median=0.5e-3),
    ]


def test_the_page_names_machine_versions_command_and_figures(tmp_path):
    made = record(*some_rows())
    records.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path / "rows.jsonl", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    for expected in (
        "Test & Co <processor>",
        "ranvier profile conv2d",
        "0.1.0",
        "10 GB/s",
        "100 GFLOP/s",
        "2026-01-02",
    ):
        assert expected in page.text, expected
    _, big, peer, small, _, add = page.rows
    assert big[:6] == ["conv2d", "big", "float32", "forward", "ranvier", "3 ms"]
    assert big[7:] == ["3.33 G", "333 M", "10", "3%", "compute", "0.50x"]
    assert small[12] == "2.00x"
    assert peer[12] == add[12].strip() == ""
    assert "1.00x" in page.text  # the geometric mean of a half and two


def test_ratios_are_coloured_and_bars_drawn_on_one_scale():
    page = report.page(record(*some_rows()))
    assert re.search(r'class="slower">0\.50x<', page)
    assert re.search(r'class="faster">2\.00x<', page)
    boxes = re.findall(r'<rect x="([\d.]+)" y="2" height="8" width="([\d.]+)"', page)
    # Samples lie evenly from half the median to one and a half; 90 % of the slowest variant's is the scale.
    assert [float(x) for x in boxes[0]] == pytest.approx([100 * 0.75 / 1.4, 100 * 0.5 / 1.4], abs=0.01)
    assert [float(x) for x in boxes[1]] == pytest.approx([50 * 0.75 / 1.4, 50 * 0.5 / 1.4], abs=0.01)


def test_nothing_is_fetched_from_anywhere():
    page = Page(report.page(record(*some_rows())))
    kinds = {tag for tag, _ in page.tags}
    assert {"svg", "table", "style", "script"} <= kinds
    assert not {"link", "img", "iframe", "object", "base", "form"} & kinds
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert attributes.get("xlink:href", attributes.get("href", "#")).startswith("#")
    assert "@import" not in report.page(record(*some_rows()))


def test_what_is_missing_or_failed_is_named():
    errors = [Error("conv2d", "big", "float32", "backward", "pytorch", "off by 3")]
    page = Page(report.page(record(*some_rows(), missing=(Missing("cupy", "no GPU"),), errors=errors)))
    assert "cupy is missing: no GPU" in page.text
    assert "pytorch was not timed on conv2d big, float32 backward: off by 3" in page.text


def test_names_from_the_file_cannot_write_html():
    hostile = "<script>alert(1)</script>\"'&"
    made = record(
        row(hostile, hostile, hostile, shapes=hostile, dtype=hostile, configuration=hostile, group=hostile),
        missing=(Missing(hostile, hostile),),
        errors=[Error(*[hostile] * 6)],
    )
    made.run["device"] = {"name": hostile, hostile: hostile}
    made.run["versions"][hostile] = made.run["command"] = hostile
    text = report.page(made)
    assert text.count("<script>") == 1
    assert "alert(1)" in text
    assert len([tag for tag, _ in Page(text).tags if tag == "script"]) == 1


def test_without_drawable_rows_or_peers_the_page_says_so():
    page = Page(report.page(record(row(flops=0))))
    assert "nothing to draw" in page.text
    assert "No peer was measured" in page.text


def test_a_file_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1"):
        report.write(tmp_path / "rows.jsonl", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def opened(path, address: str = "") -> Page:
    """The page after a browser has run it."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{path}{address}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return Page(result.stdout)


def cases(page: Page) -> list[str]:
    return [cells[1] + " " + cells[4] for cells in page.rows[1:]]


@needs_browser
def test_an_address_sorts_in_a_browser(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(report.page(record(*some_rows())), encoding="utf-8")
    assert cases(opened(path))[0] == "big ranvier"
    down = opened(path, "#kernel-5-descending")
    assert cases(down) == ["big ranvier", "big pytorch", "flat ranvier", "small pytorch", "small ranvier"]
    assert {"aria-sort": "descending", "scope": "col", "data-kind": "number"} in [a for t, a in down.tags if t == "th"]


@needs_browser
def test_clicks_sort_and_turn_the_order_with_empty_cells_last(tmp_path):
    path, page = tmp_path / "page.html", report.page(record(*some_rows()))
    head = "document.querySelectorAll('th')[12].click();"
    for clicks, expected in ((1, ["big ranvier", "small ranvier"]), (2, ["small ranvier", "big ranvier"])):
        path.write_text(page.replace("</body>", f"<script>{head * clicks}</script></body>"), encoding="utf-8")
        order = cases(opened(path))
        assert order[:2] == expected
        assert len(order) == 5
