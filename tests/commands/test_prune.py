"""`vlp-bench prune` and `vlp-bench model show`: the words, the approval, and every mistake in one line."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.models.foreign.zoo import ZOO, built
from tests.runs.own_model.folders import folder, texts, tokenizer
from vlp_bench.commands import export, masks, model, prune
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.solution import Solution
from vlp_bench.runs.own_model.request import request_of
from vlp_bench.runs.terminal.console import console, stderr


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return folder("llama", tmp_path_factory.mktemp("models"))


def call(monkeypatch, command, *words):
    """What is printed; code 0."""
    monkeypatch.setattr(sys, "argv", ["vlp-bench", *map(str, words)])
    with console.capture() as captured:
        command.main()
    return captured.get()


def refused(monkeypatch, command, *words):
    """The one line of an error; code 2."""
    with stderr.capture() as captured, pytest.raises(SystemExit) as end:
        call(monkeypatch, command, *words)
    assert end.value.code == 2
    assert len(captured.get().strip().splitlines()) == 1
    return captured.get()


def test_words_of_model(monkeypatch, llama):
    for words, message in (
        (["shwo", llama], "shwo: model takes one word, show"),
        (["show"], "model= is missing"),
        (["show", llama, llama], "one model at a time"),
        (["show", llama, "prune_head=true"], "did you mean prune_heads?"),
    ):
        assert message in refused(monkeypatch, model, *words)


def test_model_show(monkeypatch, llama):
    said = " ".join(call(monkeypatch, model, "show", llama).split())
    for part in ("LlamaForCausalLM", "in 14 layers", "model.layers.0–1", "output embeddings lm_head.weight"):
        assert part in said
    assert "in 13 layers" in call(monkeypatch, model, "show", llama, "leave=[*.1.mlp.down_proj]")


@pytest.mark.parametrize("name", list(ZOO))
def test_model_show_needs_no_weights(monkeypatch, tmp_path, name):
    """A configuration alone says the same as the model."""
    ZOO[name].model().config.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    if '"architectures"' not in config or '"architectures": null' in config:
        kind = type(ZOO[name].model()).__name__
        config = config.replace('"architectures": null', f'"architectures": ["{kind}"]')
        if '"architectures"' not in config:
            config = config.replace("{", f'{{"architectures": ["{kind}"],', 1)
        (tmp_path / "config.json").write_text(config)
    experts = 2 * 2 * 4 if name == "mixtral" else 0
    assert f"in {ZOO[name].layers + experts} layers" in call(monkeypatch, model, "show", tmp_path)


@pytest.mark.parametrize(
    "words, message",
    [
        (["pruner=omp"], "model= and out= are missing: model: a folder with config.json and .safetensors, or"),
        (["model={}", "pruner=Wanda"], "pruner=Wanda: there is no such pruner; allowed: "),
        (["model={}", "pruner=Wanda"], "did you mean wanda"),
        (["model={}", "spasity=0.5"], "did you mean sparsity?"),
        (["model={}", "sparsity=1.5", "out=x"], "sparsity=1.5: expected numbers of at least 0 and below 1"),
        (["model={}", "sparsity=half", "out=x"], "sparsity=half: expected numbers"),
        (["model={}", "batch_size=0", "out=x"], "batch_size=0: at least 1 is needed"),
        (["model={}", "pruner=omp"], "out= is missing"),
        (
            ["model={}", "pruner=wanda", "out=x"],
            "pruner=wanda reads activations: give calibration=PATH, a folder of images",
        ),
        (["model={}", "pruner=snip", "out=x"], "pruner=snip reads gradients: give calibration=PATH"),
        (["model={}", "pruner=omp", "out=x", "modality=visoin"], "did you mean vision?"),
        (["model={}", "pruner=omp", "out=x", "modality=vision", "yes=true"], "modality=vision: this model has text"),
        (["model={}", "pruner=omp", "out=x", "leave=[*.attn]"], "leave=*.attn: no weight or module has such a name"),
        (["model={}", "pruner=omp", "out=x", "also=model.embed_tokens"], "can't be pruned: embedding"),
        (["model={}", "pruner=omp", "out=x", "device=tpu"], "device=tpu: use cpu, or cuda"),
        (["model={}", "pruner=omp", "out=x", "dtype=int8"], "dtype=int8: use one of float32"),
        (["model={}", "pruner=omp", "out=x", "pruner.colour=red"], "has no option 'colour'"),
        (["model={}", "pruner=omp", "out=x"], "nothing is pruned without approval"),
        (["model={}x", "pruner=omp", "out=x"], "there is no such folder; models in "),
        (["model=owner/name", "pruner=omp", "out=x"], "a repository of the hub is written hf:owner/name"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, tmp_path, llama, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(monkeypatch, prune, *(word.format(llama) for word in words))
    assert not list(tmp_path.iterdir())


def test_folders_that_hold_no_model_say_what_they_hold(monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    assert "no config.json in it; it holds notes.txt" in refused(monkeypatch, model, "show", tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["MyNet"], "model_type": "mine"}')
    (tmp_path / "pytorch_model.bin").write_text("")
    pruning = (f"model={tmp_path}", "pruner=omp", f"out={tmp_path / 'out'}", "yes=true")
    assert "no .safetensors in it (it holds config.json" in refused(monkeypatch, prune, *pruning)
    line = refused(monkeypatch, model, "show", tmp_path)  # which needs no weights
    assert "has no model MyNet (model_type 'mine'); code of the repository's own is never run" in line


def test_weights_that_are_missing_are_named(monkeypatch, tmp_path):
    from safetensors.torch import load_file, save_file

    place = folder("llama", tmp_path)
    state = load_file(place / "model.safetensors")
    gone = state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, place / "model.safetensors", {"format": "pt"})
    assert gone.numel()
    line = refused(monkeypatch, prune, f"model={place}", "pruner=omp", f"out={tmp_path / 'out'}", "yes=true")
    assert "missing model.layers.1.mlp.up_proj.weight" in line


def test_a_tokenizer_that_is_missing_is_named(monkeypatch, tmp_path):
    place = folder("llama", tmp_path)
    for file in place.glob("tokenizer*"):
        file.unlink()
    words = (f"model={place}", "pruner=wanda", f"calibration={texts(tmp_path)}", f"out={tmp_path / 'out'}", "yes=true")
    assert "has no tokenizer (tokenizer.json) that can be read: copy the files" in refused(monkeypatch, prune, *words)


class Terminal:
    """Stands for the keyboard."""

    def isatty(self):
        return True


@pytest.mark.parametrize("answer, done", [("y", True), ("yes", True), ("", False), ("n", False)])
def test_a_terminal_is_asked(monkeypatch, tmp_path, llama, answer, done):
    asked = []
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(console, "input", lambda text: asked.append(text) or answer)
    words = (f"model={llama}", "pruner=omp", f"out={tmp_path / 'out'}")
    if done:
        assert "written:" in call(monkeypatch, prune, *words)
    else:
        assert "nothing was pruned" in refused(monkeypatch, prune, *words)
    assert len(asked) == 1
    assert (tmp_path / "out").exists() == done


def test_patterns_and_parts_as_one_types_them(monkeypatch, tmp_path, llama):
    words = [f"model={llama}", "pruner=wanda", f"calibration={texts(tmp_path)}", "yes=true"]
    call(monkeypatch, prune, *words, "pruner.solve.within=2:4", f"out={tmp_path}/groups")
    mask = Solution.load(tmp_path / "groups" / "mask.safetensors").masks["model.layers.0.mlp.up_proj.weight"]
    assert mask.view(-1, 4).sum(1).eq(2).all()
    call(monkeypatch, prune, *words, "pruner/allocate=owl", f"out={tmp_path}/owl")
    assert (
        Solution.load(tmp_path / "owl" / "mask.safetensors").report["settings"]["allocate"]["_target_"].endswith("OWL")
    )


def test_words_of_a_pruner_as_a_run_takes_them(llama):
    """A plus sign means nothing here; a number is one however it is written, a pattern none."""
    words = ["+pruner/values=least_squares", "+pruner.values.damping=1e-3", "pruner.solve.within=2:4"]
    _, options = request_of([f"model={llama}", "out=x", "pruner=sparsegpt", *words, "pruner.solve.damping=2.5e1"])
    assert options == {
        "values": "least_squares",
        "values.damping": 0.001,
        "solve.within": "2:4",
        "solve.damping": 25.0,
    }
    pruner = catalogue.load("sparsegpt", options)
    assert pruner.values.keywords["damping"] == 0.001


def test_texts_reach_the_text_tower_of_two(monkeypatch, tmp_path):
    words = [f"model={folder('siglip', tmp_path)}", "pruner=wanda", f"calibration={texts(tmp_path)}", "yes=true"]
    call(monkeypatch, prune, *words, "modality=text", f"out={tmp_path}/out")
    found = Solution.load(tmp_path / "out" / "mask.safetensors").masks
    assert found
    assert all(name.startswith("text_model.") for name in found)


def test_a_folder_of_several_models_names_them(monkeypatch, tmp_path, llama):
    call(monkeypatch, prune, f"model={llama}", "pruner=omp", "sparsity=0.5,0.75", f"out={tmp_path}/out", "yes=true")
    for words in (("masks", "show", tmp_path / "out"), ("export", "report", tmp_path / "out")):
        command = {"masks": masks, "export": export}[words[0]]
        assert "2 pruned models: give one of" in refused(monkeypatch, command, *words[1:])


def test_a_smaller_folder_keeps_its_tokenizer(monkeypatch, tmp_path, llama):
    words = [f"model={llama}", "pruner=wanda_sp", f"calibration={texts(tmp_path)}", "yes=true", f"out={tmp_path}/out"]
    call(monkeypatch, prune, *words, "leave=[*.self_attn.*]")
    call(monkeypatch, export, "write", tmp_path / "out", tmp_path / "small", "--as", "smaller")
    card = (tmp_path / "small" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "smaller dense model" in card
    assert (tmp_path / "small" / "tokenizer.json").is_file()


def test_an_offloaded_model_is_written_as_the_one_in_memory(monkeypatch, tmp_path, llama):
    from safetensors.torch import load_file

    words = [f"model={llama}", "pruner=sparsegpt", f"calibration={texts(tmp_path)}", "yes=true", "sparsity=0.25,0.5"]
    call(monkeypatch, prune, *words, f"out={tmp_path}/whole")
    call(monkeypatch, prune, *words, "offload=true", f"out={tmp_path}/parts")
    for below in ("0.25", "0.5"):
        one, other = (load_file(tmp_path / out / below / "model.safetensors") for out in ("whole", "parts"))
        assert list(one) == list(other)
        assert all(weight.equal(other[name]) for name, weight in one.items())
        assert (tmp_path / "parts" / below / "config.json").is_file()
    line = refused(monkeypatch, prune, f"model={llama}", "pruner=omp", "offload=true", f"out={tmp_path}/x", "yes=true")
    assert "omp looks at all weights at once" in line


def test_an_offloaded_model_has_the_type_of_the_one_in_memory(monkeypatch, tmp_path):
    """config.json's, whatever single weights are stored as; what is written keeps that."""
    from safetensors.torch import load_file, save_file

    place = folder("llama", tmp_path)
    state = load_file(place / "model.safetensors")
    save_file({k: v.bfloat16() if "mlp" in k else v for k, v in state.items()}, place / "model.safetensors")
    config = (place / "config.json").read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"')
    (place / "config.json").write_text(config)
    (place / "variant.safetensors").write_bytes((place / "model.safetensors").read_bytes())
    words = [f"model={place}", "pruner=wanda", f"calibration={texts(tmp_path)}", "yes=true"]
    for out, offload in (("whole", "false"), ("parts", "true")):
        call(monkeypatch, prune, *words, f"offload={offload}", f"out={tmp_path}/{out}")
    one, other = (Solution.load(tmp_path / out / "mask.safetensors").masks for out in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(mask.equal(other[name]) for name, mask in one.items())
    whole, written = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "parts"))
    assert written["model.norm.weight"].equal(state["model.norm.weight"])
    assert whole.keys() == written.keys()
    assert all(weight.dtype == written[key].dtype and weight.equal(written[key]) for key, weight in whole.items())
    assert {weight.dtype for weight in whole.values()} == {torch.float32, torch.bfloat16}
    assert not (tmp_path / "parts" / "variant.safetensors").exists()


