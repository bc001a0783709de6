"""Tables: numbers worked out by hand."""

import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from tests.results.test_row import ORIGIN, row
from vlp_bench.pruning.solution import TableRow
from vlp_bench.results import tables
from vlp_bench.results.palette import looks
from vlp_bench.results.plot import plot_against, plot_grids, plot_pairs, plot_panels, plot_sparsity
from vlp_bench.results.store import Store


def shown(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def cells(line):
    return line.split()


@pytest.fixture
def store(tmp_path):
    """Dense 80, OMP 60, 62, 64 at 0.9 over three seeds, LAMP 70, SNIP failed; another setting beside."""
    store = Store(tmp_path)

    def add(run, value, **columns):
        store.append(run, [row(run=run, value=value, metric="txt_r1", provenance=ORIGIN, **columns)])

    add("d0", 80.0, pruner="dense", sparsity=0.0, seed=0, setting="s0")
    for seed, value in enumerate((60.0, 62.0, 64.0)):
        add(f"o{seed}", value, pruner="omp", sparsity=0.9, seed=seed, setting=f"s{seed}")
    add("l0", 70.0, pruner="lamp", sparsity=0.9, seed=0, setting="s0")
    add("x0", math.nan, pruner="snip", sparsity=0.9, seed=0, setting="s0", status="ERR", message="lost")
    add("other", 1.0, pruner="dense", sparsity=0.0, seed=0, setting="another recipe")
    return store


def identity(run, pruner, sparsity=0.9, seed=0):
    return {"run": run, "pruner": pruner, "sparsity": sparsity, "seed": seed, "setting": f"s{seed}"}


def test_the_change_is_against_dense_and_omp_of_the_same_setting(store):
    frame = store.query()
    line = next(
        line for line in shown(tables.metrics_table(frame, identity("l0", "lamp"))).splitlines() if "txt_r1" in line
    )
    assert cells(line) == ["txt_r1", "70.00", "80.00", "-10.00", "60.00", "+10.00"]
    assert tables.missing_references(frame, identity("l0", "lamp")) == []


def test_a_missing_reference_is_named(store):
    frame = store.query()
    assert tables.missing_references(frame, identity("o1", "omp", seed=1)) == ["dense"]
    assert tables.missing_references(frame, identity("l", "lamp", sparsity=0.5)) == ["omp"]
    assert tables.missing_references(frame, identity("d0", "dense", sparsity=0.0)) == []
    line = next(
        line for line in shown(tables.metrics_table(frame, identity("o1", "omp", seed=1))).splitlines() if "txt" in line
    )
    assert cells(line) == ["txt_r1", "62.00"]


def test_mean_and_deviation_over_seeds(store):
    table = tables.spread(store.query(), ["txt_r1"])
    assert tables.cell(table, "omp", 0.9, "txt_r1") == "62.00 ± 2.00"  # ddof 1: sqrt((4 + 0 + 4) / 2)
    assert tables.cell(table, "lamp", 0.9, "txt_r1") == "70.00 (1 seed)"  # OMP has three
    assert tables.cell(table, "snip", 0.9, "txt_r1") == "ERR"
    assert tables.cell(table, "omp", 0.5, "txt_r1") == "–"


@pytest.mark.parametrize(
    "std, seeds, most, text",
    [
        (1.5, 3, 3, "7.00 ± 1.50"),
        (float("nan"), 1, 1, "7.00"),
        (0.0, 3, 3, "7.00 ± –"),
        (0.5, 2, 3, "7.00 ± 0.50 (2 seeds)"),
    ],
)
def test_a_spread_is_said_where_there_is_one_and_fewer_seeds_are_marked(std, seeds, most, text):
    assert tables.mean_and_spread(7.0, std, seeds, most) == text


def test_a_failed_seed_is_counted_beside_the_others(store):
    failed = row(run="o3", pruner="omp", seed=3, setting="s3", value=math.nan, status="ERR", provenance=ORIGIN)
    store.append("o3", [failed])
    table = tables.spread(store.query(), ["txt_r1"])
    assert tables.cell(table, "omp", 0.9, "txt_r1") == "62.00 ± 2.00 (1 ERR)"


def test_dense_stands_in_every_column(store):
    frame = store.query()
    rows = tables.comparison(
        tables.spread(frame[frame["setting"] != "another recipe"], ["txt_r1"]), ["dense", "omp"], [0.5, 0.9], "txt_r1"
    )
    assert rows == [["pruner", "50 %", "90 %"], ["dense", "80.00", "80.00"], ["omp", "–", "62.00 ± 2.00"]]
    assert tables.markdown(rows).splitlines()[1] == "| --- | ---: | ---: |"
    assert tables.markdown(rows).splitlines()[3] == "| omp | – | 62.00 ± 2.00 |"
    assert "62.00 ± 2.00" in shown(tables.text_table(rows))


def test_the_sparsity_table_shows_blocks_and_sums():
    rows = [TableRow("vision", "b0", 1, 4), TableRow("vision", "", 1, 4), TableRow("", "", 250, 1000)]
    lines = [cells(line) for line in shown(tables.sparsity_table(rows)).splitlines()]
    assert ["vision", "b0", "4", "1", "75.00", "%"] in lines
    assert ["vision", "all", "4", "1", "75.00", "%"] in lines
    assert ["all", "1,000", "250", "75.00", "%"] in lines


def test_the_plot_is_an_image_and_a_drawing(store, tmp_path):
    files = [tmp_path / "plot.png", tmp_path / "plot.svg"]
    table = tables.spread(store.query(), ["txt_r1"])
    plot_sparsity(table, ["dense", "omp", "lamp", "snip", "wanda"], ["txt_r1"], "a title", files)
    with Image.open(files[0]) as image:
        assert image.size[0] > 400
    assert ET.parse(files[1]).getroot().tag.endswith("svg")
    again = tmp_path / "again.svg"
    plot_sparsity(table, ["dense", "omp", "lamp", "snip", "wanda"], ["txt_r1"], "a title", [again])
    assert again.read_bytes() == files[1].read_bytes()
    two = {"left": table, "right": table}
    plot_panels(two, ["dense", "omp", "random"], "a title", [again])
    told = again.read_text(encoding="utf-8")
    # a legend for all panels, of what was run
    assert [told.count(f"<!-- {name} -->") for name in ("left", "right", "omp", "random")] == [1, 1, 1, 0]


def test_metrics_of_any_task_are_listed_the_known_ones_first():
    own = ["asks/how many", "majority", "accuracy", "cider", "itc_txt_r1", "itc_txt_r5", "txt_r1", "img_r_mean"]
    assert tables.shown(own) == ["txt_r1", "itc_txt_r1", "accuracy", "majority", "cider", "asks/how many"]


def test_names_with_dollars_are_no_formulas(tmp_path):
    rows = {"pruner": ["a$x_1$", "b$"], "sparsity": [0.5, 0.5], "metric": ["m$^"] * 2, "mean": [1.0, 2.0]}
    table = pd.DataFrame(rows | {"std": [float("nan"), 0.0]})
    plot_sparsity(table, ["a$x_1$", "b$"], ["m$^"], "costs $1 or $2^", [tmp_path / "plot.svg"])
    said = (tmp_path / "plot.svg").read_text()
    assert all(text in said for text in ("a$x_1$", "b$", "m$^", "costs $1 or $2^"))


def test_pairs_have_a_line_from_the_open_to_the_filled_value_and_leave_out_what_is_missing(tmp_path):
    table = pd.DataFrame({"before": [10.0, 20.0, np.nan], "after": [30.0, 20.0, 40.0]}, ["a × $b$", "c", "d"])
    plot_pairs({"one": table, "other": table[::-1]}, "a title", [tmp_path / "pairs.svg"])
    drawn = (tmp_path / "pairs.svg").read_text()
    said = re.findall(r"<!-- (.*?) -->", drawn)
    assert [said.count(text) for text in ("a × $b$", "c", "d", "one", "before", "after")] == [2, 2, 2, 1, 1, 1]
    panel = re.search(r'<g id="axes_1">(.*?)<g id="axes_2">', drawn, re.DOTALL)[1]  # pyright: ignore
    dots = [re.findall(r"<use ", own) for own in re.findall(r'<g id="PathCollection_\d">(.*?)</g>\s*</g>', panel, re.S)]
    assert [len(own) for own in dots] == [2, 3]


def test_points_are_open_or_filled_by_their_kind_and_coloured_by_their_method(tmp_path):
    rows = [(1.0, 80.0, "omp", False), (10.0, 20.0, "wanda", False), (5.0, 60.0, "wanda", True)]
    table = pd.DataFrame(rows, columns=["x", "y", "method", "filled"])
    plot_against({"one\nR@1": table, "other\nR@1": table[:2]}, "a title", [tmp_path / "points.svg"], "lost (%)")
    drawn = (tmp_path / "points.svg").read_text()
    said = re.findall(r"<!-- (.*?) -->", drawn)
    assert [said.count(text) for text in ("omp", "wanda", "lost (%)", "R@1", "10")] == [1, 1, 2, 2, 2]
    panel = re.search(r'<g id="axes_1">(.*?)<g id="axes_2">', drawn, re.DOTALL)[1]  # pyright: ignore
    dots = re.findall(r'<use [^>]*style="(fill: #\w+|fill: white)?;? ?stroke: (#\w+)', panel)
    colours = {name: look.colour for name, look in looks(["omp", "wanda"]).items()}
    assert {edge for _, edge in dots} >= set(colours.values())
    assert any(face == f"fill: {colours['wanda']}" for face, _ in dots)
    assert not any(face == f"fill: {colours['omp']}" for face, _ in dots)


def test_heat_maps_stand_three_side_by_side_and_show_every_number_there_is(tmp_path):
    grids = {
        f"grid {number}": pd.DataFrame([[number + 0.1, np.nan], [number + 0.3, 9.5]], ["a", "b"], ["x", "y"])
        for number in range(1, 6)
    }
    plot_grids(grids, "a title", [tmp_path / "grids.svg"], "down / across")
    drawn = (tmp_path / "grids.svg").read_text()
    said = re.findall(r"<!-- (.*?) -->", drawn)
    assert [said.count(f"grid {number}") for number in range(1, 6)] == [1] * 5
    assert [said.count(f"{number}.1") for number in range(1, 6)] == [1] * 5
    assert (said.count("9.5"), said.count("down"), said.count("nan")) == (5, 5, 0)
    places = [tuple(map(float, at)) for at in re.findall(r"<image [^>]*?x=\"([\d.]+)\" y=\"-?([\d.]+)\"", drawn)]
    assert len(places) == 5
    assert len({round(x) for x, _ in places}) == 3
