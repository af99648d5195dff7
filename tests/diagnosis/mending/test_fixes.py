"""plan, fix, materialise, input_device, and the lines for a service."""

from __future__ import annotations

import logging

import accelerate
import pytest
import torch
from broken_models import offloaded, plain, without_hooks, without_key
from torch import nn

from diag import LoadSpec, load
from diag.diagnosis.engine import diagnose
from diag.diagnosis.mending.fixes import explain_exception, fix, materialise, require_materialised
from diag.diagnosis.mending.plans import plan
from diag.diagnosis.mending.repairs import refill
from diag.errors import CouldNotJudgeError, DiagError, MetaWithoutDataError
from diag.models.devices import input_device
from diag.models.snapshot import take
from diag.proving.proof import prove

pytestmark = pytest.mark.usefixtures("real_machine")

IDS = torch.tensor([[5, 17, 42]])


def test_materialise_brings_every_sample_in_and_keeps_its_answer(any_sample):
    model = materialise(offloaded(any_sample))
    assert not any(p.is_meta for p in model.parameters())
    assert not any("_hf_hook" in m.__dict__ for m in model.modules())
    assert prove(model, LoadSpec(any_sample, device_map="none")).proved is not False


def test_materialise_keeps_ties_and_the_model_can_be_moved():
    model = materialise(offloaded())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.to("cpu")(IDS).logits.shape == (1, 3, 512)


def test_materialise_is_all_or_nothing():
    model = offloaded()
    without_hooks(model.model.layers[5].mlp.up_proj)
    before = dict(model.named_parameters())
    with pytest.raises(MetaWithoutDataError, match=r"model\.layers\.5\.mlp\.up_proj\.weight"):
        materialise(model)
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert "_hf_hook" in model.model.layers[5].mlp.gate_proj.__dict__


def test_input_device_is_real_where_model_device_is_meta():
    model = accelerate.cpu_offload(plain(), execution_device="cpu")
    assert model.device.type == "meta"
    assert input_device(model) == torch.device("cpu")


def test_input_device_follows_the_first_hook_on_simulated_gpus():
    model = load(LoadSpec("tiny", device_map="offload", hardware="2x300MiB+8GiB")).model
    assert input_device(model) == torch.device("simgpu:0")


def test_the_guard_lets_offloaded_models_through_and_refuses_stranded_ones():
    model = offloaded()
    assert any(p.is_meta for p in model.parameters())  # the guard of the first analysis would refuse this one
    assert require_materialised(model) is model
    with pytest.raises(MetaWithoutDataError) as refused:
        require_materialised(without_hooks(model))
    assert "Why:" in str(refused.value)
    assert "diag.diagnose(model)" in str(refused.value)


def test_a_repaired_model_is_the_same_object_and_is_proved():
    model = without_hooks(offloaded())
    fixed = fix(diagnose(model))
    assert fixed.model is model
    assert fixed.proof.proved is True


@pytest.mark.parametrize("device_map", ["none", "disk"])
def test_what_the_files_lack_is_not_read_from_them_again(tiny_copy, device_map):
    folder = without_key(tiny_copy, "model.layers.2.mlp.up_proj.weight")
    found = diagnose(load(LoadSpec(folder, device_map=device_map)).model)
    assert [one.action for one in found[0].fixes] == ["by-hand"]
    said = found[0].fixes[0].because
    assert "have no such tensors" in said and "Get the complete checkpoint" in said and "trained" in said
    with pytest.raises(DiagError, match="can't be fixed from here") as refused:
        fix(found)
    assert "Get the complete checkpoint" in refused.value.next_step


def test_keys_that_fit_nothing_are_named_as_the_ones_to_rename(tiny_copy):
    folder = without_key(tiny_copy, "model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.upward.weight")
    found = diagnose(plain(folder))
    assert "model.layers.2.mlp.upward.weight: rename" in found[0].fixes[0].because


def test_complete_files_elsewhere_are_a_fix(tiny_copy):
    found = diagnose(plain(without_key(tiny_copy, "model.layers.2.mlp.up_proj.weight")))
    assert fix(found, spec=LoadSpec("tiny", device_map="none")).proof.proved is True


