"""Checkpoints in the middle of an epoch, by the clock and by signal: the run goes on to the same bits."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console

from benchmarks.endurance.kill_anywhere import MEASURED
from vlp_bench.lifetime import Interrupted, interruptible, interruptions
from vlp_bench.results.store import Store
from vlp_bench.runs.run import Helpers, run

WORDS = ("pruner=multiflow", "sparsity=0.5", "recipe.epochs=1", "task.lr=1e-3", "data.batch_size=4")


class Break(Callback):
    """Ends the run as a kill would, before batch `batch` is used."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            raise KeyboardInterrupt


class Signal(Callback):
    """Sends this process a signal while batch `batch` is used."""

    def __init__(self, number, batch):
        self.number, self.batch = number, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


class Late(Callback):
    """Sends this process SIGTERM once the last step of the first epoch is over, or its checkpoint is being written."""

    def __init__(self, moment):
        self.moment = moment

    def on_validation_start(self, trainer, pl_module):
        self.send("validation", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.send("checkpoint", trainer)

    def send(self, moment, trainer):
        if moment == self.moment and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_test_start(self, trainer, pl_module):
        raise AssertionError("it goes on to the test")


def perform(specification, *watchers):
    run(specification, Helpers(console=Console(quiet=True), watchers=watchers))


def left(specification):
    """Rows and tested weights."""
    rows = Store(specification.out / "runs").last(specification.run)
    state = torch.load(specification.folder / "best.ckpt", weights_only=True)["state_dict"]
    return {(row.split, row.metric): row.value for row in rows if row.metric not in MEASURED}, state


def assert_same(one, other):
    assert left(one)[0] == left(other)[0]
    states = left(one)[1], left(other)[1]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("workers", (0, 2))
def test_a_run_of_one_epoch_that_is_stopped_in_its_middle_goes_on_to_the_same_bits(specified, tmp_path, workers):
    """Six batches, two for each optimiser step: batch 3 is in the middle of the second step and is made again."""
    words = [*WORDS, f"data.num_workers={workers}", "checkpoint_minutes=0"]
    calm, broken = specified(*words, f"paths.out={tmp_path}/calm"), specified(*words)
    perform(calm)
    for batch, stored in ((3, 2), (5, 4)):
        with pytest.raises(KeyboardInterrupt):
            perform(broken, Break(batch))
        state = torch.load(broken.folder / "last.ckpt", weights_only=True)
        assert state["global_step"] == stored // 2
    perform(broken)
    assert_same(calm, broken)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
def test_a_signal_waits_for_the_end_of_a_step_and_leaves_a_checkpoint(specified, tmp_path, number):
    calm, broken = specified(*WORDS, f"paths.out={tmp_path}/calm"), specified(*WORDS)
    perform(calm)
    with interruptible(), pytest.raises(Interrupted, match=signal.Signals(number).name):
        perform(broken, Signal(number, 2))
    assert torch.load(broken.folder / "last.ckpt", weights_only=True)["global_step"] == 2
    perform(broken)
    assert_same(calm, broken)
    (broken.folder / "last.ckpt").touch()  # as if it was killed after its rows were stored
    perform(broken)
    assert not (broken.folder / "last.ckpt").exists()
    assert (
        len((broken.folder / "rows.jsonl").read_text().splitlines())
        == Store(broken.out / "runs").last(broken.run)[0].rows
    )


@pytest.mark.parametrize("moment", ("validation", "checkpoint"))
def test_a_signal_after_the_last_step_ends_the_run_too(specified, tmp_path, moment):
    """It waited for the end of a step, and there was none any more: the run went on, through its test."""
    calm, broken = specified(*WORDS, f"paths.out={tmp_path}/calm"), specified(*WORDS)
    perform(calm)
    with interruptible(), pytest.raises(Interrupted, match="SIGTERM"):
        perform(broken, Late(moment))
    assert (broken.folder / "last.ckpt").exists() == (moment == "checkpoint")
    assert not Store(broken.out / "runs").last(broken.run)
    perform(broken)
    assert_same(calm, broken)


def test_nothing_is_saved_in_between_before_the_time_is_over(specified):
    found = specified(*WORDS)
    with pytest.raises(KeyboardInterrupt):
        perform(found, Break(4))
    assert not (found.folder / "last.ckpt").exists()
    assert found.run == specified(*WORDS, "checkpoint_minutes=null").run


def test_a_second_ctrl_c_does_not_wait():
    with interruptible():
        signals = interruptions()
        signals.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruptions() is None


def test_a_signal_to_another_process_of_the_run_is_named(monkeypatch):
    from vlp_bench.runs import checkpointing

    monkeypatch.setattr(checkpointing.processes, "size", lambda: 2)
    monkeypatch.setattr(checkpointing.processes, "rank", lambda: 0)
    with interruptible():
        stop = checkpointing._interrupted(signal.SIGTERM, 1)
        assert (str(stop), stop.number) == ("SIGTERM to process 1 of 2", signal.SIGTERM)
        assert (interruptions().received, interruptions().to) == (signal.SIGTERM, "process 1 of 2")
        assert str(checkpointing._interrupted(signal.SIGTERM, 0)) == "SIGTERM"


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
