"""Every sample architecture, on every map and quantization, answers as its twin on the CPU: bit for bit."""

from __future__ import annotations

import pytest
import torch

import diag

pytestmark = pytest.mark.usefixtures("real_machine")

PRESETS = ("auto", "balanced", "balanced_low_0", "sequential", "single", "none", "cpu", "disk", "offload")
MACHINE = "2x4MiB+8GiB"


def outcome_and_proof(sample, **spec):
    spec = diag.LoadSpec(sample, **spec)
    outcome = diag.load(spec)
    if outcome.error is not None:
        return outcome, None
    return outcome, diag.prove(outcome.model, spec)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_sample_equals_its_twin_on_every_map(preset, any_sample):
    outcome, proof = outcome_and_proof(any_sample, device_map=preset, hardware=MACHINE)
    assert outcome.error is None
    assert str(proof).startswith("proved: equal to the same checkpoint on the CPU, bit for bit"), str(proof)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "nf4-double"])
def test_every_sample_equals_its_quantized_twin_on_two_devices(quantization, any_sample):
    pytest.importorskip("bitsandbytes")
    outcome, proof = outcome_and_proof(any_sample, device_map="balanced", quantization=quantization, hardware=MACHINE)
    assert outcome.error is None
    assert str(proof).startswith("proved: equal to the same checkpoint on the CPU, bit for bit"), str(proof)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "dtype", "places"),
    [
        ("2x300MiB+8GiB", None, {"0", "1"}),
        ("2x150MiB+8GiB", None, {"0", "1", "cpu"}),
        ("1x100MiB+100MiB", "bfloat16", {"0", "cpu", "disk"}),
    ],
)
def test_smollm2_spreads_as_the_sizes_say_and_still_knows_paris(hardware, dtype, places, smollm2_path):
    from transformers import AutoTokenizer

    chosen = {} if dtype is None else {"dtype": dtype}
    outcome = diag.load(diag.LoadSpec("smollm2", hardware=hardware, **chosen))
    assert outcome.error is None
    assert {str(place) for place in outcome.model.hf_device_map.values()} == places
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids.to(diag.input_device(outcome.model))
    text = tokenizer.decode(outcome.model.generate(ids, max_new_tokens=3, do_sample=False)[0])
    assert "Paris" in text


@pytest.mark.slow
def test_smollm2_on_one_small_device_is_out_of_memory_as_an_outcome(smollm2_path):
    outcome = diag.load(diag.LoadSpec("smollm2", device_map="single", hardware="1x100MiB"))
    assert outcome.model is None
    assert isinstance(outcome.error, torch.OutOfMemoryError)


def placements(specs, results) -> list[dict[str, str] | None]:
    """Device of every tensor name, with every accelerator called `gpu`; None where the load failed."""
    kind = torch.accelerator.current_accelerator().type
    rows = []
    for spec in specs:
        table = diag.placement_of(results, spec)
        devices = None if table is None else table.set_index("name").device
        rows.append(None if devices is None else devices.str.replace(f"simgpu|{kind}", "gpu", regex=True).to_dict())
    return rows


@pytest.mark.gpu
@pytest.mark.slow
def test_a_real_gpu_and_its_simulation_agree_row_by_row(tmp_path):
    """Placement, status and kind of error; each answer is judged against the twin of its own side."""
    gpus = [torch.accelerator.get_memory_info(i)[1] for i in range(torch.accelerator.device_count())]
    asked = [{"device_map": m, "quantization": q} for m in PRESETS for q in ("none", "int8", "nf4")]
    columns = ["device_map", "quantization", "status", "error_type", "n_resident", "n_offloaded", "n_missing"]
    answers = []
    for hardware in (None, str(diag.Hardware(tuple(gpus)))):
        specs = [diag.LoadSpec("tiny", hardware=hardware, **one) for one in asked]
        results = str(tmp_path / f"{hardware is None}.sqlite")
        frame = diag.matrix(specs, results=results, progress=False)
        answers.append((frame[columns].to_dict("records"), placements(specs, results)))
    assert answers[0] == answers[1]