def test_hooks_lost_on_a_gpu_are_fixed_on_that_gpu_where_the_model_fits():
    model = without_hooks(load(LoadSpec("tiny", device_map="offload", hardware="3MiB+8GiB")).model)
    fixed = fix(diagnose(model))
    assert fixed.model is model
    assert {p.device.type for p in model.parameters()} == {"simgpu"}
    assert fixed.proof.proved is True
    assert fixed.notes[0].startswith("applied: refill")


def test_where_a_fix_does_not_fit_the_next_is_applied_and_the_outcome_says_why():
    spec = LoadSpec("tiny", device_map="offload", hardware="1160KiB+8GiB")
    model = without_hooks(load(spec).model)
    before = dict(model.named_parameters())
    fixed = fix(diagnose(model))
    assert fixed.spec == spec and fixed.model is not model
    assert fixed.proof.proved is True
    assert fixed.notes[0].startswith("applied: reload")
    assert fixed.notes[1].startswith("not applied: refill, OutOfMemoryError")
    assert all(before[name] is parameter for name, parameter in model.named_parameters())


def _blocks_on(device) -> dict:
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    return {**dict.fromkeys(parts, 0), **{f"model.layers.{n}": device(n) for n in range(6)}}


def test_where_the_broken_model_fills_the_device_the_reload_goes_to_the_cpu():
    spec = LoadSpec("tiny", device_map=_blocks_on(lambda n: "disk" if n == 5 else 0), hardware="1200KiB+8GiB")
    fixed = fix(diagnose(without_hooks(load(spec).model)))
    assert [note.split(",")[0] for note in fixed.notes[1:3]] == ["not applied: refill", "not applied: reload"]
    assert fixed.spec.device_map == "cpu"
    assert fixed.proof.proved is True


def test_where_no_fix_can_be_applied_the_error_says_what_was_tried(tiny_copy):
    spec = LoadSpec(str(tiny_copy), device_map="offload")
    model = without_hooks(load(spec).model)
    found = diagnose(model)
    for file in tiny_copy.glob("*.safetensors"):
        file.unlink()
    before = dict(model.named_parameters())
    fixed = fix(found)
    assert fixed.model is None and isinstance(fixed.error, DiagError)
    assert "refill, " in fixed.error.why and "reload, " in fixed.error.why
    assert fixed.error.next_step
    assert all(before[name] is parameter for name, parameter in model.named_parameters())


def test_materialise_on_a_device_that_is_too_small_changes_nothing():
    model = load(LoadSpec("tiny", device_map="offload", hardware="1100KiB+8GiB")).model
    before, devices = dict(model.named_parameters()), [p.device for p in model.parameters()]
    with pytest.raises(torch.OutOfMemoryError):
        materialise(model, "simgpu:0")
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert [p.device for p in model.parameters()] == devices
    assert prove(model, LoadSpec("tiny", device_map="offload", hardware="1100KiB+8GiB")).proved is True


def test_findings_without_a_model_or_spec_say_what_to_pass():
    with pytest.raises(DiagError, match="nothing to apply a fix to"):
        fix(diagnose(text="Tensor on device cuda:0 is not on the expected device meta!"))


def test_nothing_to_fix_on_a_healthy_model():
    with pytest.raises(DiagError, match="nothing to fix"):
        fix(diagnose(offloaded()))


def test_a_plan_does_nothing_and_puts_what_a_person_does_last():
    found = diagnose(without_hooks(offloaded()))
    fixes = plan(found[0], LoadSpec("tiny", device_map="auto"))
    assert [one.action for one in fixes] == ["refill", "reload", "by-hand"]
    assert fixes[1].spec == LoadSpec("tiny", device_map="auto")
    assert all("to_empty" not in one.code for one in fixes)


