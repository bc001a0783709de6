"""The one place that knows how a pruner looks: its colour and mark, the same in every figure.

Methods of one family share a hue. Families can be told apart with any colour vision, and every colour has a contrast of
at least 3:1 on white (WCAG 2.2, graphical objects).
"""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MARKERS = "osD^vP*X<>"
FAMILIES = {  # the deepest colours go to what is compared most
    "chance": {"random": "#929292"},
    "magnitude": {
        "omp": "#1b7fc4", "lamp": "#0b4f8a", "l2": "#4f93d8", "lmp": "#0b3c6f", "erk": "#0a497f", "ri": "#3664a1",
        "magnitude_sp": "#143552",
    },
    "gradient": {
        "snip": "#006b4a", "itersnip": "#2c9160", "fisher": "#4f9a2f", "obd": "#2f6b12", "force": "#1f7a4d",
        "gblm": "#3d8a2e", "pruner_zero": "#115f4c",
    },
    "second order": {
        "chita": "#5e2a97", "chita_pp": "#3b1673", "sparsegpt": "#8d5bc4", "alps": "#541f7a", "thanos": "#8459c0",
    },
    "activation": {
        "wanda": "#b07b00", "ria": "#7a5600", "ecoflap": "#c47f1e", "ecoflap_first": "#945c12",
        "wanda_pp": "#885d07", "wanda_bias": "#875922", "wanda_sp": "#634d03", "owl": "#a56e1d", "dlp": "#674522",
        "alpha_pruning": "#825907", "tamp": "#825620", "tamp_equal": "#5d4802", "atv": "#a06b1c", "dsnot": "#634221",
        "flap": "#7c5507", "neuroal": "#7a4b12", "wanda_pp_ro": "#9a6a12",
    },
    "information flow": {
        "multiflow": "#b3122c", "multiflow_128": "#7d0a1d", "multiflow_edges": "#e0566b", "multiflow_nodes": "#d2404f",
        "multiflow_inverted": "#d9688a",
    },
    "trained masks": {"tamt": "#c2529e", "upop": "#a8468a"},
}  # fmt: skip
COLOURS = {name: colour for family in FAMILIES.values() for name, colour in family.items()}
OTHERS = ("#0f7f8c", "#6b3f2a", "#5a5a00", "#4a4a4a")
"""Of pruners that are not ours, by their name."""
DENSE = "#000000"


@dataclass(frozen=True)
class Look:
    """How a pruner is drawn: its colour (#rrggbb) and matplotlib's mark."""

    colour: str
    marker: str


def looks(pruners: Iterable[str], dense: str = DENSE) -> dict[str, Look]:
    """The look of every pruner of a figure, by its label; `dense` is the colour of the dense model.

    A label may say options behind the name, 'ecoflap (solve=SparseGPT)': it keeps its method's colour, and has another
    mark than the label before it.
    """
    found: dict[str, Look] = {}
    strangers: dict[str, str] = {}
    for label in pruners:
        name = label.partition(" (")[0].partition(", ")[0]
        if name not in COLOURS and name != "dense":
            strangers.setdefault(name, _stranger(name, strangers.values()))
        colour = ({"dense": dense} | COLOURS | strangers)[name]
        before = sum(look.colour == colour for look in found.values())
        found[label] = Look(colour, MARKERS[(_place(name) + before) % len(MARKERS)])
    return found


def _place(name: str) -> int:
    """Of a method in its family, so that methods alike in colour differ in their mark."""
    return next((list(family).index(name) for family in FAMILIES.values() if name in family), 0)


def _stranger(name: str, taken: Collection[str]) -> str:
    """The colour of a name that is not ours: its own in every figure, the next free one where another has that."""
    first = zlib.crc32(name.encode()) % len(OTHERS)
    turn = [*OTHERS[first:], *OTHERS[:first]]
    return next((colour for colour in turn if colour not in taken), turn[0])
