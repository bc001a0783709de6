"""`commands.export`: checkpoints and folders that load again, the card, and the report."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import vlp_bench
from tests.models.foreign.zoo import built
from tests.models.small import SMALL_XVLM
from tests.results.test_row import ORIGIN, row
from vlp_bench.commands import export
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.models.checkpoints.pretrained import from_pretrained, save_pretrained
from vlp_bench.models.checkpoints.read_write import load_model, save_model
from vlp_bench.models.checkpoints.tensors import tensors_of
from vlp_bench.models.smaller_config import smaller_config
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.masks import packed_checkpoint as packed
from vlp_bench.pruning.structured.materialise import materialised
from vlp_bench.results.card import model_card
from vlp_bench.results.store import Store
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.terminal.console import console, stderr

HEAVY = {"torch", "numpy", "lightning", "transformers", "pandas", "matplotlib", "hydra"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, a mask of it at 90 %, and the folder of a run that was fine-tuned under the mask."""
    folder = tmp_path_factory.mktemp("export")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = XVLM(SMALL_XVLM).eval()
    weights = save_model(folder / "model.safetensors", model)
    solution = vlp_bench.prune(model, "omp", 0.9)
    solution.save(folder / "masks" / "mask.safetensors")
    tuned = load_model(weights)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.25)
    solution.install(tuned)
    state = {f"model.{name}": tensor for name, tensor in tuned.state_dict().items()}
    known = {"mask": mask_hash(solution), "config": {"model": {"weights": str(weights)}}, "commit": "abc123"}
    origin = ORIGIN | known | {"weights": content_hash(weights)}
    results = [
        row(metric=name, value=value, rows=2, provenance=origin)
        for name, value in (("txt_r1", 61.5), ("img_r1", 50.25))
    ]
    Store(folder / "runs").append("run", results)
    torch.save({"state_dict": state | {"loss.scale": torch.ones(1)}}, folder / "runs" / "run" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def sparse(folder):
    """The pruned model, not fine-tuned."""
    model = load_model(folder / "model.safetensors")
    vlp_bench.Solution.load(folder / "masks" / "mask.safetensors").install(model)
    return model.state_dict()


def said(*words):
    with console.capture() as captured:
        export.main([str(word) for word in words])
    return captured.get()


def refused(*words):
    with stderr.capture() as captured, pytest.raises(SystemExit) as exit_:
        export.main([str(word) for word in words])
    assert exit_.value.code == 2
    return captured.get()


def written(folder, out, form, source="masks/mask.safetensors"):
    said("write", folder / source, out, "--as", form, "--weights", folder / "model.safetensors")
    return out


def same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(tensor.equal(wanted[name]) for name, tensor in found.items())


def test_help_is_light():
    code = (
        "import sys; from vlp_bench.commands.export import parser\n"
        "try: parser().parse_args(['--help'])\n"
        f"except SystemExit: sys.exit(', '.join({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "export report SOURCE" in done.stdout


def test_dense_checkpoint_with_exact_zeros(folder, sparse, tmp_path):
    same(load_model(written(folder, tmp_path / "d.safetensors", "dense")).state_dict(), sparse)


def test_packed_checkpoint_bit_for_bit(folder, sparse, tmp_path):
    path = written(folder, tmp_path / "p.safetensors", "packed")
    state, about = packed.read(path)
    assert all(tensor.equal(sparse[name]) for name, tensor in state.items())
    assert about["pruning"]["method"] == "omp"
    dense = written(folder, tmp_path / "d.safetensors", "dense")
    assert path.stat().st_size < 0.9 * dense.stat().st_size  # much of this small model can't be pruned


def test_folder_and_its_card(folder, sparse, tmp_path):
    out = written(folder, tmp_path / "hf", "huggingface")
    assert {file.name for file in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    same(from_pretrained(out).state_dict(), sparse)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["XVLM"]
    card = (out / "README.md").read_text()
    for words in ("**omp**", "90.00 %", "| fusion |", "was pruned and not fine-tuned", '"weights":'):
        assert words in card


def test_a_run_brings_its_metrics_and_provenance(folder, tmp_path):
    out = written(folder, tmp_path / "hf", "huggingface", "runs/run")
    tuned = torch.load(folder / "runs" / "run" / "best.ckpt", weights_only=True)["state_dict"]
    model = from_pretrained(out)
    assert all(tensor.equal(tuned[f"model.{name}"]) for name, tensor in model.state_dict().items())
    card = (out / "README.md").read_text()
    for words in ("| test/txt_r1 | 61.50 |", "| test/img_r1 | 50.25 |", '"commit": "abc123"', "model-index:"):
        assert words in card


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("wanda", {"values": "least_squares"}, "new values in 2 tensors, given by `least_squares`"),
        ("sparsegpt", {}, "new values in 2 tensors, given by `SparseGPT`"),
        ("wanda", {}, None),
    ],
)
def test_the_card_says_that_weights_have_new_values(name, options, said):
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    card = model_card("m", vlp_bench.prune(model, name, 0.5, [torch.randn(8, 6)], options=options))
    assert ("new values" in card) == (said is not None)
    assert said is None or said in card


def test_the_card_says_that_biases_were_corrected():
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    card = model_card("m", vlp_bench.prune(model, "wanda_bias", 0.5, [torch.randn(8, 6)]))
    assert re.search(r"^2 biases were corrected by `\w+`\.$", card, re.MULTILINE)


def test_the_card_of_a_rehearsal_says_so_and_tells_the_hub_no_number(folder):
    solution = vlp_bench.Solution.load(folder / "masks" / "mask.safetensors")
    cards = [model_card("m", solution, {"test/txt_r1": 50.0}, {"config": {"rehearse": so}}) for so in (False, True)]
    assert ["This is a rehearsal: few steps" in card.split("| test/txt_r1")[0] for card in cards] == [False, True]
    assert ["model-index:" in card for card in cards] == [True, False]


def test_a_model_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                       num_attention_heads=2, num_labels=3)  # fmt: skip
    save_pretrained(ViTForImageClassification(config), tmp_path / "dense")
    model = from_pretrained(tmp_path / "dense")
    assert isinstance(model, ViTForImageClassification)
    solution = vlp_bench.prune(model, "omp", 0.75)
    solution.install(model)
    save_pretrained(model, tmp_path / "sparse", "# A card\n")
    again = from_pretrained(tmp_path / "sparse")
    images = torch.randn(2, 3, 16, 16)
    assert again(images).logits.equal(model(images).logits)
    assert (tmp_path / "sparse" / "README.md").read_text() == "# A card\n"