def test_new_values_are_written_in_the_type_of_the_old(monkeypatch, tmp_path):
    """In several files, whose index counts their bytes."""
    from safetensors.torch import load_file

    model = built("llama")
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(0.9, 1.1, 32))
    place, out = tmp_path / "model", tmp_path / "out"
    model.save_pretrained(place, max_shard_size="20KB")
    tokenizer().save_pretrained(place)
    config = (place / "config.json").read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"')
    (place / "config.json").write_text(config)
    words = [f"model={place}", "pruner=sparsegpt", f"calibration={texts(tmp_path)}", "yes=true", f"out={out}"]
    call(monkeypatch, prune, *words)
    found = {name: weight for file in out.glob("model*.safetensors") for name, weight in load_file(file).items()}
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert found["model.norm.weight"].equal(model.model.norm.weight)
    name = "model.layers.0.mlp.up_proj.weight"
    solution = Solution.load(out / "mask.safetensors")
    assert not found[name][~solution.masks[name]].any()
    assert found[name].bfloat16().equal(from_pretrained(out).get_parameter(name))
    assert not found[name].equal(found[name].bfloat16().float())  # of what was only kept the whole number
    call(monkeypatch, prune, *words, "dtype=bfloat16", "offload=true", "force=true")
    found = {name: weight for file in out.glob("model*.safetensors") for name, weight in load_file(file).items()}
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    content = json.loads((out / "model.safetensors.index.json").read_text())
    assert content["metadata"]["total_size"] == sum(own.nbytes for own in found.values())
    assert content["weight_map"].keys() == found.keys()
    assert from_pretrained(out).dtype == torch.bfloat16


