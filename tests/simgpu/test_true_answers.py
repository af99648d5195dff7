"""Every sample architecture, on every map and quantization, answers as its twin on the CPU: bit for bit."""

from __future__ import annotations

import pytest
import torch

import diag

pytestmark = pytest.mark.usefixtures("real_machine")

PRESETS = ("auto", "balanced", "balanced_low_0", "sequential", "single", "none", "cpu", "disk", "offload")
MACHINE = "2x4MiB+8GiB"
MAPS = [{"device_map": preset} for preset in PRESETS]
QUANTIZED = [{"device_map": "balanced", "quantization": kind} for kind in ("int8", "nf4", "fp4", "nf4-double")]


@pytest.mark.slow
@pytest.mark.parametrize("values", [*MAPS, *QUANTIZED], ids=lambda values: "-".join(values.values()))
def test_every_sample_equals_its_twin_on_every_map_and_quantized_on_two_devices(values, any_sample):
    if "quantization" in values:
        pytest.importorskip("bitsandbytes")
    spec = diag.LoadSpec(any_sample, hardware=MACHINE, **values)
    outcome = diag.load(spec)
    assert outcome.error is None
    proof = str(diag.prove(outcome.model, spec))
    assert proof.startswith("proved: equal to the same checkpoint on the CPU, bit for bit"), proof


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "dtype", "places"),
    [
        ("2x300MiB+8GiB", "auto", {"0", "1"}),
        ("2x150MiB+8GiB", "auto", {"0", "1", "cpu"}),
        ("1x100MiB+100MiB", "bfloat16", {"0", "cpu", "disk"}),
    ],
)
def test_smollm2_spreads_as_the_sizes_say_and_still_knows_paris(hardware, dtype, places, smollm2_path):
    from transformers import AutoTokenizer

    outcome = diag.load(diag.LoadSpec("smollm2", hardware=hardware, dtype=dtype))
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
    tables = [diag.placement_of(results, spec) for spec in specs]
    devices = [None if table is None else table.set_index("name").device for table in tables]
    return [one if one is None else one.str.replace(f"simgpu|{kind}", "gpu", regex=True).to_dict() for one in devices]


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
