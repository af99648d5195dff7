"""Loaders with the mistakes people make, and probes of one's own: imported in a cell's process by the tests."""

from __future__ import annotations

import accelerate
import torch
import transformers

from diag.loading import samples

TINY = "tiny"


def _load(device_map=None, **values):
    return transformers.LlamaForCausalLM.from_pretrained(samples.path(TINY), device_map=device_map, **values)


def good(device_map=None, quantization_config=None, max_memory=None, offload_folder=None):
    request = {"quantization_config": quantization_config, "max_memory": max_memory, "offload_folder": offload_folder}
    return _load(device_map, **request)


def to_disk(offload_folder=None, **_):
    return _load({"": "disk"}, offload_folder=offload_folder)


def ignores_quantization(device_map=None, **_):
    return _load(device_map)


def builds_on_meta_and_never_fills(**_):
    config = transformers.AutoConfig.from_pretrained(samples.path(TINY))
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


def fills_with_to_empty(**_):
    torch.manual_seed(0)
    model = builds_on_meta_and_never_fills().to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    return model


def removes_the_hooks(offload_folder=None, **_):
    model = to_disk(offload_folder)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    return model


def moves_after_dispatch(offload_folder=None, **_):
    layers = {f"model.layers.{i}": "disk" for i in range(1, 6)}
    rest = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers.0": "cpu", "model.norm": "cpu"}
    return _load({**rest, **layers, "model.rotary_emb": "cpu"}, offload_folder=offload_folder).to("cpu")


def replaces_a_forward(offload_folder=None, **_):
    model = to_disk(offload_folder)
    layer = model.model.layers[2].self_attn.q_proj
    layer.forward = lambda x: torch.nn.functional.linear(x, layer.weight)
    return model


def not_a_model(**_):
    return {"model": None}


def hidden(model):
    return model.model(input_ids=torch.tensor([[1, 2, 3, 4]])).last_hidden_state


def text_of_nothing(model):
    return "no tensor"


def raises_by_itself(model):
    raise RuntimeError("probe trouble")


def asks_too_much(model):
    return model(input_ids=torch.tensor([[10**6]])).logits


def takes_nothing():
    return None


def raises(**_):
    raise ValueError("my own trouble")


def loads_half_precision(device_map=None, **_):
    return _load(device_map, dtype=torch.float16)


def halves_one_layer(device_map=None, **_):
    model = _load(device_map)
    model.model.layers[1].mlp.half()
    return model


def ignores_the_map(**_):
    return _load()
