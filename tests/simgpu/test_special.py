"""Operations that need care of their own: padding masks, grouped matrices, resized views, streams, texts of a mix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

D = "simgpu:0"


def test_a_padded_encoder_gives_the_cpus_answer_where_there_is_no_padding(two_gpus):
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    values, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])
    with torch.no_grad():
        expected = encoder(values, src_key_padding_mask=padding)[~padding]
        ours = encoder.to(D)(values.to(D), src_key_padding_mask=padding.to(D)).cpu()[~padding]
    torch.testing.assert_close(ours, expected)


def test_grouped_matrices_may_start_anywhere(two_gpus):
    def shifted(*shape):
        """Values that start 4 bytes off a 16-byte boundary, as a weight mapped from a file may."""
        room = torch.zeros(torch.Size(shape).numel() + 1, dtype=torch.bfloat16)[1:]
        return room.view(shape).copy_(torch.randn(shape))

    tokens, experts = shifted(8, 16), shifted(2, 16, 16)
    ends = torch.tensor([4, 8], dtype=torch.int32)
    ours = torch._grouped_mm(tokens.to(D), experts.to(D), offs=ends.to(D))
    assert torch.equal(ours.cpu(), torch._grouped_mm(tokens.clone(), experts.clone(), offs=ends))


def test_a_view_grows_and_keeps_what_its_base_holds(two_gpus):
    base = torch.arange(4.0, device=D)
    view = base[:2].resize_(8)
    assert view[:4].tolist() == [0, 1, 2, 3] == base.tolist()


@pytest.mark.parametrize(
    ("run", "method"),
    [
        (lambda: torch.ones(2, 2, device=D) @ torch.ones(2, 2), "wrapper_simgpu_mm)"),
        (lambda: F.embedding(torch.tensor([0]), torch.ones(2, 2, device=D)), "wrapper_simgpu__index_select)"),
    ],
)
def test_the_method_in_the_text_is_named_as_pytorch_names_it(run, method, two_gpus):
    with pytest.raises(RuntimeError) as caught:
        run()
    assert str(caught.value).endswith(method)


def test_the_tensor_in_the_way_is_named_and_not_an_index_that_may_be_there(two_gpus):
    target = torch.zeros(4, device=D)
    with pytest.raises(RuntimeError, match="at least two devices, simgpu:0 and simgpu:1"):
        target[torch.tensor([0])] = torch.ones(1, device="simgpu:1")


def test_streams_and_events_order_nothing(two_gpus):
    stream, start, end = torch.simgpu.Stream(), torch.simgpu.Event(enable_timing=True), torch.simgpu.Event()
    start.record()
    with torch.simgpu.stream(stream):
        total = torch.ones(3, device=D).sum()
    torch.simgpu.current_stream().wait_stream(stream)
    end.record(stream)
    assert total.item() == 3 and start.elapsed_time(end) >= 0 and stream.query()


def test_the_memory_summary_tells_use_and_capacity(two_gpus):
    kept = torch.ones(2**18, device=D)
    text = torch.simgpu.memory_summary()
    assert "in use" in text and "1.00 MiB" in text and "1.00 GiB" in text and kept.numel()
