"""Devices that do not mix, current devices, and meta: as on a machine with GPUs, in PyTorch's words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

A, B = "simgpu:0", "simgpu:1"
PAIR = "Expected all tensors to be on the same device, but found at least two devices, "
BOTH = PAIR + "simgpu:0 and simgpu:1!"
ARGUMENT = "Expected all tensors to be on the same device, but got "
EMBEDDED = ARGUMENT + "index is on cpu, different from other tensors on simgpu:0 (when checking argument in method"
INDICES = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"


def on(device, *shape):
    return torch.ones(shape or (2,), device=device)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: on(A) + on(B), BOTH),
        (lambda: on("cpu") * on(B), PAIR + "simgpu:1 and cpu!"),
        (lambda: on(A).add_(on(B)), BOTH),
        (lambda: torch.where(on(A) > 0, on(B), 0.0), BOTH),
        (lambda: on(A, 2, 2) @ on("cpu", 2, 2), ARGUMENT + "mat2 is on cpu, different from other"),
        (lambda: F.linear(on(A, 1, 2), on(B, 2, 2)), ARGUMENT + "mat2 is on simgpu:1"),
        (lambda: F.embedding(torch.tensor([1]), on(A, 3, 2)), EMBEDDED),
        (lambda: torch.cat([on(A), on("cpu")]), ARGUMENT + "tensors is on cpu"),
        (lambda: on("cpu")[torch.tensor([1], device=A)], INDICES),
    ],
)
def test_an_operation_over_two_devices_fails_with_pytorchs_own_text(act, text, two_gpus):
    with pytest.raises(RuntimeError) as caught:
        act()
    assert str(caught.value).startswith(text)


def test_the_method_in_the_text_is_named_as_pytorch_names_it(two_gpus):
    with pytest.raises(RuntimeError, match=r"wrapper_simgpu_mm\)$"):
        on(A, 2, 2) @ on("cpu", 2, 2)
    with pytest.raises(RuntimeError, match=r"wrapper_simgpu__index_select\)$"):
        F.embedding(torch.tensor([0]), on(A, 2, 2))


def test_the_texts_are_still_the_ones_in_this_pytorch():
    content = Path(torch.__file__).with_name("lib").joinpath("libtorch_cpu.so").read_bytes()
    for text in (PAIR, ARGUMENT, ", different from other tensors on ", " (when checking argument in method "):
        assert text.encode() in content


def test_single_numbers_and_index_tensors_of_the_cpu_are_welcome(two_gpus):
    x = torch.arange(4.0, device=B)
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
    assert x[torch.tensor([3, 0])].tolist() == [3, 0]
    x[torch.tensor([0])] = 9.0
    assert x.tolist() == [9, 1, 2, 3]


def test_meta_tensors_reach_pytorchs_own_kernels(two_gpus):
    with pytest.raises(RuntimeError) as caught:
        on("meta") * on(A)
    assert str(caught.value) == "Tensor on device simgpu:0 is not on the expected device meta!"
    for copy in (lambda: on("meta").to(A), lambda: on(A).copy_(on("meta"))):
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor; no data!"):
            copy()
    assert on(A).to("meta").device.type == "meta"


def test_a_linear_without_bias_over_a_meta_weight_answers_without_an_error_as_on_a_gpu(two_gpus):
    lost = torch.nn.Linear(4, 4, bias=False, device="meta")
    assert lost(torch.ones(1, 4, device=A)).device == torch.device(A)


def test_numbers_and_the_bare_name_mean_the_current_device(two_gpus):
    assert torch.ones(1).to(1).device == torch.device(B)
    with torch.simgpu.device(1):
        assert torch.ones(1, device="simgpu").device == torch.device(B)
    assert torch.ones(1, device="simgpu").device == torch.device(A)
    with torch.accelerator.device_index(1):
        assert torch.accelerator.current_device_index() == 1
    with torch.device(B):
        assert torch.nn.Linear(2, 2).weight.device == torch.device(B)


def test_a_device_that_is_not_there_is_named(two_gpus):
    with pytest.raises(RuntimeError, match=r"invalid device ordinal: 2\. This simulation has 2 device\(s\)"):
        torch.ones(1, device="simgpu:2")


def test_new_tensors_of_a_tensor_stay_on_its_device(two_gpus):
    x = torch.ones(2, device=B)
    for made in (x.new_tensor([1.0]), x.new_zeros(2), x.new([1.0]), torch.zeros_like(x), x.new_full((1,), 2.0)):
        assert made.device == torch.device(B)


def test_a_seed_gives_the_cpus_numbers(two_gpus):
    torch.manual_seed(3)
    here = torch.randn(4)
    torch.manual_seed(3)
    assert torch.equal(torch.randn(4, device=B).cpu(), here)


def test_autocast_computes_matrix_products_in_the_low_precision_and_leaves_the_rest(two_gpus):
    x = torch.ones(2, 2, device=A)
    with torch.autocast("simgpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert (x + x).dtype == torch.float32


def test_setting_data_across_devices_keeps_the_parameter_the_same_object(two_gpus):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "kept"
    parameter.data = torch.full((3,), 2.0, device=B)
    assert (parameter.device, parameter.tolist(), parameter.requires_grad) == (torch.device(B), [2, 2, 2], True)
    assert parameter.note == "kept"
    parameter.data = torch.zeros(1)
    assert parameter.device.type == "cpu"


def test_views_share_memory_and_copies_do_not(two_gpus):
    x = torch.zeros(4, device=A)
    x[1:3].fill_(5)
    y = x.to(A, copy=True)
    x.view(2, 2)[0, 0] = 7
    assert x.tolist() == [7, 5, 5, 0]
    assert y.tolist() == [0, 5, 5, 0]
    assert x[1:].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_a_weight_that_was_mapped_at_an_odd_address_gives_the_same_bits_on_the_device(two_gpus):
    """Once 4.8e-7 off: a copy on a 64-byte boundary takes another path of the CPU's matrix kernels."""
    torch.manual_seed(0)
    x = torch.randn(1, 64)
    for shift in range(16):
        weight = torch.empty(512 * 64 + 16)[shift : shift + 512 * 64].view(512, 64).copy_(torch.randn(512, 64))
        with torch.no_grad():
            assert torch.equal(F.linear(x.to(A), weight.to(A)).cpu(), F.linear(x, weight)), f"shifted by {shift}"


