"""Bad input ends with one clear line, an exit code, and nothing on the disk."""

import errno
import sys
import warnings

import pytest

from vlp_bench.construct import construct
from vlp_bench.runs.launch import launch
from vlp_bench.runs.terminal.errors import DIVERGED, FAILED, INTERRUPTED, MISTAKE, exit_code, explain, one_line
from vlp_bench.tasks.optimisation import Diverged

EXP = "+exp=xvlm_itr"


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Words -> the message of a launch that is refused with exit code 2 and leaves no trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def message(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vlp_bench", *words])
        with pytest.raises(SystemExit) as stopped:
            launch(words)
        assert stopped.value.code == MISTAKE
        assert list(tmp_path.iterdir()) == []
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        return printed.err

    return message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["no experiment given", "+exp=NAME", "xvlm_itr"]),
        (["+exp=xvlm_it"], ["xvlm_it:", "no such experiment", "did you mean xvlm_itr"]),
        (["exp=xvlm_itr"], ["plus sign", "+exp=xvlm_itr"]),
        (
            ["+exp=ecoflap_eva"],
            ["exp=ecoflap_eva: an experiment of vlp-bench run, compare, prune", "one of blip2_gqa, "],
        ),
        ([EXP, "pruner=multiflo"], ["pruner=multiflo", "omp", "did you mean multiflow"]),
        ([EXP, "benchmark=papr"], ["mini, minilm, paper", "did you mean paper?"]),
        ([EXP, "sparsty=0.5"], ["sparsty=0.5", "did you mean sparsity?"]),
        ([EXP, "prunner=omp"], ["prunner=omp", "did you mean pruner"]),
        ([EXP, "task.lrr=1"], ["task.lrr=1", "allowed in task", "did you mean lr?"]),
        ([EXP, "lr=1"], ["lr=1", "did you mean task.lr?"]),
        ([EXP, "out=there"], ["out=there", "did you mean paths.out?"]),
        (
            [EXP, "pruner=wanda", "pruner/solve=sparsegpt", "pruner.block_size=64"],
            ["pruner.block_size=64", "did you mean pruner.solve.block_size?"],
        ),
        ([EXP, "task.lr.peak=1"], ["task.lr.peak=1", "allowed in task"]),
        (["task.lr=1"], ["task.lr=1", "together with +exp=NAME"]),
        ([EXP, "+seed=1"], ["already at 'seed'"]),
        ([EXP, "pruner"], ["'pruner'", "key=value"]),
        ([EXP, "sparsity=1"], ["sparsity=1:", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=1.5"], ["sparsity=1.5", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=-0.1"], ["sparsity=-0.1", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=nan"], ["sparsity=nan", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=half"], ["sparsity=half", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=[0.5,0.9]"], ["sparsity=[0.5, 0.9]", "0 <= sparsity < 1"]),
        ([EXP, "sparsity=true"], ["sparsity=true:", "0 <= sparsity < 1"]),
        ([EXP, "seed=-1"], ["seed=-1", "from 0 to"]),
        ([EXP, "seed=0.5"], ["seed=0.5", "whole number"]),
        ([EXP, "+pruner.ridge=7"], ["'multiflow' has no option 'ridge': use one of", "compat, modality, num_batches"]),
        ([EXP, "pruner=ecoflap", "pruner/allocate=uniform", "pruner.draws=7"], ["'ecoflap' has no option 'draws'"]),
        ([EXP, "+pruner.solve.ridge=7"], ["no option 'solve.ridge': use one of solve.score, solve.within"]),
        ([EXP, "+pruner/schedule=linear", "+pruner.stepps=7"], ["no option 'stepps'"]),
        ([EXP, "pruner.allocate.between=model"], ["it is called pruner.allocate.group_by now"]),
        ([EXP, "+pruner.allocate.between=model"], ["it is allocate.group_by now"]),
        ([EXP, "pruner/allocate=lampp"], ["pruner/allocate=lampp", "ecoflap", "snip", "did you mean lamp"]),
        ([EXP, "pruner/values=least_squares"], ["has no values to exchange", ": +pruner/values=least_squares"]),
        ([EXP, "pruner/tokens=atv"], ["has no tokens to exchange", "plus sign: +pruner/tokens=atv"]),
        ([EXP, "pruner/value=least_squares"], ["a pruner has no value;", "did you mean pruner/values?"]),
        ([EXP, "+pruner/values=least_square"], ["no such pruner/values", "did you mean least_squares?"]),
        ([EXP, "~task"], ["task is missing"]),
        ([EXP, "~pruner"], ["pruner is missing"]),
        ([EXP, "task._target_=os.system"], ["task._target_=os.system", "only what conf/ names", "allow=[NAME]"]),
        ([EXP, "task._target_=torch.hub.load"], ["task._target_=torch.hub.load", "only what conf/ names"]),
        ([EXP, "task._target_=vlp_bench.runs.provenance._git"], ["provenance._git", "only what conf/ names"]),
        ([EXP, "task._target_=vlp_bench.commands.recipe.Retrieval"], ["did you mean vlp_bench.tasks.retrieval.Retr"]),
        ([EXP, "hydra.launcher._target_=os.system", "-m"], ["hydra.launcher._target_", "hydra/launcher=NAME"]),
        ([EXP, "sparsity=${nope}"], ["sparsity=${nope}", "no value nope"]),
        ([EXP, "seed=${seed}"], ["seed=${seed}", "stands for itself"]),
        ([EXP, "paths.out=here/${x}"], ["paths.out=here/${x}", "no value x"]),
        ([EXP, "pruner={a: 1}"], ["pruner={a: 1}", "name of a choice", "multiflow"]),
        ([EXP, "pruner=[omp]"], ["pruner=[omp]", "pruner=NAME"]),
        ([EXP, "pruner=null"], ["pruner=null", "name of a choice"]),
        ([EXP, "force=maybe"], ["force=maybe", "true or false"]),
        ([EXP, "force=5"], ["force=5", "true or false"]),
        ([EXP, "experiment=x"], ["experiment=x", "+exp=NAME"]),
        ([EXP, "+nonsense=1"], ["nonsense=1", "no value nonsense"]),
        ([EXP, "pruner.num_batches=1.5"], ["pruner.num_batches=1.5", "a whole number or null"]),
        ([EXP, "sparsity=0.5,"], ["sparsity=0.5,", "quotes"]),
        ([EXP, "sparsity=½"], ["sparsity=½", "quotes"]),
        ([EXP, "~sparsity"], ["sparsity is missing"]),
        ([EXP, "paths.out=5"], ["paths.out=5", "text"]),
        ([EXP, "paths.out="], ["paths.out=: expected a file or folder", "variable of the shell"]),
        ([EXP, "paths.out=", "rehearse=true"], ["paths.out=: expected"]),  # it wrote to /rehearsal
        ([EXP, "benchmark=paper", "paths.data=' '"], ["paths.data= : expected a file or folder"]),
        ([EXP, "sparsity=0.5,0.9"], ["sparsity=0.5,0.9: several values are a sweep", "run -m"]),
        ([EXP, "recipe.epochs=abc"], ["recipe.epochs=abc", "a whole number"]),
        ([EXP, "recipe.epochs=null"], ["recipe.epochs=null", "a whole number"]),
        ([EXP, "recipe.epochs=1.5"], ["recipe.epochs=1.5", "a whole number"]),
        ([EXP, "data.batch_size=x"], ["data.batch_size=x", "a whole number"]),
        ([EXP, "task.lr=abc"], ["task.lr=abc", "a finite number"]),
        ([EXP, "task.lr=1e400"], ["task.lr=inf", "a finite number"]),
        ([EXP, "task.k_test=null"], ["task.k_test=null", "a whole number"]),
        ([EXP, "task.betas=[0.9]"], ["task.betas=[0.9]", "[a finite number, a finite number]"]),
        ([EXP, "model.weights=null"], ["model.weights=null", "a path or text"]),
        ([EXP, "+task.lrr=1"], ["task.lrr=1", "allowed in task", "did you mean lr?"]),
        ([EXP, "trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "auto, cpu, gpu, cuda"]),
        ([EXP, "precision=64-true"], ["precision=64-true", "32-true, bf16-mixed, 16-mixed"]),
        ([EXP, "+trainer.max_steps=5"], ["trainer.max_steps=5", "decided by recipe.epochs"]),
        ([EXP, "+trainer.max_epochs=5"], ["trainer.max_epochs=5", "decided by recipe.epochs"]),
        ([EXP, "benchmark=world", "recipe.clip=1"], ["recipe.clip=1: a fused step", "set task.fused=false"]),
        ([EXP, "pruner.allocate.between=x"], ["pruner.allocate.between=x", "called pruner.allocate.group_by now"]),
        ([EXP, "task.becomes=null"], ["task.becomes=null", "called task.task_model now"]),
        ([EXP, "+task.becomes=null"], ["task.becomes=null", "called task.task_model now"]),
        ([EXP, "model.weights=nowhere.safetensors"], ["nowhere.safetensors", "no such file"]),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(refused, words, said):
    message = refused(*words)
    assert len(message.strip().splitlines()) == 1
    for part in said:
        assert part in message


def test_the_papers_benchmark_lists_what_is_missing_and_where_it_looked(refused, tmp_path_factory):
    unset = refused(EXP, "benchmark=paper")
    for part in (
        "<paths.data>/finetune/itr/coco_train.json",
        "paths.data is not set",
        "<paths.weights>/4m-xvlm",
        "benchmark=mini",
    ):
        assert part in unset
    data = tmp_path_factory.mktemp("data")
    (data / "finetune/itr").mkdir(parents=True)
    (data / "finetune/itr/coco_train.json").write_text("[]")
    partly = refused(EXP, "benchmark=paper", f"paths.data={data}")
    assert f"{data}/finetune/itr/coco_test.json" in partly
    assert "coco_train.json" not in partly
    assert "paths.data is not set" not in partly


def test_debug_keeps_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [EXP, "sparsity=2", "debug=true"]
    monkeypatch.setattr(sys, "argv", ["vlp_bench", *words])
    with pytest.raises(Exception, match="sparsity=2"):
        launch(words)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), ["out/x", "no space left", "paths.out"], FAILED),
        (OSError(errno.EROFS, "Read-only file system", "out/x"), ["out/x", "read-only", "paths.out"], FAILED),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), ["out/x", "permission denied"], FAILED),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "out/x"), ["out/x", "a file lies"], FAILED),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), ["a.json", "no such file"], MISTAKE),
        (FileNotFoundError("no mask file at m"), ["no mask file at m"], MISTAKE),
        (ValueError("steps must be at least 1,\n got 0"), ["steps must be at least 1, got 0"], MISTAKE),
        (Diverged("the loss is not a number"), ["not a number"], DIVERGED),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), ["out of memory", "data.batch_size"], FAILED),
    ],
)
def test_every_kind_of_error_has_its_line_and_code(error, said, code):
    line = explain(error)
    assert line is not None
    assert "\n" not in line
    assert all(part in line for part in said)
    assert exit_code(error) == code


