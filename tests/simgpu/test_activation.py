"""Activating, changing and hiding the simulated hardware, in one process after the other and within one."""

from __future__ import annotations

import textwrap

import pytest
import torch
from interpreter import python
from transformers import AutoModelForCausalLM

from diag import Hardware, simgpu


def run(code: str) -> str:
    done = python("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


ACTIVATE = "from diag import Hardware, simgpu; simgpu.activate(Hardware.parse('2x1GiB'))\n"


def test_importing_the_package_loads_no_torch():
    assert run("import diag.simgpu, sys; print('torch' in sys.modules)") == "False"


def test_activating_loads_no_model_library_that_is_not_needed():
    loaded = run(ACTIVATE + "import sys; print('bitsandbytes' in sys.modules, 'torch._dynamo' in sys.modules)")
    assert loaded == "False False"


LIBRARIES = "import torch._dynamo, bitsandbytes, transformers.core_model_loading, safetensors.torch, peft\n"


@pytest.mark.parametrize("code", [ACTIVATE + LIBRARIES, LIBRARIES + ACTIVATE], ids=["after", "before"])
def test_libraries_may_be_imported_after_activation_and_before_it(code):
    """Once a TypeError: torch._dynamo compares signatures of what we replaced."""
    run(code)


def test_an_availability_check_does_not_lose_the_hook_on_bitsandbytes():
    """Once it did: asking for a module's spec counted as its import, and 4-bit answers had other last bits."""
    code = "import importlib.util; importlib.util.find_spec('bitsandbytes'); import bitsandbytes, torch\n"
    code += "print(torch._C._dispatch_has_kernel_for_dispatch_key('bitsandbytes::dequantize_4bit', 'PrivateUse1'))"
    assert run(ACTIVATE + code) == "True"


def test_a_process_forked_from_one_without_simulation_can_activate_it():
    code = """
    import os, torch
    torch.ones(2) @ torch.ones(2)
    pid = os.fork()
    if not pid:
        from diag import Hardware, simgpu
        simgpu.activate(Hardware.parse("2x1GiB"))
        os._exit(int((torch.ones(3, device="simgpu:1") * 2).sum().item()))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "diag.simgpu" in __import__("sys").modules)
    """
    assert run(code) == "6 False"


def test_active_hardware_is_the_current_accelerator(two_gpus):
    assert simgpu.is_active() and torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("simgpu")
    assert torch.accelerator.device_count() == 2
    assert torch.get_device_module("simgpu") is torch.simgpu


def test_other_hardware_changes_the_number_of_devices_and_starts_the_peaks_anew(machine):
    machine("1x10MiB")
    torch.ones(1000, device="simgpu:0")
    machine("3x20MiB")
    assert torch.accelerator.device_count() == 3
    held = torch.simgpu.memory_allocated(0)  # what tests before this one left alive, as a failed one does
    assert torch.simgpu.max_memory_allocated(0) == held < 4000
    assert torch.ones(1, device="simgpu:2").device == torch.device("simgpu:2")


def test_after_park_the_process_has_no_accelerator_and_auto_plans_for_the_cpu(tiny_path, machine):
    before = torch.accelerator.current_accelerator()
    machine("2x1GiB")
    held = torch.arange(3.0, device="simgpu:1")
    simgpu.park()
    assert not simgpu.is_active() and not torch.accelerator.is_available()
    assert (torch.accelerator.device_count(), torch.accelerator.current_accelerator()) == (0, before)
    model = AutoModelForCausalLM.from_pretrained(tiny_path, device_map="auto")
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert (held + 1).tolist() == [1, 2, 3]
    simgpu.activate(Hardware.parse("2x1GiB"))
    assert torch.accelerator.device_count() == 2


def test_a_device_type_that_another_library_registered_is_one_error():
    code = """
    import torch
    torch.utils.rename_privateuse1_backend("npu")
    from diag import Hardware, simgpu
    try:
        simgpu.activate(Hardware.parse("1GiB"))
    except Exception as error:
        print(type(error).__name__, "'npu' is already here" in str(error), simgpu.is_active())
    """
    assert run(code) == "DiagError True False"


@pytest.mark.parametrize("how", ["pin_memory", "num_workers"])
def test_a_data_loader_works_beside_it(how, two_gpus):
    loader = torch.utils.data.DataLoader([torch.ones(2)], **{how: 1 if how == "num_workers" else True})
    assert next(iter(loader)).to("simgpu:1").tolist() == [[1, 1]]
