"""Models and checkpoints as people have them and break them: whole, offloaded, without hooks, trained."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate.hooks import remove_hook_from_module
from safetensors.torch import load_file, save_file
from torch import nn

from diag import LoadSpec, load


def plain(sample: str = "tiny") -> nn.Module:
    return load(LoadSpec(sample, device_map="none")).model


def offloaded(sample: str = "tiny") -> nn.Module:
    return load(LoadSpec(sample, device_map="offload")).model


def without_hooks(model: nn.Module) -> nn.Module:
    return remove_hook_from_module(model, recurse=True)


def without_key(folder: Path, key: str, renamed: str = "") -> str:
    """The folder of a checkpoint, now without one tensor, or with that tensor under another name."""
    listed = folder / "model.safetensors.index.json"
    index = json.loads(listed.read_text())
    name = index["weight_map"].pop(key)
    held = load_file(folder / name)
    value = held.pop(key)
    if renamed:
        held[renamed], index["weight_map"][renamed] = value, name
    save_file(held, folder / name, {"format": "pt"})
    listed.write_text(json.dumps(index))
    return str(folder)


def trained(model: nn.Module, ids: torch.Tensor, steps: int, rate: float) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(steps):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
