"""`vlp-bench prune` on folders of tiny models: what is written loads again with exactly the zeros."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import vlp_bench
from tests.models.foreign.zoo import ZOO, built
from tests.runs.own_model.folders import PROCESSORS, chats, folder, lines, pictures, texts, tokenizer
from vlp_bench.commands import export, masks
from vlp_bench.data.readers.calibration_sets import read_set
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.likelihood import longest
from vlp_bench.runs.own_model.prune import prune
from vlp_bench.runs.own_model.request import request_of
from vlp_bench.runs.terminal.console import console

SEEN = ("vit", "dinov2")
PAIRED = ("siglip", "clip", "blip", "blip_questions", "blip2", "blip2_t5", "paligemma")
SPOKEN = ("llava", "llava_onevision", "smolvlm", "gemma3", "idefics3", "qwen2_5_vl", "qwen3_vl")
READ = ("t5", "bart", "bert", "gpt2", "llama", "mixtral")
SETS = {"pictures": (*SEEN, *PAIRED, "llava", "qwen2_5_vl"), "texts": READ, "chats": SPOKEN}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    return {"pictures": pictures(place / "beside", listed=False), "texts": texts(place), "chats": chats(place)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders by name, each made when it is first asked for."""
    place, made = tmp_path_factory.mktemp("folders"), {}
    return lambda name: made[name] if name in made else made.setdefault(name, folder(name, place))


def pruned(place, out, **words):
    request, options = request_of([f"model={place}", f"out={out}", "yes=true", *(f"{k}={v}" for k, v in words.items())])
    with console.capture() as captured:
        found = prune(request, options, console)
    return found, captured.get()


def check(out, name, solution, sparsity):
    """What was written loads, is sparse where the mask says so and dense elsewhere."""
    again, dense = from_pretrained(out), built(name)
    assert solution.kept == solution.total - round(sparsity * solution.total)
    parameters = dict(again.named_parameters())
    for key, parameter in dense.named_parameters():
        mask = solution.masks.get(key, torch.ones_like(parameter, dtype=torch.bool)).clone()
        for number in range(len(parameter) if parameter.ndim == 3 else 0):
            mask[number] &= solution.masks.get(f"{key}[{number}]", mask[number])
        assert parameters[key].equal(parameter.masked_fill(~mask, 0)), key
    assert vlp_bench.Solution.load(out / "mask.safetensors").masks.keys() == solution.masks.keys()


def chosen_in_turn():
    """Every model with two of the four pruners, each in its turn; with the others where there is time."""
    pairs = [(kind, name) for kind, names in SETS.items() for name in names]
    for number, (kind, name) in enumerate(pairs):
        for place, pruner in enumerate(("omp", "wanda", "multiflow", "snip")):
            yield pytest.param(kind, name, pruner, marks=[] if (number + place) % 2 == 0 else [pytest.mark.slow])


@pytest.mark.parametrize(("kind", "name", "pruner"), list(chosen_in_turn()))
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor, of tensors
def test_from_a_folder_to_a_folder(sets, folders, tmp_path, kind, name, pruner):
    words = {"pruner": pruner, "sparsity": 0.5, "batch_size": 5, "calibration": sets[kind]}
    if pruner == "snip" and name in SEEN:
        with pytest.raises(ValueError, match="has no loss for a batch of pixel_values"):
            pruned(folders(name), tmp_path / "out", **words)
        assert not list(tmp_path.iterdir())
        return
    [(solution, out)], said = pruned(folders(name), tmp_path / "out", **words)
    check(out, name, solution, 0.5)
    if pruner != "snip" and name != "mixtral":  # LLaVA's last layer of vision has no gradient, and stays dense
        assert len(solution.masks) == ZOO[name].layers
    assert f"next: vlp-bench export report {out}" in said
    assert ("12 of 12" in said) == (pruner != "omp")