def test_a_folder_of_another_model_is_copied_with_zeros(tmp_path):
    """GPT-2's file has the names of its parameters, so a mask file can be applied to it as it lies."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dense = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    save_pretrained(dense, tmp_path / "dense")
    beside = ("vocab.json", "merges.txt", "chat_template.jinja", "qformer_tokenizer/vocab.txt")
    (tmp_path / "dense/qformer_tokenizer").mkdir()
    for name in (*beside, "model.safetensors.index.json"):
        (tmp_path / "dense" / name).write_text("{}")
    mask = vlp_bench.prune(dense, "omp", 0.75).save(tmp_path / "mask.safetensors")
    weights = tmp_path / "dense" / "model.safetensors"
    said("write", mask, tmp_path / "sparse", "--as", "huggingface", "--weights", weights)
    assert all((tmp_path / "sparse" / name).read_text() == "{}" for name in beside)
    assert not (tmp_path / "sparse/model.safetensors.index.json").exists()
    vlp_bench.Solution.load(mask).install(dense)
    same(from_pretrained(tmp_path / "sparse").state_dict(), dense.state_dict())
    assert (tmp_path / "sparse" / "generation_config.json").is_file()


@pytest.mark.parametrize(("name", "size"), [("llama", "20KB"), ("llava", "5GB"), ("llava", "50KB")])
def test_a_mask_goes_to_a_folder_of_shards_or_of_other_names(tmp_path, name, size):
    """LLaVA's files call its tensors otherwise than its model does."""
    dense = built(name)
    dense.save_pretrained(tmp_path / "dense", max_shard_size=size)
    dense = from_pretrained(tmp_path / "dense")
    assert (len(list((tmp_path / "dense").glob("*.safetensors"))) > 1) == (size != "5GB")
    solution = vlp_bench.prune(dense, "omp", 0.75)
    mask = solution.save(tmp_path / "mask.safetensors")
    solution.install(dense)
    weights = ("--weights", tmp_path / "dense")
    said("write", mask, tmp_path / "sparse", "--as", "huggingface", *weights)
    same(from_pretrained(tmp_path / "sparse").state_dict(), dense.state_dict())
    own = dict(dense.named_parameters())
    for form in ("dense", "packed"):
        said("write", mask, tmp_path / f"{form}.safetensors", "--as", form, *weights)
        found = tensors_of(tmp_path / "dense.safetensors", own)
        assert all(found[key].equal(value) for key, value in own.items())
    assert f"{solution.total:,} weights" in said("report", mask, *weights, "--tokens", 1, "--rounds", 1)