def test_weights_that_an_offloaded_model_has_no_place_for_are_named(monkeypatch, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    place = folder("llama", tmp_path)
    state = load_file(place / "model.safetensors")
    more = ("model.layers.0.self_attn.rotary_emb.inv_freq", "vision.model.norm.weight", "model.layers.2.norm.weight")
    save_file(state | {name: torch.ones(2) for name in more}, place / "model.safetensors", {"format": "pt"})
    words = [f"model={place}", "pruner=wanda", f"calibration={texts(tmp_path)}", "yes=true"]
    line = "2 weights that a LlamaForCausalLM has no place for: model.layers.2.norm.weight, vision.model.norm.weight"
    for offload in ("false", "true"):
        caplog.clear()
        call(monkeypatch, prune, *words, f"offload={offload}", f"out={tmp_path}/{offload}")
        assert caplog.text.count("has no place for") == 1
        assert line in caplog.text


def test_a_plan_of_seven_billion_weights_needs_none_of_them(monkeypatch, tmp_path):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = LlamaConfig(vocab_size=32000, dtype="bfloat16", architectures=["LlamaForCausalLM"], **sizes)
    config.save_pretrained(tmp_path)
    words = (f"model={tmp_path}", "plan=true", "max_length=2048")
    said = call(monkeypatch, prune, *words, "pruner=sparsegpt")
    block, outside = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096, 2 * 32000 * 4096 + 4096
    for part in (
        f"weights: {2 * (32 * block + outside) / 2**30:.2f} GiB: {2 * outside / 2**30:.2f} GiB outside blocks, "
        f"{2 * block / 2**30:.2f} GiB in the largest block",
        f"on the device: {2 * (block + outside) / 2**30:.2f} GiB of weights with offload=true",
        f"between blocks: {128 * 2048 * 4096 * 2 / 2**30:.2f} GiB for 128 sequences of 2,048 tokens",
        f"passes: 2 forwards, 0 backwards over the calibration data: {4 * 32 * block * 128 * 2048 / 1e12:.0f} TFLOP",
        f"products: at most {8 * (6 * 4096**2 + 11008**2) / 2**30:.2f} GiB",
        "seconds: not said",
    ):
        assert part in said
    assert f"seconds: {4 * 32 * block * 128 * 2048 / 1e14:.0f} for the passes, at 100 TFLOP/s" in call(
        monkeypatch, prune, *words, "tflops=100"
    )
    for word in ("pruner/sweep=at_once", "+pruner/sweep=at_once"):  # all blocks' products lie there together
        assert f"products: at most {32 * 8 * (6 * 4096**2 + 11008**2) / 2**30:.2f} GiB" in call(
            monkeypatch, prune, *words, "pruner=wanda", "+pruner/values=least_squares", word
        )


def test_a_plan_of_a_small_model_has_units_and_places_of_its_size(monkeypatch, llama, tmp_path):
    """Llama of 128 places is shown no text of 512 tokens; bytes are said in a unit that leaves something to say."""
    said = call(monkeypatch, prune, f"model={llama}", "plan=true", "pruner=wanda", "num_samples=4")
    assert "0.00" not in said
    assert "KiB for 4 sequences of 128 tokens" in said
    assert "KiB in the largest block" in said
    assert "for 4 sequences of 32 tokens" in call(
        monkeypatch, prune, f"model={llama}", "plan=true", "pruner=wanda", "num_samples=4", "max_length=32"
    )
    sees = folder("vit", tmp_path)  # 16 pixels in patches of 4, and a token for all
    assert "sequence of 17 tokens" in call(monkeypatch, prune, f"model={sees}", "plan=true", "num_samples=1")


@pytest.mark.parametrize(
    ("pruner", "passes", "by_block"),
    [
        ("wanda", "passes: 2 forwards, 0 backwards", True),
        ("ecoflap", "passes: at least 14 forwards, 0 backwards", True),  # losses for every layer's share
        ("ecoflap_first", "passes: 3 forwards, 1 backwards", True),
        ("owl", "passes: 3 forwards, 0 backwards", True),
        ("omp", "passes: 0 forwards, 0 backwards", False),
        ("chita", "passes: at least 1 forwards, 1 backwards", False),
    ],
)
def test_a_plan_counts_the_passes_for_budgets_and_offers_no_offloading_in_vain(
    monkeypatch, llama, pruner, passes, by_block
):
    said = call(monkeypatch, prune, f"model={llama}", "plan=true", f"pruner={pruner}", "num_samples=4")
    assert passes in said
    assert ("with offload=true" in said, "between blocks" in said) == (by_block, by_block)


def test_a_pattern_of_another_sparsity_is_refused_before_anything_is_read(monkeypatch, tmp_path, llama):
    words = ("pruner.solve.within=2:4", f"out={tmp_path / 'out'}", "calibration=nowhere", "yes=true")
    line = refused(monkeypatch, prune, f"model={llama}", "sparsity=0.5,0.6", *words)
    assert "sparsity=0.6: 2:4 keeps 2 of every 4 weights, which is sparsity 0.5: ask for that" in line
    assert "calibration=nowhere" in refused(monkeypatch, prune, f"model={llama}", "sparsity=0.5", *words)


def test_the_page_about_models_that_are_larger_than_the_device(monkeypatch, tmp_path, llama):
    page = (Path(__file__).parents[2] / "docs" / "prune-your-own-model.md").read_text(encoding="utf-8")
    section = page.split("### A model that is larger than the device")[1]
    planning, pruning = (line.split()[2:] for line in section.split("```")[1].splitlines()[1:])
    given = {"FOLDER": llama, "PATH": texts(tmp_path), "PRUNED": tmp_path / "out"}

    def words(line):
        return [re.sub("=(FOLDER|PATH|PRUNED)$", lambda found: f"={given[found[1]]}", word) for word in line]

    said = call(monkeypatch, prune, *words(planning))
    shown = section.split("```text")[1].split("```")[0]
    assert [line.split(":")[0] for line in said.splitlines() if ": " in line][-6:] == [
        line.split(":")[0] for line in shown.strip().splitlines()
    ]
    call(monkeypatch, prune, *[word for word in words(pruning) if word != "device=cuda"], "yes=true")
    assert Solution.load(tmp_path / "out" / "mask.safetensors").sparsity == pytest.approx(0.5, abs=1e-3)


def test_sixteen_bits_are_said_to_be_slow_where_they_are(monkeypatch, llama, tmp_path):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    given = [f"model={llama}", "sparsity=0.5", f"calibration={texts(tmp_path)}", "yes=true"]
    hint = "dtype=float32 takes twice the memory"
    assert hint in call(monkeypatch, prune, *given, "pruner=wanda", "dtype=bfloat16", f"out={tmp_path}/a")
    assert hint not in call(monkeypatch, prune, *given, "pruner=wanda", "dtype=float32", f"out={tmp_path}/b")
    omp = [word for word in given if not word.startswith("calibration")]
    assert hint not in call(monkeypatch, prune, *omp, "pruner=omp", "dtype=bfloat16", f"out={tmp_path}/c")