def test_several_sparsities_and_what_lies_beside(sets, folders, tmp_path):
    words = {"pruner": "wanda", "sparsity": "0.5,0.75", "calibration": sets["pictures"], "num_samples": 6}
    found, said = pruned(folders("siglip"), tmp_path / "out", **words)
    assert [out.name for _, out in found] == ["0.5", "0.75"]
    for (solution, out), sparsity in zip(found, (0.5, 0.75), strict=True):
        check(out, "siglip", solution, sparsity)
        for file in ("tokenizer.json", "processor_config.json", "config.json"):
            assert (out / file).is_file()
        assert isinstance(transformers.AutoModel.from_pretrained(out), transformers.SiglipModel)
        card = (out / "README.md").read_text()
        told = ("library_name: transformers", "**wanda**", "| vision |", "6 of 12 images with captions")
        for part in (*told, "three projections in one matrix", solution.report["hashes"]["calibration"]):
            assert part in card
        assert str(tmp_path) not in card  # nobody's folders are told
    for part in ("vision_model.encoder.layers.0–1", "at 0.75", "75.00 %", "embedding"):
        assert part in said


def test_masks_and_export_read_the_folder(folders, tmp_path):
    """LLaVA's file has other names than its modules."""
    [(_, out)], _ = pruned(folders("llava"), tmp_path / "out", pruner="omp", sparsity=0.5)
    with console.capture() as captured:
        masks.main(["show", str(out)])
        export.main(["write", str(out), str(tmp_path / "packed.safetensors"), "--as", "packed"])
        export.main(["report", str(out), "--tokens", "1", "--rounds", "1", "--device", "cpu"])
    assert "method       omp" in captured.get()
    assert "50.00 % zero" in captured.get()


def test_one_modality_patterns_and_heads(folders, tmp_path):
    place = folders("llama")
    words = {"pruner": "omp", "sparsity": 0.5}
    [(whole, _)], _ = pruned(place, tmp_path / "a", **words, prune_heads="true")
    assert "lm_head.weight" in whole.masks
    [(some, _)], _ = pruned(place, tmp_path / "b", **words, leave="[*.layers.0,*.down_proj]")
    assert len(some.masks) == 6
    [(also, _)], _ = pruned(place, tmp_path / "c", **words, also="lm_head")
    assert set(also.masks) == set(whole.masks)
    [(seen, _)], _ = pruned(folders("clip"), tmp_path / "d", **words, modality="vision")
    assert all(name.startswith("vis") for name in seen.masks)
    assert len(seen.masks) == 13


