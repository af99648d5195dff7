"""Loaders and probes that misbehave, for the matrix tests: each runs only inside a cell's own process."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import torch
import transformers

from diag.loading import samples


def good(device_map=None, **_):
    return transformers.LlamaForCausalLM.from_pretrained(samples.path("tiny"), device_map=device_map)


def kills_itself(**request):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(**request):
    os._exit(3)


def segfaults(**request):
    ctypes.string_at(0)


def allocates_without_end(**request):
    kept = []
    while True:
        kept.append(torch.ones(8 * 2**20))


def sleeps_forever(**request):
    time.sleep(3600)


def raises(**request):
    raise ValueError("<b>my loader</b> \x1b[31mfailed\x1b[0m")


def randomises_one_layer(**request):
    model = good(**request)
    with torch.no_grad():
        model.model.layers[2].self_attn.v_proj.weight.normal_(std=0.02)
    return model


def leaves_a_weight_on_meta(**request):
    model = good(**request)
    model.model.layers[1].self_attn.q_proj.weight = torch.nn.Parameter(torch.empty(64, 64, device="meta"))
    return model


def leaves_a_norm_on_meta(**request):
    model = good(**request)
    model.model.norm.weight = torch.nn.Parameter(torch.empty(64, device="meta"))
    return model


def probe_that_counts_calls(model):
    model.calls = getattr(model, "calls", 0) + 1
    return torch.tensor([[float(model.calls)]])
