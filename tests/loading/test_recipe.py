"""load(): every preset loads what it says, a failure is an outcome, and nothing is left behind."""

from __future__ import annotations

import gc
import sys
import tempfile

import pytest
import torch
import transformers

import diag
from diag.errors import CheckpointError, CouldNotJudgeError, DiagError, MissingLibraryError, SpecError, UnsupportedError
from diag.machine.accelerators import accelerator_name
from diag.values.spec import PRESETS

pytestmark = pytest.mark.usefixtures("real_machine")

ON_CPU = ("auto", "balanced", "balanced_low_0", "sequential", "single", "none", "cpu")


def load(model="tiny", **values):
    return diag.load(diag.LoadSpec(model, **values))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads_every_tensor(preset):
    outcome = load(device_map=preset)
    assert outcome.error is None, outcome.error
    table = diag.placement(outcome.model)
    assert set(table.backing) <= {"resident", "offloaded"}
    assert outcome.missing_keys == ()
    assert outcome.seconds > 0 and outcome.peak_bytes["cpu"] >= 0


@pytest.mark.parametrize("preset", ["disk", "offload"])
def test_disk_and_offload_put_blocks_where_they_say(any_sample, preset):
    outcome = load(any_sample, device_map=preset)
    assert outcome.error is None, outcome.error
    table = diag.placement(outcome.model)
    from diag.loading.presets import block_paths

    blocks = block_paths(outcome.model)
    devices = [outcome.resolved_map.get(block, "first") for block in blocks]
    if preset == "disk":
        assert set(devices) <= {"disk", "first"} and devices.count("disk") >= 4
    else:
        order = {"first": 0, "cpu": 1, "disk": 2}
        ranks = [order[str(d)] for d in devices if d != "first"]
        assert ranks == sorted(ranks) and {"disk", "cpu"} <= set(map(str, devices))
    outside = table[~table.module.map(lambda m: any(m == b or m.startswith(b + ".") for b in blocks))]
    assert set(outside.backing) == {"resident"}


def test_the_map_that_was_planned_is_the_map_that_transformers_used():
    outcome = load(device_map="auto", max_memory={"cpu": "200KiB"})
    assert outcome.error is None, outcome.error
    assert {k: str(v) for k, v in outcome.model.hf_device_map.items()} == {
        k: str(v) for k, v in outcome.resolved_map.items()
    }
    assert "disk" in outcome.resolved_map.values()


def test_a_dict_map_is_used_as_given():
    device_map = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu",
                  "model.layers": "disk"}  # fmt: skip
    table = diag.placement(load(device_map=device_map).model)
    assert set(table.backing[table.module.str.startswith("model.layers.")]) == {"offloaded"}


@pytest.mark.parametrize(
    ("device_map", "says"),
    [
        ({"": "cpu", "model.layer.0": "disk"}, "model.layers.0"),
        ({"model": "cpu", "lm_haed": "cpu"}, "lm_head"),
        ({"model.layers": "cpu", "lm_head": "cpu"}, "model.embed_tokens.weight"),
    ],
)
def test_a_map_that_does_not_fit_the_model_is_refused_before_weights_are_read(device_map, says):
    outcome = load(device_map=device_map)
    assert isinstance(outcome.error, SpecError)
    assert says in str(outcome.error)


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "nf4-double"])
def test_every_quantization_packs_the_linear_layers_but_the_head(quantization):
    table = diag.placement(load(device_map="cpu", quantization=quantization).model)
    packed = set(table.name[(table.kind == "parameter") & (table.quantization == quantization)])
    assert "model.layers.0.mlp.up_proj.weight" in packed and "lm_head.weight" not in packed


@pytest.mark.parametrize("preset", ["disk", "offload"])
def test_quantized_weights_on_disk_are_unsupported_and_the_rule_is_named(preset):
    outcome = load(device_map=preset, quantization="nf4")
    assert isinstance(outcome.error, UnsupportedError)
    assert "llm_int8_enable_fp32_cpu_offload" in outcome.error.why