# Operations that need care of their own: padding masks, grouped matrices, resized views, streams.


def test_a_padded_encoder_gives_the_cpus_answer_where_there_is_no_padding(two_gpus):
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    values, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])
    with torch.no_grad():
        expected = encoder(values, src_key_padding_mask=padding)[~padding]
        ours = encoder.to(A)(values.to(A), src_key_padding_mask=padding.to(A)).cpu()[~padding]
    torch.testing.assert_close(ours, expected)


def test_grouped_matrices_may_start_anywhere(two_gpus):
    def shifted(*shape):
        """Values that start 4 bytes off a 16-byte boundary, as a weight mapped from a file may."""
        room = torch.zeros(torch.Size(shape).numel() + 1, dtype=torch.bfloat16)[1:]
        return room.view(shape).copy_(torch.randn(shape))

    tokens, experts = shifted(8, 16), shifted(2, 16, 16)
    ends = torch.tensor([4, 8], dtype=torch.int32)
    ours = torch._grouped_mm(tokens.to(A), experts.to(A), offs=ends.to(A))
    assert torch.equal(ours.cpu(), torch._grouped_mm(tokens.clone(), experts.clone(), offs=ends))


def test_a_view_grows_and_keeps_what_its_base_holds(two_gpus):
    base = torch.arange(4.0, device=A)
    view = base[:2].resize_(8)
    assert view[:4].tolist() == [0, 1, 2, 3] == base.tolist()


def test_the_tensor_in_the_way_is_named_and_not_an_index_that_may_be_there(two_gpus):
    target = torch.zeros(4, device=A)
    with pytest.raises(RuntimeError, match="at least two devices, simgpu:0 and simgpu:1"):
        target[torch.tensor([0])] = torch.ones(1, device=B)


def test_streams_and_events_order_nothing(two_gpus):
    stream, start, end = torch.simgpu.Stream(), torch.simgpu.Event(enable_timing=True), torch.simgpu.Event()
    start.record()
    with torch.simgpu.stream(stream):
        total = torch.ones(3, device=A).sum()
    torch.simgpu.current_stream().wait_stream(stream)
    end.record(stream)
    assert total.item() == 3 and start.elapsed_time(end) >= 0 and stream.query()


def test_the_memory_summary_tells_use_and_capacity(two_gpus):
    kept = torch.ones(2**18, device=A)
    text = torch.simgpu.memory_summary()
    assert "in use" in text and "1.00 MiB" in text and "1.00 GiB" in text and kept.numel()
