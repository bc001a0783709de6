"""The page in a real browser: screenshots that show something, figures that are neither empty nor cut."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from html import unescape

import pandas as pd
import pytest
from PIL import Image

from tests.results.test_report import PUBLISHED, SCORES, study_of
from vlp_bench.results.report import figures, gallery, page

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("VLP_BENCH_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = {"phone": 390, "desktop": 1100}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser (VLP_BENCH_BROWSER or {', '.join(NAMES)})"),
]

MEASURE = """<script>
const found = [...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.viewBox.baseVal, size = svg.getBoundingClientRect(), marks = [];
  for (const mark of svg.querySelectorAll("text, image, path, use")) {
    if (mark.closest("defs, clipPath")) continue;
    const r = mark.getBoundingClientRect();
    if (mark.tagName === "text")
      marks.push([r.left - size.left, r.top - size.top, r.right - size.left, r.bottom - size.top]);
  }
  return {name: svg.closest("figure").id, width: size.width, height: size.height, texts: marks,
          drawn: svg.querySelectorAll("path, use, image").length};
});
const page = {figures: found, scroll: document.documentElement.scrollWidth, inner: window.innerWidth,
  ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor};
const out = document.createElement("pre"); out.id = "measured"; out.textContent = JSON.stringify(page);
document.body.append(out);
</script></body>"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    exhibit = gallery.Exhibit(gallery.data_uri(Image.new("RGB", (48, 48), "red")), "a red ring", "a ring", "a square")
    chapter = page.chapter(study_of(root), PUBLISHED, baseline="omp", scores=SCORES,
                           galleries=[page.Gallery("dense", "omp", [exhibit] * 3)])  # fmt: skip
    page.write(root, page.files("A title", [chapter], "omp"))
    return root / "index.html"


def browse(*words):
    quiet = ("quic", "background-networking", "component-update", "sync")  # it asks nobody for anything
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000",
             "--no-first-run", *(f"--disable-{what}" for what in quiet)]  # fmt: skip
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [BROWSER, *fixed, f"--user-data-dir={profile}", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_figures_are_whole_and_the_page_fits(html, width):
    measuring = html.with_name("measured.html")
    measuring.write_text(html.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    dom = browse(f"--window-size={width},2000", "--dump-dom", measuring.as_uri())
    measured = json.loads(unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert measured["scroll"] <= measured["inner"]  # what is wide scrolls in its own box
    assert len(measured["figures"]) == 9
    for figure in measured["figures"]:
        assert_whole(figure)
        assert figure["width"] <= width  # of as few pruners: no legend is beside the screen


def assert_whole(figure):
    assert figure["width"] > 300, figure["name"]
    assert figure["drawn"] >= 8, figure["name"]
    for left, top, right, bottom in figure["texts"]:
        assert -1 <= left <= right <= figure["width"] + 1, figure["name"]
        assert -1 <= top <= bottom <= figure["height"] + 1, figure["name"]


def test_the_legend_of_many_pruners_is_not_cut(tmp_path):
    names = ["dense", "multiflow_edges", "ecoflap (solve=SparseGPT)", *(f"pruner {i}" for i in range(8))]
    lines = [{"pruner": n, "sparsity": s, "metric": "accuracy"} for n in names for s in (0.63, 0.9)]
    table = pd.DataFrame(lines).assign(mean=1.0, low=0.5, high=1.5)
    svg = figures.curves("many", table, names, ["accuracy"])
    file = tmp_path / "figure.html"
    file.write_text(f"<!doctype html><body><figure id='many'>{svg}</figure>{MEASURE}", encoding="utf-8")
    dom = browse("--window-size=1100,2000", "--dump-dom", file.as_uri())
    [figure] = json.loads(unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)[1]))["figures"]
    assert len(figure["texts"]) > len(names)
    assert_whole(figure)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_screenshots_show_text_on_paper_in_light_and_dark(html, dark, tmp_path):
    shown = html.read_text(encoding="utf-8")
    if dark:  # what the browser does for someone who prefers it
        shown = shown.replace("@media (prefers-color-scheme: dark)", "@media screen")
    file = html.with_name("shown.html")
    file.write_text(shown, encoding="utf-8")
    shot = tmp_path / "shot.png"
    browse("--window-size=1100,3000", f"--screenshot={shot}", file.as_uri())
    grey = Image.open(shot).convert("L")
    paper = grey.getpixel((2, 2))
    assert (paper < 60) == dark
    for top in range(0, 2000, 500):  # every half screen shows something
        low, high = grey.crop((0, top, 1100, top + 500)).getextrema()
        assert high - low > 100, top


def test_print_opens_what_is_folded(html, tmp_path):
    pdf = tmp_path / "page.pdf"
    browse("--no-pdf-header-footer", f"--print-to-pdf={pdf}", html.as_uri())
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size > 20_000
