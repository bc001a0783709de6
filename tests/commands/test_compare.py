"""The comparison: its grid, its masks from one pass, its cells that are ordinary runs."""

import pytest

from vlp_bench.commands import compare
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.prune_once import load_mask, mask_file, scores_file
from vlp_bench.runs.run import Helpers, run
from vlp_bench.sweeps import comparison as cells
from vlp_bench.sweeps import comparison_worker as worker
from vlp_bench.sweeps.comparison import compute, prune
from vlp_bench.sweeps.grid import Grid
from vlp_bench.sweeps.specifications import missing, specifications


def test_the_default_grid_is_that_of_the_papers_table():
    found = Grid().cells()
    assert len(found) == 48  # 5 pruners x 3 sparsities x 3 seeds, and dense once per seed
    assert found.count(("dense", 0.0, 1)) == 1
    assert ("multiflow", 0.9, 2) in found


def test_a_grid_is_read_from_the_command_line():
    grid = Grid.parse(["+exp=xvlm_itr", "pruner=omp,lamp", "sparsity=0.5", "seed=[3,4]", "workers=1", "task.lr=1"])
    assert (grid.pruners, grid.sparsities, grid.seeds) == (("omp", "lamp"), (0.5,), (3, 4))
    assert grid.workers == 1
    assert grid.overrides == ("+exp=xvlm_itr", "task.lr=1")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sparsity=a", "sparsity=a"),
        ("seed=0.5", "seed=0.5"),
        ("workers=0", "workers=0"),
        ("pruner=omp,omp", "each once"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(word, said):
    with pytest.raises(ValueError, match=said):
        Grid.parse([word])


@pytest.mark.parametrize("key", ["pruner", "sparsity", "seed", "workers"])
def test_a_key_of_the_grid_that_stands_twice_is_refused(key):
    """The second took the place of the first, and its runs were never made."""
    with pytest.raises(ValueError, match=rf"^{key}=1 {key}=2: give {key} once, with commas"):
        Grid.parse([f"{key}=1", "+exp=xvlm_itr", f"{key}=2"])


@pytest.fixture
def grid(tiny):
    return Grid(("dense", "random", "omp", "multiflow"), (0.5, 0.9), (0, 1), 2, (*tiny, "recipe.epochs=0"))


def test_a_cell_is_the_run_of_the_single_command(grid, specified):
    found = {(c.choices["pruner"], c.config["sparsity"], c.config["seed"]): c for c in specifications(grid)}
    assert len(found) == 14
    alone = specified("recipe.epochs=0", "pruner=omp", "sparsity=0.5", "seed=1")
    assert found["omp", 0.5, 1].run == alone.run
    assert found["omp", 0.5, 1].folder == alone.folder


def test_an_unknown_pruner_is_refused_before_anything_is_computed(tiny):
    with pytest.raises(Exception, match="nosuch"):
        specifications(Grid(("nosuch",), (0.5,), (0,), 1, tuple(tiny)))


def test_all_masks_come_from_one_calibration_pass_and_runs_find_them(grid, monkeypatch):
    passes = []
    encode = XVLM.encode_image

    def counting(self, images):
        passes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(XVLM, "encode_image", counting)
    found = specifications(grid)
    prune(found)
    assert len(passes) <= 4  # two batches of two parts, whatever the number of pruners, sparsities and seeds
    data = ObjectCache().data(found[0].config)
    files = {mask_file(c, data) for c in found}
    assert len(files) == 9  # dense 1, random 2 x 2, omp 2, multiflow 2
    assert all(load_mask(file) is not None for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    run(found[-1], Helpers())
    assert {file: file.stat().st_mtime_ns for file in files} == before


def test_a_mask_made_together_equals_one_made_alone(grid, specified, tmp_path):
    found = specifications(grid)
    prune(found)
    alone = specified("recipe.epochs=0", "pruner=multiflow", "sparsity=0.9", f"paths.out={tmp_path}/alone")
    run(alone, Helpers())
    data = ObjectCache().data(alone.config)
    together = next(c for c in found if c.choices["pruner"] == "multiflow" and c.config["sparsity"] == 0.9)
    first, second = load_mask(mask_file(together, data)), load_mask(mask_file(alone, data))
    assert all(bool((first.masks[name] == second.masks[name]).all()) for name in first.masks)


def test_scores_are_stored_with_the_masks_and_no_run_prunes_again(grid, monkeypatch):
    """Under force=true too: what the comparison has made is not made a second time by its runs."""
    asked = []
    prune_all = Pruner.prune
    monkeypatch.setattr(Pruner, "prune", lambda self, *given: (asked.append(self.name), prune_all(self, *given))[1])
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    small = Grid(("omp", "multiflow", "snip"), (0.5, 0.9), (0,), 1, (*grid.overrides, "scores=true"))
    assert compute(specifications(small), 1) == {}
    assert sorted(asked) == ["multiflow", "omp", "snip"]  # one call for both sparsities
    data = ObjectCache().data(specifications(small)[0].config)
    files = {c.choices["pruner"]: scores_file(mask_file(c, data)) for c in specifications(small)}
    assert all(file.is_file() for file in files.values())
    assert files["multiflow"].stat().st_size < files["snip"].stat().st_size / 4  # norms alone, not SNIP's gradients
    asked.clear()
    again = Grid(small.pruners, small.sparsities, small.seeds, 1, (*small.overrides, "force=true"))
    assert compute(specifications(again), 1) == {}
    assert sorted(asked) == ["multiflow", "omp", "snip"]


class Inline:
    """Runs the cells in this process: what the pool does, without its seconds of starting."""

    def __init__(self, *_):
        worker._news = type("News", (), {"put": lambda self, item: None})()

    def submit(self, work, cell):
        from concurrent.futures import Future

        future = Future()
        future.set_result(work(cell))
        return future

    def shutdown(self, **_):
        worker._news = None


def test_a_comparison_computes_what_is_missing_and_draws(grid, monkeypatch, capsys):
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    small = Grid(("dense", "omp"), (0.5,), (0, 1), 1, grid.overrides)
    folder = compare.compare(small)
    assert {"table.md", "plot.png", "plot.svg"} == {p.name for p in folder.iterdir()}
    table = (folder / "table.md").read_text()
    assert "| dense |" in table
    assert "±" in table
    assert missing(specifications(small)) == []
    assert "4 to compute" in capsys.readouterr().out
    assert compare.compare(small) == folder
    assert "4 stored already, 0 to compute" in capsys.readouterr().out


def test_a_comparison_of_rehearsals_says_so_and_names_patterns(grid, monkeypatch, capsys):
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    words = (*grid.overrides, "rehearse=true", "pruner.solve.within=2:4")
    folder = compare.compare(Grid(("dense", "lmp"), (0.5,), (0,), 1, words))
    table = (folder / "table.md").read_text()
    assert table.startswith("**a rehearsal: few steps of everything")
    assert "| lmp (2:4) |" in table
    assert "| dense |" in table
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("the numbers mean nothing") < said.index("test, seed 0, by sparsity (a rehearsal)")
    with pytest.raises(ValueError, match=r"sparsity=0.6: 2:4 keeps 2 of every 4 weights, which is sparsity 0.5"):
        compute(specifications(Grid(("lmp",), (0.5, 0.6), (0,), 1, words)), 1)


def test_a_cell_that_fails_leaves_the_others_alone(grid, monkeypatch, capsys):
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    lost = ("recipe.epochs=1", "task.lr=1e30", "task.warmup=0", "recipe.clip=null")
    small = Grid(("omp",), (0.5, 0.9), (0,), 1, (*grid.overrides[:-1], *lost))
    with pytest.raises(SystemExit) as stopped:
        compare.compare(small)
    assert stopped.value.code != 0
    printed = capsys.readouterr().out
    assert printed.count("failed:") == 2
    assert "ERR" in printed


@pytest.mark.slow
def test_processes_share_the_work(grid):
    small = Grid(("dense", "omp"), (0.5,), (0, 1), 2, (*grid.overrides[:-1], "recipe.epochs=1"))
    compare.compare(small)
    assert missing(specifications(small)) == []
