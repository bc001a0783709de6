"""Colours: one for each method, dark enough on white, families apart with any colour vision."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from vlp_bench.results.palette import COLOURS, DENSE, FAMILIES, OTHERS, looks

PRUNERS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf/pruner").glob("*.yaml"))
VISION = {  # Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as it is seen
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    """sRGB '#rrggbb' -> linear red, green, blue in 0..1."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(XYZ[1] @ linear(colour))


def contrast_on_white(colour):
    return 1.05 / (luminance(colour) + 0.05)


def lab(rgb):
    """Linear RGB -> CIE L*a*b* (D65)."""
    xyz = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * 24389 / 27 / 116 + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_by_hand():
    assert contrast_on_white("#000000") == pytest.approx(21.0)
    assert contrast_on_white("#ffffff") == pytest.approx(1.0)
    assert contrast_on_white("#777777") == pytest.approx(4.48, abs=0.01)


def test_no_two_pruners_have_the_same_colour():
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert set(COLOURS) == set(PRUNERS) - {"dense"}  # each is in the family of what its scores are made of
    assert all(contrast_on_white(look.colour) >= 3.0 for look in looks([*PRUNERS, "mine"]).values())


@pytest.mark.parametrize("colour", [*COLOURS.values(), *OTHERS, DENSE])
def test_colours_are_seen_on_white(colour):
    assert contrast_on_white(colour) >= 3.0


@pytest.mark.parametrize("vision", VISION)
def test_the_first_of_every_family_is_told_from_the_others(vision):
    seen = [lab(VISION[vision] @ linear(next(iter(family.values())))) for family in FAMILIES.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 10  # 2.3 is just noticeable


def test_the_papers_own_method_is_not_pale():
    paler = [name for name in COLOURS if luminance(COLOURS[name]) > luminance(COLOURS["multiflow"])]
    assert len(paler) > len(COLOURS) / 2


def test_a_method_keeps_its_look_whatever_stands_beside_it():
    alone, among = looks(["lamp"]), looks(["dense", "omp", "mine", "lamp"])
    assert alone["lamp"] == among["lamp"]
    assert among["dense"].colour == DENSE
    assert among["mine"].colour in OTHERS


def test_a_method_of_ones_own_keeps_its_colour_whatever_stands_beside_it():
    alone, among = looks(["mine"]), looks(["ours", "lamp", "mine"])
    assert alone["mine"] == among["mine"]
    assert among["ours"].colour != among["mine"].colour


def test_methods_of_ones_own_differ_in_colour_and_then_in_mark():
    names = [f"mine{number}" for number in range(2 * len(OTHERS))]
    found = list(looks(names).values())
    assert len({look.colour for look in found[: len(OTHERS)]}) == len(OTHERS)
    assert len(set(found)) == len(names)


def test_options_keep_the_colour_and_change_the_mark():
    kept, other = looks(["ecoflap (solve=KeepTop)", "ecoflap (solve=SparseGPT)"]).values()
    assert kept.colour == other.colour == COLOURS["ecoflap"]
    assert kept.marker != other.marker