def test_a_mask_of_another_model_is_refused_by_a_folder(tmp_path):
    built("llama").save_pretrained(tmp_path / "dense", max_shard_size="20KB")
    mask = vlp_bench.prune(built("clip"), "omp", 0.5).save(tmp_path / "mask.safetensors")
    line = refused("write", mask, tmp_path / "sparse", "--as", "huggingface", "--weights", tmp_path / "dense")
    assert re.search(r"dense: its model has no '\S+'; give the checkpoint that was pruned", line)


def test_nothing_is_written_over_what_is_read(folder, tmp_path):
    dense = built("llama")
    dense.save_pretrained(tmp_path / "dense")
    mask = vlp_bench.prune(dense, "omp", 0.75).save(tmp_path / "mask.safetensors")
    (tmp_path / "link").symlink_to(tmp_path / "dense")
    for out, form in (
        (mask, "packed"),
        (tmp_path / "dense/model.safetensors", "dense"),
        (tmp_path / "link", "huggingface"),
    ):
        line = refused("write", mask, out, "--as", form, "--weights", tmp_path / "dense")
        assert f"{out} is what is exported, and would be overwritten: give another name" in line
    same(from_pretrained(tmp_path / "dense").state_dict(), dense.state_dict())
    for out, form in {"": "huggingface", "best.ckpt": "dense", "rows.jsonl": "packed"}.items():
        assert "would be overwritten" in refused("write", folder / "runs/run", folder / "runs/run" / out, "--as", form)
    dense.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shard = sorted((tmp_path / "shards").glob("*.safetensors"))[0]
    line = refused("write", mask, shard, "--as", "dense", "--weights", tmp_path / "shards")
    assert "would be overwritten" in line


