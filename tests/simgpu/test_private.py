"""The private PyTorch interfaces are in one file, are all still there, and are refused in words elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from diag import simgpu
from diag.errors import DiagError
from diag.simgpu import private

PACKAGE = Path(simgpu.__file__).parent


def test_this_pytorch_is_one_of_the_tested_ones():
    private.check_torch()


def test_every_private_interface_is_still_there_and_a_missing_one_would_be_noticed():
    assert private.missing_interfaces() == []
    assert private.missing_interfaces(("_C._no_such_thing",)) == ["torch._C._no_such_thing"]


@pytest.mark.parametrize("version", ["2.4.0", "2.12.1+cu130", "3.0.0a0"])
def test_another_version_is_one_error_with_what_to_install(version):
    with pytest.raises(DiagError) as caught:
        private.check_torch(version)
    assert f"simulated GPUs do not work with torch {version}." in str(caught.value)
    assert "Next: install torch==2.13" in str(caught.value)


def test_no_other_file_touches_a_private_name_of_torch():
    uses = {
        (path.name, name)
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"torch(?:\.\w+)*?\._\w+[\w.]*", path.read_text())
        if path.name != "private.py" and not name.startswith(("torch._inductor", "torch._dynamo"))
    }
    assert {use for use in uses if not use[1].endswith("__")} == set()


def test_the_label_in_a_dlpack_capsule_is_where_we_write_it(two_gpus):
    x = torch.arange(6.0).reshape(2, 3).t()
    there = private.as_simulated(x, 1)
    assert (there.device, there.shape, there.stride()) == (torch.device("simgpu:1"), x.shape, x.stride())
    assert there.data_ptr() == x.data_ptr()
    back, index = private.as_cpu(there)
    assert (back.data_ptr(), back.device.type, index) == (x.data_ptr(), "cpu", 1)


def test_memory_lives_as_long_as_either_side_needs_it(two_gpus):
    there = private.as_simulated(torch.ones(1000), 0)
    here, _ = private.as_cpu(there)
    del there
    assert here.sum() == 1000


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.complex64, torch.float8_e4m3fn, torch.uint16])
def test_every_dtype_crosses(dtype, two_gpus):
    there = private.as_simulated(torch.zeros(3, dtype=dtype), 0)
    assert there.dtype is dtype
