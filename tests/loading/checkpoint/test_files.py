"""Files are checked before a weight is read; each message says what is missing and what to do."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

import diag
from diag.errors import CheckpointError
from diag.loading.checkpoint.find import find_checkpoint


def refusal(folder, **values) -> str:
    """The error that a load of this folder gives, which must be ours."""
    outcome = diag.load(diag.LoadSpec(str(folder), **values))
    assert isinstance(outcome.error, CheckpointError), repr(outcome.error)
    assert outcome.model is None and "Next:" in str(outcome.error)
    return str(outcome.error)


def edit(path, **values):
    """Sets values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_a_whole_checkpoint_is_found_with_all_its_shards(tiny_copy):
    checkpoint = find_checkpoint(str(tiny_copy))
    assert list(checkpoint.files) == shards(tiny_copy) and len(checkpoint.files) > 1
    assert checkpoint.nbytes == sum(p.stat().st_size for p in shards(tiny_copy))


def test_the_fingerprint_changes_with_the_files_and_with_the_tokenizer(tiny_copy):
    first = find_checkpoint(str(tiny_copy)).fingerprint
    assert find_checkpoint(str(tiny_copy)).fingerprint == first
    shard = shards(tiny_copy)[0]
    save_file(load_file(shard), shard, metadata={"format": "pt", "changed": "yes"})
    second = find_checkpoint(str(tiny_copy)).fingerprint
    with (tiny_copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert len({first, second, find_checkpoint(str(tiny_copy)).fingerprint}) == 3


def test_a_missing_folder_lists_the_samples():
    assert "tiny" in refusal("./no-such-folder")


@pytest.mark.parametrize(("name", "says"), [("notes.md", "notes.md"), ("adapter_config.json", "adapter=")])
def test_a_folder_without_config_says_what_it_holds_and_an_adapter_is_recognised(tmp_path, name, says):
    (tmp_path / name).write_text("{}")
    assert says in refusal(tmp_path)


def test_a_config_that_is_no_json_is_named(tiny_copy):
    (tiny_copy / "config.json").write_text("{oops")
    assert "config.json" in refusal(tiny_copy)


def test_an_unknown_architecture_is_named(tiny_copy):
    edit(tiny_copy / "config.json", architectures=["LlamaForTelepathy"])
    assert "LlamaForTelepathy" in refusal(tiny_copy)


def test_a_folder_without_weights_says_so(tiny_copy):
    for path in [*shards(tiny_copy), tiny_copy / "model.safetensors.index.json"]:
        path.unlink()
    assert "no weights" in refusal(tiny_copy)


def test_a_shard_that_is_not_there_is_named_with_a_tensor_it_should_hold(tiny_copy):
    gone = shards(tiny_copy)[1]
    gone.unlink()
    text = refusal(tiny_copy)
    assert gone.name in text and "tensors" in text


def test_a_shard_that_the_index_does_not_mention_is_named(tiny_copy):
    path = tiny_copy / "model.safetensors.index.json"
    dropped, placed = shards(tiny_copy)[-1].name, json.loads(path.read_text())["weight_map"]
    edit(path, weight_map={key: name for key, name in placed.items() if name != dropped})
    assert dropped in refusal(tiny_copy)


@pytest.mark.parametrize("damaged", [lambda data: data[:-100], lambda data: data + b"x"])
def test_a_shard_of_another_size_is_named_before_anything_is_read(tiny_copy, damaged):
    shard = shards(tiny_copy)[0]
    shard.write_bytes(damaged(shard.read_bytes()))
    text = refusal(tiny_copy)
    assert shard.name in text and "damaged" in text


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 100])
def test_a_shard_without_a_header_is_named(tiny_copy, content):
    broken = shards(tiny_copy)[0]
    broken.write_bytes(content)
    assert broken.name in refusal(tiny_copy)


def test_a_tensor_that_the_index_misplaces_is_named(tiny_copy):
    path = tiny_copy / "model.safetensors.index.json"
    placed = json.loads(path.read_text())["weight_map"]
    name = next(iter(placed))
    edit(path, weight_map={**placed, name: next(s.name for s in shards(tiny_copy) if s.name != placed[name])})
    assert name in refusal(tiny_copy)


def test_code_from_the_checkpoint_is_never_run_and_the_refusal_names_the_ways_on(tiny_copy, tmp_path):
    witness = tmp_path / "it-ran"
    (tiny_copy / "modeling_own.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass OwnModel: pass\n")
    own = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit(tiny_copy / "config.json", architectures=["OwnModel"], auto_map=own)
    text = refusal(tiny_copy)
    assert not witness.exists()
    assert "loader=" in text and "--trust-remote-code" in text and "diagnose(model)" in text


def test_an_own_model_type_is_refused_the_same_way(tiny_copy):
    edit(tiny_copy / "config.json", model_type="own-type", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    assert "--trust-remote-code" in refusal(tiny_copy)


def test_a_hub_model_that_is_not_cached_says_so_offline():
    text = refusal("nobody/no-such-model")
    assert "not in the cache" in text and "tiny" in text


def test_a_quantized_checkpoint_loads_as_stored_and_refuses_another(tmp_path):
    source = diag.load(diag.LoadSpec("tiny", device_map="cpu", quantization="nf4")).model
    source.save_pretrained(tmp_path)
    stored = diag.load(diag.LoadSpec(str(tmp_path), device_map="cpu", quantization="as-stored"))
    assert "nf4" in set(diag.placement(stored.model).quantization)
    for other in ("none", "int8"):
        error = diag.load(diag.LoadSpec(str(tmp_path), quantization=other)).error
        assert "as-stored" in str(error)
    assert "not stored quantized" in str(diag.load(diag.LoadSpec("tiny", quantization="as-stored")).error)