def levit():
    """Its batch norms have running statistics."""
    from transformers import LevitConfig, LevitForImageClassification

    sizes = {"hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}
    model = LevitForImageClassification(LevitConfig(image_size=64, **sizes, num_labels=3)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_()
    return model


@pytest.mark.parametrize("make", [levit, lambda: built("gpt2")], ids=["levit", "gpt2"])  # GPT-2's head is tied
def test_all_that_a_folder_holds_is_exported(make, tmp_path):
    model = make()
    solution = vlp_bench.prune(model, "omp", 0.5, None, vlp_bench.TransformersAdapter(model))
    solution.install(model)
    save_pretrained(model, tmp_path / "sparse")
    solution.save(tmp_path / "sparse" / "mask.safetensors")
    said("write", tmp_path / "sparse", tmp_path / "packed.safetensors", "--as", "packed")
    same(packed.read(tmp_path / "packed.safetensors")[0], model.state_dict())
    said("write", tmp_path / "sparse", tmp_path / "dense.safetensors", "--as", "dense")
    same(load_file(tmp_path / "dense.safetensors"), load_file(tmp_path / "sparse" / "model.safetensors"))


def test_report(folder, tmp_path):
    words = ("--tokens", "1,4", "--rounds", 1, "--device", "cpu", "--json", tmp_path / "r.json")
    text = said("report", folder / "masks/mask.safetensors", "--weights", folder / "model.safetensors", *words)
    for part in ("90.00 % zero", "bit mask + values", "CSR int64", "2:4 (not this mask)", "4-byte values", "Smaller:"):
        assert part in text
    assert sum("at 1 token:" in line or "at 4 tokens:" in line for line in text.splitlines()) == 2
    found = json.loads((tmp_path / "r.json").read_text())
    assert len(found["sizes"]) == 6
    assert len(found["times"]) == 2 * 2


def test_what_cannot_be_exported_is_refused_in_a_line(folder, tmp_path):
    mask, weights = folder / "masks/mask.safetensors", folder / "model.safetensors"
    (tmp_path / "empty").mkdir()
    for words, message in (
        (("write", tmp_path / "empty", tmp_path / "x", "--as", "dense"), "holds no best.ckpt or no rows.jsonl"),
        (("write", mask, tmp_path / "x", "--as", "dense"), "shapes"),  # the shipped checkpoint is a larger one
        (("write", tmp_path / "no.safetensors", tmp_path / "x", "--as", "dense"), "no mask file at"),
        (("report", mask, "--weights", weights, "--tokens", "many"), "--tokens many: whole numbers"),
        (("report", mask, "--weights", weights, "--device", "abacus"), "--device abacus: use cpu"),
    ):
        line = refused(*words)
        assert message in line
        assert len(line.strip().splitlines()) == 1


def test_a_folder_whose_parts_do_not_belong_together_is_refused(folder, tmp_path):
    out = written(folder, tmp_path / "hf", "huggingface")
    content = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(content | {"vision_width": 99}))
    with pytest.raises(ValueError, match=r"config.json says something else than model.safetensors"):
        from_pretrained(out)
    (out / "config.json").write_text(json.dumps({"architectures": ["AutoTokenizer"]}))
    with pytest.raises(ValueError, match="transformers has no model AutoTokenizer"):
        from_pretrained(out)
    with pytest.raises(ValueError, match=r"holds no config.json"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Linear is no model of vlp_bench or transformers"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "x")


@pytest.fixture(scope="module")
def by_units(folder):
    """A mask of whole units beside the checkpoint, and the model under it."""
    model = load_model(folder / "model.safetensors")
    solution = vlp_bench.prune(model, "magnitude_sp", 0.3)
    solution.save(folder / "masks" / "units.safetensors")
    solution.install(model)
    return model


@pytest.mark.parametrize("name", ["small.safetensors", "folder"])
def test_smaller_models_say_the_same(folder, by_units, tmp_path, name):
    out = written(folder, tmp_path / name, "smaller", "masks/units.safetensors")
    found = from_pretrained(out) if out.is_dir() else load_model(out)
    images = torch.randn(2, 3, SMALL_XVLM.image_size, SMALL_XVLM.image_size)
    with torch.no_grad():
        torch.testing.assert_close(found.encode_image(images), by_units.encode_image(images), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in found.parameters()) < sum(p.numel() for p in by_units.parameters())


def test_a_mask_of_single_weights_makes_nothing_smaller(folder, tmp_path):
    words = ("--as", "smaller", "--weights", folder / "model.safetensors")
    few = vlp_bench.prune(load_model(folder / "model.safetensors"), "lmp", 0.1).save(tmp_path / "few.safetensors")
    line = refused("write", few, tmp_path / "x", *words)
    assert "no whole attention head or feed-forward neuron is gone under this mask" in line


def test_a_report_measures_whole_passes_of_what_gets_smaller(folder, by_units, tmp_path):
    words = ("--tokens", 1, "--rounds", 1, "--device", "cpu", "--batches", "1,3", "--json", tmp_path / "r.json")
    weights = ("--weights", folder / "model.safetensors")
    assert "one forward pass" in said("report", folder / "masks/units.safetensors", *weights, *words)
    found = json.loads((tmp_path / "r.json").read_text())["whole"]
    assert [(row["model"], row["batch"]) for row in found] == [("before", 1), ("after", 1), ("before", 3), ("after", 3)]
    before, after, thrice, _ = found
    assert after["parameters"] < before["parameters"] == sum(p.numel() for p in by_units.parameters())
    assert after["flops"] < before["flops"]
    assert thrice["flops"] == 3 * before["flops"]


def test_one_of_transformers_in_its_folder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 16, "intermediate_size": 24}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_hidden_layers=1, **sizes)).eval()
    model.save_pretrained(tmp_path / "dense")
    solution = vlp_bench.prune(model, "magnitude_sp", 0.5)
    solution.save(tmp_path / "mask.safetensors")
    weights = ("--weights", tmp_path / "dense" / "model.safetensors")
    said("write", tmp_path / "mask.safetensors", tmp_path / "small", "--as", "smaller", *weights)
    solution.install(model)
    small, ids = from_pretrained(tmp_path / "small"), torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(small(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert small.config.num_attention_heads < 4


def test_sizes_that_a_configuration_refuses_say_which_would_do(tmp_path):
    """Three heads of four don't divide a width of 16; two do, at the sparsity that is said."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 16, "intermediate_size": 24}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_hidden_layers=2, **sizes)).eval()
    model.save_pretrained(tmp_path / "dense")
    weights = ("--as", "smaller", "--weights", tmp_path / "dense" / "model.safetensors")
    vlp_bench.prune(model, "magnitude_sp", 0.25).save(tmp_path / "quarter.safetensors")
    line = refused("write", tmp_path / "quarter.safetensors", tmp_path / "x", *weights)
    assert "with pruner=wanda_sp: 0.5 (2 of 4 heads), 0.75 (1 of 4 heads), or write the pruned model with" in line
    vlp_bench.prune(model, "magnitude_sp", 0.5).save(tmp_path / "half.safetensors")
    said("write", tmp_path / "half.safetensors", tmp_path / "small", *weights)
    assert from_pretrained(tmp_path / "small").config.num_attention_heads == 2


def test_what_a_configuration_cannot_say_names_what_to_leave():
    """CLIP's heads are as wide as hidden_size / heads: with the patterns of the error its neurons alone are cut."""
    model = built("clip")

    def config_of(leave):
        solution = vlp_bench.prune(model, "magnitude_sp", 0.5, None, vlp_bench.TransformersAdapter(model, leave=leave))
        return smaller_config(materialised(model, solution.masks))

    with pytest.raises(ValueError, match=r"a head has hidden_size / heads there, so prune neurons only") as error:
        config_of([])
    patterns = re.findall(r"leave=\[(.*)\]", str(error.value))[0].split(",")
    assert patterns == ["text_model.encoder.layers.*.self_attn", "vision_model.encoder.layers.*.self_attn"]
    found = config_of(patterns)
    before = model.config.vision_config
    assert found.vision_config.intermediate_size < before.intermediate_size
    assert found.vision_config.num_attention_heads == before.num_attention_heads


def test_a_report_says_why_two_of_four_does_not_run(folder):
    model = load_model(folder / "model.safetensors")
    solution = vlp_bench.prune(model, "lmp", 0.5, options={"solve.within": "2:4"})
    mask = solution.save(folder / "masks" / "two_of_four.safetensors")
    words = ("--tokens", 1, "--rounds", 1, "--device", "cpu", "--weights", folder / "model.safetensors")
    assert "2:4 holds this mask, but nothing runs so here: torch's 2:4 kernels need a CUDA card" in said(
        "report", mask, *words
    )
