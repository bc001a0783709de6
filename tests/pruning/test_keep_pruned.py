import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vlp_bench
from tests.pruning.toys import Tied, labelled, sequential
from vlp_bench.pruning.keep_pruned import KeepPruned

pytestmark = pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*LeafSpec.*")


class Task(pl.LightningModule):
    def __init__(self, optimizer=torch.optim.AdamW, **settings):
        super().__init__()
        self.model = sequential()
        self.build = lambda: optimizer(self.parameters(), **{"lr": 0.1, **settings})
        self.norms = []

    def training_step(self, batch):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def test_step(self, batch):
        self.log("test", self.training_step(batch))

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.norms.append(torch.stack([p.grad.norm() for p in self.parameters()]).norm())
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self):
        return self.build()


def loader():
    x, y = zip(*labelled(8), strict=True)
    return DataLoader(TensorDataset(torch.cat(x), torch.cat(y)), batch_size=5)


def trainer(callback, path, epochs=3, **settings):
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        default_root_dir=path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        gradient_clip_val=0.5,
        **settings,
    )


def pruned(sparsity=0.75, **settings):
    task = Task(**settings)
    solution = vlp_bench.prune(task.model, "omp", sparsity)
    solution.install(task.model)
    return task, solution.masks


def zeros_are_exact(task, masks):
    return all(not task.model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def moved(task, masks):
    dense = sequential()
    return any(not task.model.get_parameter(n)[m].equal(dense.get_parameter(n)[m]) for n, m in masks.items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_zeros_survive_training_checkpoint_and_resume(tmp_path, precision):
    task, masks = pruned(weight_decay=0.5, amsgrad=True)
    first = trainer(KeepPruned(masks), tmp_path, precision=precision, accumulate_grad_batches=2)
    first.fit(task, loader())
    assert zeros_are_exact(task, masks)
    assert moved(task, masks)
    path = tmp_path / "last.ckpt"
    first.save_checkpoint(path)

    again, keeper = Task(weight_decay=0.5, amsgrad=True), KeepPruned()
    second = trainer(keeper, tmp_path, epochs=5, precision=precision)
    second.fit(again, loader(), ckpt_path=path)
    assert second.global_step > first.global_step
    assert all(keeper.masks[name].equal(mask) for name, mask in masks.items())
    assert zeros_are_exact(again, masks)
    second.test(again, loader(), ckpt_path=path, verbose=False, weights_only=True)


def test_resuming_is_as_if_never_stopped(tmp_path):
    whole, masks = pruned()
    trainer(KeepPruned(masks), tmp_path, epochs=4).fit(whole, loader())
    half, _ = pruned()
    stopped = trainer(KeepPruned(masks), tmp_path, epochs=2)
    stopped.fit(half, loader())
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Task()
    trainer(KeepPruned(masks), tmp_path, epochs=4).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_clipped_norm_is_that_of_the_survivors(tmp_path):
    task, masks = pruned()
    twin, _ = pruned()
    trainer(KeepPruned(masks), tmp_path, max_steps=1).fit(task, loader())
    twin.training_step(next(iter(loader()))).backward()
    for name, p in twin.model.named_parameters():
        p.grad = p.grad * masks[name] if name in masks else p.grad
    expected = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
    torch.testing.assert_close(task.norms[0], expected)


class Restless(torch.optim.SGD):
    """Moves every weight, whatever its gradient."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.01)
        return loss


@pytest.mark.parametrize("base_was_used", [False, True])
def test_an_optimiser_that_revives_weights_is_corrected_after_every_step(tmp_path, caplog, base_was_used):
    if base_was_used:  # its step then has hooks of its own, which come before the weights are moved
        torch.optim.SGD([torch.zeros(1)])
    task, masks = pruned(optimizer=Restless)
    trainer(KeepPruned(masks), tmp_path).fit(task, loader())
    assert zeros_are_exact(task, masks)
    assert caplog.text.count("zeroed after every step") == 1


def test_a_quiet_optimiser_is_left_alone(tmp_path, monkeypatch):
    task, masks = pruned()
    monkeypatch.setattr(KeepPruned, "zero", lambda self: pytest.fail("not needed"))
    trainer(KeepPruned(masks), tmp_path).fit(task, loader())
    assert zeros_are_exact(task, masks)


def test_a_model_without_its_zeros_is_refused(tmp_path):
    _, masks = pruned()
    with pytest.raises(ValueError, match=r"aren't zero when training starts, \d+ of them in 'model\.0\.weight'"):
        trainer(KeepPruned(masks), tmp_path).fit(Task(), loader())


class Tampers(pl.Callback):
    def __init__(self, name):
        self.name = name

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 4:
            with torch.no_grad():
                module.model.get_parameter(self.name).add_(1e-9)


def test_a_weight_revived_by_others_ends_the_run(tmp_path):
    task, masks = pruned()
    run = trainer(KeepPruned(masks), tmp_path)
    run.callbacks.insert(0, Tampers("2.weight"))
    with pytest.raises(ValueError, match=r"aren't zero at the end of an epoch, \d+ of them in 'model\.2\.weight'"):
        run.fit(task, loader())


def test_a_tampered_checkpoint_is_refused(tmp_path):
    task, masks = pruned()
    run = trainer(KeepPruned(masks), tmp_path, epochs=1)
    run.fit(task, loader())
    path = tmp_path / "tampered.ckpt"
    run.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.4.weight"] += 1
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"aren't zero when training starts.*'model\.4\.weight'"):
        trainer(KeepPruned(), tmp_path).fit(Task(), loader(), ckpt_path=path)


def test_nothing_stays_attached(tmp_path):
    task, masks = pruned()
    keeper = KeepPruned(masks)
    run = trainer(keeper, tmp_path, epochs=1)
    run.fit(task, loader())
    assert not keeper._handles
    assert not run.optimizers[0]._optimizer_step_post_hooks
    with pytest.raises(ValueError, match=r"watches no module: call attach\(model\) first"):
        keeper.verify()


def test_without_lightning():
    model, (batch, *_) = sequential(), labelled()
    solution = vlp_bench.prune(model, "omp", 0.5)
    solution.install(model)
    keeper = KeepPruned(solution.masks).attach(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        keeper.mask_gradients()
        optimizer.step()
        keeper.verify()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert keeper.revived() == {"0.weight": int((~solution.masks["0.weight"]).sum())}
    keeper.zero()
    keeper.verify()


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_an_infinite_gradient_of_a_removed_weight_does_no_harm(number, optimizer):
    model = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[3.0, 0.0]]))
    keeper = KeepPruned({"weight": torch.tensor([[True, False]])}).attach(model)
    steps = optimizer(model.parameters(), lr=0.5, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
    for gradient in (number, 0.0):
        model.weight.grad = torch.tensor([[0.0, gradient]])
        keeper.mask_gradients()
        assert model.weight.grad.tolist() == [[0.0, 0.0]]
        steps.step()
        keeper.verify()
    assert model.weight.tolist() == [[3.0, 0.0]]
    assert all(torch.isfinite(value).all() for value in steps.state[model.weight].values() if value is not None)
    with torch.no_grad():
        model.weight[0, 1] = number
    keeper.zero()
    assert model.weight.tolist() == [[3.0, 0.0]]


def test_frozen_weights_have_no_gradient_to_mask():
    model = sequential()
    keeper = KeepPruned({"0.weight": torch.zeros(10, 6)}).attach(model)
    keeper.mask_gradients()
    assert model[0].weight.grad is None


def test_state_is_a_bit_per_weight_and_refuses_other_masks():
    mask = torch.rand(64, 64) > 0.5
    keeper = KeepPruned({"w": mask})
    state = keeper.state_dict()
    assert state["masks"]["w"].numel() == 64 * 64 // 8
    fresh = KeepPruned()
    fresh.load_state_dict(state)
    assert fresh.masks["w"].equal(mask)
    keeper.load_state_dict(state)
    with pytest.raises(ValueError, match=r"trained under other masks than the ones given \('w' differs\)"):
        KeepPruned({"w": ~mask}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"'v' differs"):
        KeepPruned({"v": mask}).load_state_dict(state)
    state["masks"]["w"] = state["masks"]["w"][:-1]
    with pytest.raises(ValueError, match="no mask of shape"):
        KeepPruned().load_state_dict(state)


def test_finding_the_module():
    mask = {"encoder.weight": torch.zeros(6, 6), "head.weight": torch.ones(3, 6)}
    inner = Tied()
    wrapped = nn.ModuleDict({"net": inner})
    nn.init.zeros_(inner.encoder.weight)
    KeepPruned(mask).attach(inner).verify()
    KeepPruned(mask).attach(wrapped).verify()
    twice = nn.ModuleDict({"net": inner, "average": Tied()})
    with pytest.raises(ValueError, match=r"several parts of the module \(net\., average\.\): say which with prefix="):
        KeepPruned(mask).attach(twice)
    KeepPruned(mask, prefix="net.").attach(twice).verify()
    with pytest.raises(ValueError, match=r"no parameter 'encoder.weight'"):
        KeepPruned(mask).attach(sequential())
    with pytest.raises(ValueError, match="KeepPruned has no masks"):
        KeepPruned().attach(inner)


def test_masks_hold_zeros_and_ones():
    with pytest.raises(ValueError, match="the mask of 'w' holds other values than 0 and 1"):
        KeepPruned({"w": torch.tensor([0.0, 0.5])})