def test_a_reload_says_how_much_it_reads_again(tiny_path):
    found = diagnose(without_hooks(offloaded()))
    reload = plan(found[0], LoadSpec(str(tiny_path)))[1]
    assert reload.nbytes > 1_000_000
    assert "MiB of weights again" in reload.because


def test_a_small_reload_has_a_readable_size_and_says_what_it_loads(tiny_copy):
    from safetensors.torch import load_file, save_file

    small = {key: value[:1] for file in tiny_copy.glob("*.safetensors") for key, value in load_file(file).items()}
    for file in (*tiny_copy.glob("*.safetensors"), tiny_copy / "model.safetensors.index.json"):
        file.unlink()
    save_file({key: value.contiguous() for key, value in small.items()}, tiny_copy / "model.safetensors")
    found = diagnose(without_hooks(offloaded()))
    said = plan(found[0], LoadSpec(str(tiny_copy)))[1].because
    assert "KiB of weights again" in said and "nothing that was put in later" in said


def test_a_refill_of_a_tensor_in_no_file_is_refused_and_changes_nothing():
    model = plain()
    model.extra = nn.Parameter(torch.ones(2))
    with pytest.raises(CouldNotJudgeError, match="'extra'"):
        refill(take(model), ["extra"])


def test_the_files_are_never_written(tiny_copy):
    before = {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in tiny_copy.iterdir()}
    model = without_hooks(load(LoadSpec(str(tiny_copy), device_map="offload")).model)
    fix(diagnose(model))
    assert {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in tiny_copy.iterdir()} == before


def test_an_exception_is_explained_in_the_log_and_the_client_gets_an_id(caplog):
    model = without_hooks(offloaded())
    with caplog.at_level(logging.ERROR, logger="diag"):
        try:
            model(IDS)
        except RuntimeError as error:
            number = explain_exception(error)
    assert number.isalnum()
    assert number in caplog.text
    assert "hooks-removed" in caplog.text
    assert "model.layers.4" in caplog.text


def test_explaining_never_raises(caplog):
    assert explain_exception(ValueError("anything"), model=object())
    assert "no diagnosis" in caplog.text


def test_a_base_on_disk_is_healthy_and_no_plan_puts_an_adapter_on_it():
    spec = LoadSpec("tiny", device_map="disk", adapter="some/adapter")
    model = load(LoadSpec("tiny", device_map="disk")).model
    assert diagnose(model).healthy
    reloads = [one for one in plan(diagnose(without_hooks(model))[0], spec) if one.spec is not None]
    assert reloads and all(one.spec.device_map == "cpu" for one in reloads)
    assert "PEFT would write over" in reloads[0].because
    assert "PEFT would rewrite the base's own checkpoint files" in load(spec).error.why


# --- a fix keeps what the model is ----------------------------------------------------------------------------


def _adapter(folder, **options) -> str:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], **options)
    peft.get_peft_model(plain(), config).save_pretrained(folder)
    return str(folder)


def _adapted(folder: str) -> nn.Module:
    import peft

    return peft.PeftModel.from_pretrained(plain(), folder)


def test_an_adapter_that_changes_nothing_is_fixed_by_hand_not_by_leaving_it_out(tmp_path):
    found = diagnose(_adapted(_adapter(tmp_path)))
    assert [one.action for one in found[0].fixes] == ["by-hand"]
    assert "trained" in found[0].fixes[0].because and "to_empty" not in str(found[0].fixes[0])
    with pytest.raises(DiagError, match="can't be fixed from here"):
        fix(found)
    with pytest.raises(DiagError, match="can't be fixed from here"):  # the base alone would be another model
        fix(found, spec=LoadSpec("tiny", device_map="none"))


def test_an_adapter_on_meta_is_not_fixed_by_loading_the_base():
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    found = diagnose(peft.get_peft_model(plain(), config, low_cpu_mem_usage=True))
    assert found[0].cause == "never-materialised"
    assert [one.action for one in found[0].fixes] == ["by-hand"]
    assert "low_cpu_mem_usage" in found[0].fixes[0].because