@pytest.mark.parametrize("error", [AssertionError("ours"), TypeError("ours"), KeyError("ours"), RuntimeError("ours")])
def test_our_own_mistakes_keep_their_traceback(error):
    assert explain(error) is None
    with pytest.raises(type(error)), one_line():
        raise error


def test_what_a_constructor_says_of_its_arguments_is_the_line():
    with pytest.raises(ValueError, match="epochs") as said:
        construct({"_target_": "vlp_bench.runs.recipe.Recipe", "epochs": -1, "target_batch": 1}, "recipe")
    assert explain(said.value) == "recipe.epochs must be at least 0, got -1"
    assert exit_code(said.value) == MISTAKE
    with pytest.raises(ValueError, match="Recipe") as other:
        construct({"_target_": "vlp_bench.runs.recipe.Recip", "epochs": 1}, "recipe")
    assert "did you mean vlp_bench.runs.recipe.Recipe?" in (explain(other.value) or "")


def test_an_interruption_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as stopped, one_line():
        raise KeyboardInterrupt
    assert stopped.value.code == INTERRUPTED
    assert "goes on" in capsys.readouterr().err


def test_an_error_of_a_worker_is_the_line_it_said(tmp_path):
    from torch.utils.data import DataLoader

    from vlp_bench.data.transforms.decoding import Folder

    class Images:
        def __len__(self):
            return 1

        def __getitem__(self, place):
            return Folder(tmp_path).open("no.jpg")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError) as error:
            next(iter(DataLoader(Images(), num_workers=1)))
    said = f"there is no image {tmp_path}/no.jpg: are the data complete, and is their folder right?"
    assert explain(error.value, []) == said