def test_options_of_the_pruner_and_the_seed(folders, tmp_path):
    words = {"pruner": "random", "sparsity": 0.5}
    found = [pruned(folders("llama"), tmp_path / str(n), **words, seed=n // 2)[0][0][0] for n in range(3)]
    same = lambda a, b: all(a.masks[name].equal(b.masks[name]) for name in a.masks)  # noqa: E731
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    words = {"pruner": "omp", "sparsity": 0.5, "pruner.allocate": "uniform", "pruner.solve.within": "output"}
    [(row, _)], _ = pruned(folders("llama"), tmp_path / "row", **words)
    name = next(iter(row.masks))
    assert set(row.masks[name].sum(1).tolist()) == {row.masks[name].shape[1] // 2}


def test_a_repository_of_the_hub_is_called_by_its_name(folders, tmp_path, monkeypatch):
    place = folders("llama")
    monkeypatch.setattr("vlp_bench.models.foreign.loading.located", {"hf:owner/name": place}.__getitem__)
    [(_, out)], said = pruned("hf:owner/name", tmp_path / "out", pruner="omp", sparsity=0.5)
    assert "hf:owner/name (LlamaForCausalLM)" in said
    assert "# hf:owner/name, omp at 50 %" in (out / "README.md").read_text()


def test_chats_without_images_for_a_language_model(folders, tmp_path):
    """What its template writes is read as it stands."""
    place = folder("llama", tmp_path)
    (place / "chat_template.jinja").write_text("<s> {% for m in messages %}{{ m.content }} {% endfor %}")
    turns = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]
    file = lines(tmp_path / "chats.jsonl", [{"messages": turns}])
    found = read_set(file)
    [batch] = Inputs(from_pretrained(place), place).batches(found.examples(1), found.kind, 4)
    assert batch["input_ids"].tolist() == [[1, 4, 6, 5]]
    _, said = pruned(place, tmp_path / "out", pruner="wanda", sparsity=0.5, calibration=file)
    assert "1 of 1 chats" in said


def test_a_pruner_for_one_modality(sets, folders, tmp_path):
    words = {"pruner": "multiflow", "sparsity": 0.5, "calibration": sets["pictures"], "pruner.modality": "vision"}
    [(solution, _)], _ = pruned(folders("clip"), tmp_path / "out", **words)
    assert all(name.startswith("vis") for name in solution.masks)


def test_weights_that_no_module_takes_are_named(folders, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    place = folder("llama", tmp_path)
    state = load_file(place / "model.safetensors") | {"other.weight": torch.ones(2, 2)}
    save_file(state, place / "model.safetensors", {"format": "pt"})
    pruned(place, tmp_path / "out", pruner="omp", sparsity=0.5)
    assert "holds 1 weight that a LlamaForCausalLM has no place for: other.weight" in caplog.text


def test_memory_that_runs_out_is_one_line(sets, folders, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("vlp_bench.runs.own_model.prune.unreached", full)
    words = {"pruner": "wanda", "sparsity": 0.5, "calibration": sets["pictures"]}
    with pytest.raises(ValueError, match="cpu is out of memory: give a smaller batch_size= or max_length="):
        pruned(folders("clip"), tmp_path / "out", **words)
    with pytest.raises(ValueError, match="give dtype=bfloat16 or device=cpu"):
        pruned(folders("clip"), tmp_path / "out", **words, batch_size=1)


def test_another_dtype(folders, tmp_path):
    [(_, out)], _ = pruned(folders("llama"), tmp_path / "out", pruner="omp", sparsity=0.5, dtype="bfloat16")
    assert from_pretrained(out).dtype == torch.bfloat16


def test_llava_s_conversations(sets, folders, tmp_path):
    rows = [
        {"image": f"pictures/{n}.png", "conversations": [
            {"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": "a red dog"}
        ]} for n in range(4)
    ]  # fmt: skip
    file = sets["chats"].parent / "llava.json"
    file.write_text(json.dumps(rows))
    _, said = pruned(folders("llava"), tmp_path / "out", pruner="wanda", sparsity=0.5, calibration=file)
    assert "4 of 4 chats" in said


def test_texts_prune_what_reads_texts(sets, folders, tmp_path):
    words = {"pruner": "wanda", "sparsity": 0.5, "calibration": sets["texts"]}
    with pytest.raises(
        ValueError, match=r"do not reach the vision layers: .* or prune what reads texts only: modality="
    ):
        pruned(folders("llava"), tmp_path / "out", **words)
    [(solution, _)], _ = pruned(folders("llava"), tmp_path / "out", **words, modality="text")
    assert len(solution.masks) == 14


def test_a_failed_write_leaves_nothing(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("vlp_bench.runs.own_model.writing.model_card", lambda *_, **__: 1 / 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(ZeroDivisionError):
        pruned(folders("llama"), tmp_path / "out", pruner="omp", sparsity=0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").iterdir())


WRITER = (
    "import sys, pathlib; from vlp_bench.runs.own_model.writing import whole\n"
    "with whole(pathlib.Path(sys.argv[1])) as folder:\n"
    "  (folder / 'model.safetensors').touch(); print(folder.name, flush=True); sys.stdin.read()"
)


def test_what_a_killed_process_leaves_is_removed_and_nothing_else(folders, tmp_path):
    out, words = tmp_path / "out", {"pruner": "omp", "sparsity": 0.5}
    for name in (".out.unlocked", ".other.abcdefgh", ".out.abcdefghi"):
        (tmp_path / name).mkdir()
    for name in (".other.abcdefgh", ".out.abcdefghi"):
        (tmp_path / name / ".lock").touch()
    kept = {"out", ".out.unlocked", ".other.abcdefgh", ".out.abcdefghi", ".out.linkedto"}
    (tmp_path / ".out.linkedto").symlink_to(tmp_path / ".other.abcdefgh")
    command = [sys.executable, "-c", WRITER, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        left = other.stdout.readline().strip()
        pruned(folders("llama"), out, **words)
        assert {path.name for path in tmp_path.iterdir()} == {*kept, left}
        assert (tmp_path / left / "model.safetensors").is_file()
        other.kill()
        other.wait()
    pruned(folders("llama"), out, **words, force="true")
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert not (out / ".lock").exists()


def test_a_file_system_without_locks_is_written_to(folders, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", none)
    monkeypatch.setattr("fcntl.fcntl", none)
    (tmp_path / ".out.abcdefgh").mkdir()
    (tmp_path / ".out.abcdefgh" / ".lock").touch()
    pruned(folders("llama"), tmp_path / "out", pruner="omp", sparsity=0.5)
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.abcdefgh"}
    assert not (tmp_path / "out" / ".lock").exists()


def test_force_replaces_a_folder(folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    words = {"pruner": "omp", "sparsity": 0.5}
    with pytest.raises(ValueError, match="is there already: choose another folder, or replace it with force=true"):
        pruned(folders("llama"), tmp_path / "out", **words)
    pruned(folders("llama"), tmp_path / "out", **words, force="true")
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    words = {"pruner": "wanda", "calibration": tmp_path / "gone.jsonl"}
    with pytest.raises(ValueError, match=r"^out=.*/file/below: .*/file is a file: choose another folder$"):
        pruned(folders("llama"), tmp_path / "file" / "below", **words)
    with pytest.raises(ValueError, match=r"^out=.*x can't be written \(.*: File name too long\): choose another$"):
        pruned(folders("llama"), tmp_path / ("x" * 250), **words)
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path.name == "mounted")
    (tmp_path / "mounted").mkdir()
    with pytest.raises(ValueError, match="mounted is a mount point, which can't be replaced: give a folder below it"):
        pruned(folders("llama"), tmp_path / "mounted", **words)


@pytest.mark.parametrize("made", [True, False])
def test_a_link_to_a_folder_stays_one(folders, tmp_path, made):
    """A large disk that a link leads to is where the model was to go."""
    (tmp_path / "disk").mkdir()
    if made:
        (tmp_path / "disk" / "models").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "models")
    pruned(folders("llama"), tmp_path / "out", pruner="omp")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "models" / "model.safetensors").is_file()


def test_sparsities_that_are_close_have_folders_of_their_own(folders, tmp_path):
    pruned(folders("llama"), tmp_path / "out", pruner="omp", sparsity="0.5,0.5000001")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.5", "0.5000001"}


def test_words_longer_than_the_model_s_table_are_refused(folders, tmp_path):
    place = folder("llama", tmp_path / "model")
    content = json.loads((place / "tokenizer.json").read_text())
    content["model"]["vocab"]["strange"] = 64
    (place / "tokenizer.json").write_text(json.dumps(content))
    file = lines(tmp_path / "texts.jsonl", [{"text": "a strange dog"}] * 2)
    with pytest.raises(ValueError, match="gives the id 64, the model has 64 words: it is another's"):
        pruned(place, tmp_path / "out", pruner="wanda", sparsity=0.5, calibration=file)


def refused(place, tmp_path, message, **words):
    with pytest.raises(ValueError, match=message) as error:
        pruned(place, tmp_path / "out", **words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_which_nothing_goes(tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", tmp_path, r"nothing of it is pruned, the table says why; also=", pruner="omp")


@pytest.mark.parametrize("pruner", ["wanda", "snip"])
def test_a_model_that_reads_pixels_as_words_is_calibrated_on_images(sets, tmp_path, pruner):
    sizes = {"vocab_size": 17, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 4}
    config = transformers.ImageGPTConfig(**sizes)
    transformers.ImageGPTForCausalImageModeling(config).save_pretrained(tmp_path / "model")
    colours = torch.linspace(-1, 1, 48).view(16, 3).tolist()
    size = {"height": 4, "width": 4}
    transformers.ImageGPTImageProcessorPil(clusters=colours, size=size).save_pretrained(tmp_path / "model")
    words = {"pruner": pruner, "sparsity": 0.5}
    refused(
        tmp_path / "model", tmp_path, r"holds texts, .* do not reach the vision layers: give images", **words,
        calibration=sets["texts"],
    )  # fmt: skip
    [(solution, _)], said = pruned(tmp_path / "model", tmp_path / "out", **words, calibration=sets["pictures"])
    assert (solution.sparsity, len(solution.masks)) == (0.5, 4)
    assert "12 of 12 images" in said


def test_a_model_of_sounds_is_calibrated_by_no_set(sets, tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 64, "num_mel_bins": 8}
    signs = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = transformers.WhisperConfig(**sizes, **heads, **signs, max_source_positions=8, max_target_positions=16)
    transformers.WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    refused(
        tmp_path / "model", tmp_path, r"reads input_features, neither images nor texts: a pruner that reads weights",
        pruner="wanda", calibration=sets["texts"],
    )  # fmt: skip
    [(solution, _)], _ = pruned(tmp_path / "model", tmp_path / "out", pruner="omp")
    assert solution.sparsity == 0.5


def test_what_the_model_says_of_the_first_batch_is_one_line(sets, tmp_path):
    """Found when it is asked which layers are reached, before any statistic."""
    vision, words = ({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
                     {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64})  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vision, image_size=16, patch_size=4),
        transformers.GPT2Config(**words, add_cross_attention=True, is_decoder=True),
    )
    transformers.VisionEncoderDecoderModel(config).save_pretrained(tmp_path / "model")
    PROCESSORS["vit"]().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    refused(
        tmp_path / "model", tmp_path, r"the model can't take calibration batch 0 \(.*has no attribute 'pad_token_id'",
        pruner="wanda", calibration=sets["pictures"],
    )  # fmt: skip


def test_weights_that_are_codes_or_called_otherwise_or_an_adapter_s(tmp_path):
    place = folder("llama", tmp_path / "model")
    config = json.loads((place / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (place / "config.json").write_text(json.dumps(quantised))
    refused(place, tmp_path, r"its weights are quantised \(gptq\): give the model as it was before that", pruner="omp")
    nested = config | {"text_config": {"quantization_config": {"quant_method": "awq"}}}
    (place / "config.json").write_text(json.dumps(nested))
    refused(place, tmp_path, r"its weights are quantised \(awq\)", pruner="omp")
    (place / "config.json").write_text(json.dumps(config))
    state = load_file(place / "model.safetensors")
    codes = {name: (100 * t).to(torch.int8) if "mlp" in name else t for name, t in state.items()}
    save_file(codes, place / "model.safetensors")
    refused(place, tmp_path, r"quantised \(model\.layers\.0\.mlp\.down_proj\.weight is stored as I8\)", pruner="omp")
    save_file(state, place / "model.safetensors")
    (place / "model.safetensors").rename(place / "model.fp16.safetensors")
    refused(place, tmp_path, r"its weights are called model\.fp16\.safetensors, and from_pretrained looks for model\.s")
    (place / "config.json").rename(place / "adapter_config.json")
    refused(place, tmp_path, r"no config\.json in it; .*it is an adapter: merge it into its model")


def test_a_score_of_ones_own_is_allowed_by_name(sets, folders, tmp_path, monkeypatch):
    score = "def smallest(layer, calibration, power: float = 1.0):\n    return -layer.matrix.abs() ** power\n"
    (tmp_path / "scores_of_mine.py").write_text(score)
    monkeypatch.syspath_prepend(tmp_path)
    named = {"pruner": "omp", "pruner.solve.score._target_": "scores_of_mine.smallest"}
    refused(folders("clip"), tmp_path, r"scores_of_mine\.smallest: only what conf/ names .* allow=\[NAME\]", **named)
    allowed = named | {"allow": "[scores_of_mine.smallest]", "calibration": sets["pictures"]}
    [(solution, out)], _ = pruned(folders("clip"), tmp_path / "out", **allowed)
    key = "text_model.encoder.layers.0.mlp.fc1.weight"
    weight, mask = dict(built("clip").named_parameters())[key].abs(), solution.masks[key]
    assert weight[mask].max() <= weight[~mask].min()
    assert "scores_of_mine.smallest" in str(vlp_bench.Solution.load(out / "mask.safetensors").report["settings"])


@pytest.mark.parametrize("out", ["model", ".", "texts"])
def test_what_is_read_is_not_replaced(tmp_path, monkeypatch, out):
    """Neither the model, nor what it is calibrated on, nor a folder around them."""
    monkeypatch.chdir(tmp_path)
    folder("llama", tmp_path / "model")
    texts(tmp_path), (tmp_path / "texts").mkdir(), (tmp_path / "texts.jsonl").rename("texts/a.jsonl")
    words = ["model=model/llama", "calibration=texts/a.jsonl", f"out={out}", "force=true"]
    with pytest.raises(ValueError, match=rf"^out={out} would replace (model|calibration)=.*: choose another folder$"):
        request_of(words)
    request_of([*words[:2], "out=texts/pruned", "force=true"])


def test_a_set_that_is_not_read_is_told(folders, tmp_path):
    words = {"pruner": "omp", "calibration": "nowhere", "pruning_precision": "bf16"}
    _, shown = pruned(folders("llama"), tmp_path / "out", **words)
    assert "pruner=omp reads weights only: calibration= is not read" in shown
    assert "pruning_precision=bf16 has no effect: pruner=omp makes no pass over data" in shown


@pytest.mark.parametrize("plan", ["true", "false"])
def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_read(folders, tmp_path, plan):
    told = "pruning_precision=tf32: cpu has no TF32; use fp32, bf16 or auto"
    refused(folders("llama"), tmp_path, told, calibration="nowhere", pruning_precision="tf32", plan=plan)


def test_classes_that_the_model_has_no_labels_for_are_named(folders, tmp_path, caplog):
    for name in ("red", "blue"):
        pictures(tmp_path / "set" / name, 3, listed=False)
        for file in (tmp_path / "set" / name).glob("*.txt"):
            file.unlink()
    words = {"pruner": "snip", "calibration": tmp_path / "set", "batch_size": 2}
    refused(folders("vit"), tmp_path, "labels are needed", **words)
    assert [r.getMessage() for r in caplog.records if "class folders" in r.getMessage()] == [
        "2 of 2 class folders, the first is blue, are not in the labels of the model's config.json: the images have no "
        "labels, which a loss needs"
    ]


@pytest.mark.parametrize("offload", ["false", "true"])
def test_texts_of_one_length_go_together_where_padding_can_t_be_known(tmp_path, offload):
    """Funnel reads every second token from its second block on, and what stands for it is no token's."""
    sizes = {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1], "num_decoder_layers": 1}
    torch.manual_seed(0)
    config = transformers.FunnelConfig(vocab_size=64, **sizes)
    transformers.FunnelForMaskedLM(config).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    said = ["a red dog and a blue cat", "a blue cat and", "the cat of a red dog w20", "a dog of blue"]
    place = lines(tmp_path / "texts.jsonl", [{"text": text} for text in said])
    words = {"pruner": "wanda", "sparsity": 0.5, "calibration": place, "offload": offload}
    [(solution, _)], told = pruned(tmp_path / "model", tmp_path / "out", **words)
    assert "a FunnelForMaskedLM can't be calibrated on texts that are padded: those of one length go together" in told
    assert solution.sparsity == 0.5
    model = from_pretrained(tmp_path / "model")
    found = read_set(place)
    batches = Inputs(model, tmp_path / "model").batches(found.examples(128, 0), found.kind, 8, even=True)
    assert sorted(tuple(batch["input_ids"].shape) for batch in batches) == [(2, 4), (2, 7)]
    assert all(batch["attention_mask"].all() for batch in batches)
    expected = vlp_bench.prune(model, "wanda", 0.5, batches, vlp_bench.TransformersAdapter(model))
    assert all(mask.equal(expected.masks[name]) for name, mask in solution.masks.items())


def test_a_model_without_an_end_of_places_takes_what_its_tokenizer_allows(tmp_path):
    """XLNet says -1."""
    sizes = {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(vocab_size=64, **sizes))
    assert longest(model) is None
    tokenizer(model_max_length=5).save_pretrained(tmp_path)
    assert Inputs(model, tmp_path).texts(["a red dog a red dog"])["input_ids"].shape == (1, 5)


def test_what_a_processor_cannot_make_is_one_line(sets, folders, tmp_path, monkeypatch):
    """Of whatever kind its error is; what this package says itself stays as it is said."""

    def lost(*_, **__):
        raise AttributeError("'ViTImageProcessor' object has no attribute\n'apply_ocr'")

    monkeypatch.setattr(transformers.CLIPProcessor, "__call__", lost)
    said = r"the processor of .*clip can't make a batch for CLIPModel \('ViTImageProcessor' object has no attribute"
    refused(folders("clip"), tmp_path, said, pruner="wanda", calibration=sets["pictures"])
    bare = pictures(tmp_path / "bare", 2)
    (bare / "captions.jsonl").unlink()
    refused(folders("clip"), tmp_path, "^CLIPModel reads texts too", pruner="wanda", calibration=bare)


def test_all_files_of_a_tokenizer_are_copied(tmp_path):
    place = folder("llama", tmp_path)
    names = ("source.spm", "bpe.codes", "prophetnet.tokenizer", "additional_chat_templates/rag.jinja")
    modules = ("1_Pooling/config.json", "2_Dense/model.safetensors")  # sentence-transformers'
    others = ("optimizer.pt", "checkpoint-5/tokenizer_config.json")
    for name in (*names, *modules, *others):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(name)
    pruned(place, tmp_path / "out", pruner="omp")
    assert [(tmp_path / "out" / name).read_text() for name in (*names, *modules)] == [*names, *modules]
    assert not any((tmp_path / "out" / name).exists() for name in others)


def test_a_processor_s_second_tokenizer_is_copied(tmp_path):
    """Without it transformers takes the first tokenizer in its place: InstructBLIP's Q-Former read other words."""
    place = tmp_path / "instructblip"
    built("instructblip").save_pretrained(place)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "red": 1, "a": 2, "dog": 3}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    second = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    images = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    transformers.InstructBlipProcessor(images, tokenizer(), second, num_query_tokens=4).save_pretrained(place)
    pruned(place, tmp_path / "out", pruner="omp")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert again.qformer_tokenizer("a red dog")["input_ids"] == [2, 1, 3]
    assert again.tokenizer("a red dog")["input_ids"] == [4, 5, 6]


def test_data_that_reach_nothing_are_named(sets, tmp_path):
    """SqueezeBERT's layers are convolutions, and a loss of words has no use for its pooler."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.SqueezeBertConfig(**sizes, vocab_size=64, embedding_size=32)
    transformers.SqueezeBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    said = r"calibration=.*: nothing is left to prune with pruner=snip, as the layers above are not reached; give data"
    refused(tmp_path / "model", tmp_path, said, pruner="snip", calibration=sets["texts"])


def test_pruning_loads_nothing_of_what_fine_tuning_needs():
    heavy = "', '.join({'lightning', 'torchmetrics'} & set(sys.modules)) or 0"
    code = f"import sys, vlp_bench.runs.own_model.prune; sys.exit({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