def test_where_the_adapters_folder_is_given_the_fix_loads_base_and_adapter(tmp_path):
    folder = _adapter(tmp_path, init_lora_weights=False)
    model = _adapted(folder)
    model.base_model.model.model.layers[0].self_attn.q_proj.lora_A.to("meta")
    fixed = fix(diagnose(model), spec=LoadSpec("tiny", device_map="none", adapter=folder))
    assert type(fixed.model).__name__ == "PeftModel"
    assert fixed.proof.proved is True


def test_a_repair_in_place_keeps_the_adapter_and_is_not_proved_without_its_files(tmp_path):
    model = _adapted(_adapter(tmp_path, init_lora_weights=False))
    weight = model.base_model.model.model.layers[0].mlp.up_proj.weight
    weight.data.normal_()
    fixed = fix(diagnose(model))
    assert fixed.model is model and fixed.notes[0].startswith("applied: refill")
    assert fixed.proof.proved is None and "adapter" in fixed.proof.reason


def test_a_reload_of_another_class_is_not_called_proved(tiny_path):
    from transformers import LlamaModel

    with accelerate.init_empty_weights():
        model = LlamaModel.from_pretrained(str(tiny_path))
    fixed = fix(diagnose(model))
    assert type(fixed.model).__name__ == "LlamaForCausalLM"
    assert fixed.proof.proved is None and "is a LlamaModel" in fixed.proof.reason


def test_a_reload_says_which_values_of_the_broken_model_are_not_in_it(tiny_copy):
    model = plain(str(tiny_copy))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.01)  # trained, say
    model.model.layers[1].to("meta")
    fixed = fix(diagnose(model))
    assert fixed.notes[0].startswith("applied: reload")
    assert "model.layers.0.mlp.up_proj.weight" in fixed.notes[1] and "not in it" in fixed.notes[1]


# --- devices that do not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [lambda m: m.to("simgpu:0"), lambda m: m.model.layers.cpu()], ids=["whole", "layers"])
def test_a_model_moved_after_its_dispatch_is_found_by_state_and_put_back(move):
    device_map = _blocks_on(lambda n: int(n > 2))
    model = load(LoadSpec("tiny", device_map=device_map, hardware="2x300MiB+8GiB")).model
    assert diagnose(model).healthy
    move(model)
    found = diagnose(model)
    assert (found[0].cause, found[0].certainty) == ("moved-after-dispatch", "shown")
    assert "model.layers.5.mlp.up_proj.weight" in found[0].tensors
    assert "model.embed_tokens.weight" not in found[0].tensors
    with pytest.raises(RuntimeError) as error:
        model(IDS.to("simgpu:0"))
    assert diagnose(model, error=error.value)[0].cause == "moved-after-dispatch"
    fixed = fix(found)
    assert fixed.model is model and fixed.notes[0].startswith("applied: put-back")
    assert fixed.proof.proved is True


def test_hooks_that_bring_their_weights_are_not_a_moved_model():
    for device_map in ("offload", "disk", "balanced", "auto"):
        assert diagnose(load(LoadSpec("tiny", device_map=device_map, hardware="2x300MiB+8GiB")).model).healthy


def test_an_input_on_the_wrong_device_is_moved_and_nothing_is_loaded_again():
    model = load(LoadSpec("tiny", device_map="single", hardware="2x300MiB+8GiB")).model
    with pytest.raises(RuntimeError) as error:
        model(IDS.to("simgpu:1"))
    found = diagnose(model, error=error.value)
    assert found[0].cause == "device-mismatch"
    assert found[0].fixes[0].action == "use-input-device" and "simgpu:0" in found[0].fixes[0].because


def test_a_layer_on_another_device_is_put_back_to_the_others():
    model = load(LoadSpec("tiny", device_map="single", hardware="2x300MiB+8GiB")).model
    model.model.layers[2].mlp.to("simgpu:1")
    with pytest.raises(RuntimeError) as error:
        model(IDS.to("simgpu:0"))
    fixed = fix(diagnose(model, error=error.value))
    assert fixed.model is model and fixed.notes[0].startswith("applied: together")
    assert fixed.proof.proved is True
