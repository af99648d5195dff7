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


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_a_whole_checkpoint_is_found_with_all_its_shards(tiny_copy):
    checkpoint = find_checkpoint(str(tiny_copy))
    assert list(checkpoint.files) == shards(tiny_copy) and len(checkpoint.files) > 1
    assert checkpoint.nbytes == sum(p.stat().st_size for p in shards(tiny_copy))


def test_the_fingerprint_changes_with_the_files(tiny_copy):
    before = find_checkpoint(str(tiny_copy)).fingerprint
    assert find_checkpoint(str(tiny_copy)).fingerprint == before
    shard = shards(tiny_copy)[0]
    save_file(load_file(shard), shard, metadata={"format": "pt", "changed": "yes"})
    assert find_checkpoint(str(tiny_copy)).fingerprint != before


def test_the_fingerprint_changes_with_the_tokenizer(tiny_copy):
    before = find_checkpoint(str(tiny_copy)).fingerprint
    with (tiny_copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert find_checkpoint(str(tiny_copy)).fingerprint != before


def test_a_missing_folder_lists_the_samples():
    assert "tiny" in refusal("./no-such-folder")


def test_a_folder_without_config_says_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    assert "notes.md" in refusal(tmp_path)


def test_an_adapter_folder_is_recognised(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter=" in refusal(tmp_path)


def test_a_config_that_is_no_json_is_named(tiny_copy):
    (tiny_copy / "config.json").write_text("{oops")
    assert "config.json" in refusal(tiny_copy)


def test_an_unknown_architecture_is_named(tiny_copy):
    path = tiny_copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["LlamaForTelepathy"]}))
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
    index = json.loads(path.read_text())
    dropped = shards(tiny_copy)[-1].name
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != dropped}
    path.write_text(json.dumps(index))
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
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    other = next(s.name for s in shards(tiny_copy) if s.name != index["weight_map"][name])
    index["weight_map"][name] = other
    path.write_text(json.dumps(index))
    assert name in refusal(tiny_copy)


def test_code_from_the_checkpoint_is_never_run_and_the_refusal_names_the_ways_on(tiny_copy, tmp_path):
    witness = tmp_path / "it-ran"
    (tiny_copy / "modeling_own.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass OwnModel: pass\n")
    path = tiny_copy / "config.json"
    config = json.loads(path.read_text())
    config.update(architectures=["OwnModel"], auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    path.write_text(json.dumps(config))
    text = refusal(tiny_copy)
    assert not witness.exists()
    assert "loader=" in text and "--trust-remote-code" in text and "diagnose(model)" in text


def test_an_own_model_type_is_refused_the_same_way(tiny_copy):
    path = tiny_copy / "config.json"
    config = json.loads(path.read_text())
    config.update(model_type="own-type", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    path.write_text(json.dumps(config))
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