def test_a_quantization_config_object_is_used():
    config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "up_proj"])
    table = diag.placement(load(device_map="cpu", quantization=config).model).set_index("name")
    assert table.quantization["model.layers.0.mlp.up_proj.weight"] == "none"
    assert table.quantization["model.layers.0.mlp.down_proj.weight"] == "int8"


def test_a_missing_bitsandbytes_is_said_before_weights_are_read(monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n == "bitsandbytes" else real(n, *a))
    error = load(quantization="nf4").error
    assert isinstance(error, MissingLibraryError) and "pip install" in str(error)


def test_dtype_is_what_was_asked_for():
    table = diag.placement(load(device_map="none", dtype="bfloat16").model)
    assert set(table.dtype[table.kind == "parameter"]) == {"bfloat16"}


def test_only_a_wrong_argument_raises():
    with pytest.raises(SpecError, match="LoadSpec"):
        diag.load("tiny")


@pytest.fixture
def offload_folders(tmp_path, monkeypatch):
    """The private offload folders there are, in a temporary folder of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: sorted(tmp_path.glob("diag-offload-*"))


def test_an_interrupt_passes_through_and_leaves_no_folder(offload_folders, monkeypatch):
    class Interrupting(transformers.LlamaForCausalLM):
        @classmethod
        def from_pretrained(cls, *args, offload_folder=None, **values):
            if offload_folder is None:  # planning, which reads no weights
                return super().from_pretrained(*args, **values)
            assert [offload_folder] == [str(folder) for folder in offload_folders()]
            raise KeyboardInterrupt

    monkeypatch.setattr("transformers.LlamaForCausalLM", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        load(device_map="disk")
    assert offload_folders() == []


def test_the_private_offload_folder_lives_as_long_as_the_model(offload_folders):
    model = load(device_map="disk").model
    assert len(offload_folders()) == 1
    del model
    gc.collect()
    assert offload_folders() == []


def test_a_given_offload_folder_is_left_alone(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "keep.txt").write_text("mine")
    model = load(device_map="disk", offload_folder=str(folder)).model
    del model
    gc.collect()
    assert (folder / "keep.txt").read_text() == "mine"


def test_warnings_are_kept_as_notes():
    assert any("offloaded" in note for note in load(device_map="disk").notes)


@pytest.fixture
def loaders(tmp_path, monkeypatch):
    (tmp_path / "my_loaders.py").write_text(
        "import transformers\n"
        "from diag.loading import samples\n"
        "seen = {}\n"
        "def good(device_map=None, quantization_config=None, max_memory=None, offload_folder=None):\n"
        "    seen.update(device_map=device_map, offload_folder=offload_folder)\n"
        "    return transformers.LlamaForCausalLM.from_pretrained(samples.path('tiny'), device_map=device_map)\n"
        "def wrong(**values):\n    return 'a pipeline'\n"
        "def fails(**values):\n    raise RuntimeError('my own trouble')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_loaders"
    sys.modules.pop("my_loaders", None)


def test_the_users_own_loader_gets_the_request(loaders):
    outcome = load(device_map="cpu", loader=f"{loaders}:good")
    assert outcome.error is None, outcome.error
    assert sys.modules[loaders].seen["device_map"] == {"": "cpu"}


@pytest.mark.parametrize(("name", "says"), [("wrong", "str"), ("fails", "my own trouble"), ("absent", "absent")])
def test_a_loader_that_fails_is_an_outcome(loaders, name, says):
    outcome = load(loader=f"{loaders}:{name}")
    assert outcome.model is None and says in str(outcome.error)


def test_a_loader_that_cannot_be_imported_says_what_to_do():
    error = load(loader="no_such_module:load").error
    assert isinstance(error, DiagError) and "PYTHONPATH" in str(error)


def test_an_adapter_is_applied_and_refused_on_a_disk_offloaded_base(tmp_path):
    import peft

    base = load(device_map="none").model
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    table = diag.placement(load(device_map="none", adapter=str(tmp_path)).model)
    assert table.name.str.contains("lora_A").any()
    refused = load(device_map="disk", adapter=str(tmp_path)).error
    assert isinstance(refused, UnsupportedError) and "rewrite" in refused.why


def test_loading_twice_gives_two_equal_models():
    one, two = load(device_map="none").model, load(device_map="none").model
    assert one is not two
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


def test_memory_that_ran_out_while_experts_were_stacked_is_named_as_that():
    error = load("tiny-mixtral", device_map="auto", hardware="2x1MiB").error
    assert type(error).__name__ == "OutOfMemoryError" and "Tried to allocate" in str(error)


# What a load needs besides its checkpoint is asked before any weight is read, and said in our own words.


@pytest.mark.skipif(accelerator_name() is not None, reason="this machine has an accelerator")
@pytest.mark.parametrize("device", [3, "cuda:7", "cuda"])
def test_a_device_that_is_not_there_is_named(device):
    error = load(device_map={"": device}).error
    assert isinstance(error, SpecError)
    assert repr(device) in error.what and "this machine has no accelerator" in error.why


@pytest.mark.parametrize("device_map", ["disk", {"model": "cpu", "lm_head": "disk"}])
def test_an_offload_folder_that_can_not_be_made_is_refused(device_map):
    error = load("tiny-mixtral", device_map=device_map, offload_folder="/proc/nope").error
    assert isinstance(error, CouldNotJudgeError) and "'/proc/nope' can't be written to" in error.what


def test_an_adapter_that_is_none_is_refused(tmp_path):
    assert "does not exist" in load(adapter=str(tmp_path / "absent")).error.what
    error = load(adapter=str(tmp_path)).error
    assert isinstance(error, CheckpointError) and "holds no PEFT adapter" in error.what


def test_a_loader_that_takes_other_arguments_is_refused():
    error = load(loader="os:getcwd").error
    assert isinstance(error, DiagError) and "'os:getcwd' can't be called" in error.what
    assert "def load(device_map=None" in error.next_step


def test_a_prompt_that_looks_like_a_function_is_told_so():
    outcome = diag.load(diag.LoadSpec("tiny", probe="Note:this"))
    assert "put a space after the colon" in diag.prove(outcome.model).reason


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "nf4-double"])
def test_float64_can_not_be_packed_in_4_bits(quantization):
    pytest.importorskip("bitsandbytes")
    error = load(quantization=quantization, dtype="float64").error
    assert isinstance(error, UnsupportedError) and "float64" in error.what
    from bitsandbytes.functional import quantize_4bit

    with pytest.raises(ValueError, match="only supports 16/32-bit floats"):
        quantize_4bit(torch.ones(64, dtype=torch.float64))


# What accelerate can't dispatch: an offloaded entry inside another one. In pairs: the outer device, the inner one.
NESTED = [("cpu", "disk"), ("disk", "cpu")]


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_a_nested_offloaded_entry_is_refused_as_accelerate_would_fail(outer, inner, tmp_path):
    device_map = {"model": outer, "model.layers.0": inner, "lm_head": outer}
    error = load(device_map=device_map).error
    assert isinstance(error, UnsupportedError)
    assert f"'model.layers.0' on '{inner}' is inside 'model' on '{outer}'" in error.what
    with pytest.raises(ValueError, match="is on the meta device"):
        transformers.AutoModelForCausalLM.from_pretrained(
            diag.samples.path("tiny"), device_map=device_map, offload_folder=str(tmp_path)
        )


def test_a_nested_entry_that_accelerate_does_dispatch_is_let_through():
    device_map = {"model": 0, "model.layers.0": "cpu", "lm_head": 0}
    outcome = diag.load(diag.LoadSpec("tiny", device_map=device_map, hardware="2x64MiB"))
    assert diag.prove(outcome.model).proved


def test_a_path_below_the_home_folder_is_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert diag.LoadSpec("~/model").model == str(tmp_path / "model")
    assert diag.LoadSpec("tiny", offload_folder="~/off").offload_folder == str(tmp_path / "off")
