"""Scenarios: tensors that are on meta, and how they came to be or are met."""

from __future__ import annotations

from typing import Any

from diag.reproduce.common import disk_map, load_with_disk, remember_right_answer, run, token_ids
from diag.reproduce.scenario import Scenario, Stage, steps

# --- never-materialised ---------------------------------------------------------------------------------------


def load_without_data(stage: Stage) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():  # meant for from_config; transformers 5 does not refuse it here
        stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
    return f"{sum(p.is_meta for p in stage.model.parameters())} parameters are on meta, and loading reported success"


def generate(stage: Stage) -> None:
    stage.inputs = {"input_ids": token_ids()}
    stage.model.generate(**stage.inputs, max_new_tokens=2, do_sample=False)


def load_with_meta_map(stage: Stage) -> Any:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint(), device_map="meta")
    return "loading reported success"


def move_to_cpu(stage: Stage) -> None:
    stage.model.to("cpu")


def build_empty(stage: Stage) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        stage.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(stage.checkpoint())))


def load_state_without_assign(stage: Stage) -> Any:
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for file in sorted(stage.checkpoint().glob("*.safetensors")):
        state.update(load_file(file))
    return stage.model.load_state_dict(state, strict=False)  # without assign=True: nothing is copied


# --- hooks-removed --------------------------------------------------------------------------------------------


def remove_hooks(stage: Stage) -> None:
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(stage.model, recurse=True)


# --- forward-bypasses-hook ------------------------------------------------------------------------------------


def patch_linear(stage: Stage) -> None:
    import types

    from torch import nn

    layer = stage.model.model.layers[5].self_attn.q_proj  # one of the blocks on disk
    layer.forward = types.MethodType(nn.Linear.forward, layer)


def patch_norm(stage: Stage) -> None:
    import types

    norm = stage.model.model.layers[5].input_layernorm
    norm.forward = types.MethodType(type(norm).forward, norm)


# --- weight-used-outside-hook ---------------------------------------------------------------------------------


def load_embedding_on_disk(stage: Stage) -> Any:
    from transformers import AutoModelForCausalLM

    device_map = {**disk_map(), "model.embed_tokens": "disk", "lm_head": "disk"}
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=device_map, offload_folder=stage.folder / "offload"
    )
    return f"model.device is {stage.model.device}"


def mask_padding_with_weight(stage: Stage) -> None:
    import torch

    stage.inputs = {"input_ids": token_ids()}
    embedding = stage.model.get_input_embeddings()
    hidden = embedding(stage.inputs["input_ids"])  # through the module: fine
    torch.where(hidden > 0, hidden, embedding.weight[0])  # past the module: the placeholder


# --- input-on-meta --------------------------------------------------------------------------------------------


def send_inputs_to_model_device(stage: Stage) -> None:
    ids = token_ids().to(stage.model.device)  # model.device is meta: the numbers are gone
    stage.inputs = {"input_ids": ids}
    stage.model(**stage.inputs)


# --- missing-weight-data --------------------------------------------------------------------------------------


def drop_a_key(stage: Stage) -> str:
    import json

    from safetensors.torch import load_file, save_file

    folder = stage.checkpoint()
    key = "model.layers.5.mlp.up_proj.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"].pop(key)
    state = load_file(shard)
    del state[key]
    save_file(state, shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return f"{key} is gone from {shard.name}"


def remove_files(stage: Stage) -> str:
    for file in stage.checkpoint().glob("*.safetensors"):
        file.unlink()
    return "the checkpoint's files are gone, as a cleaned cache leaves them"


# --- tied-weights-split ---------------------------------------------------------------------------------------


def load_with_split_tie(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    # embedding and head are one tensor here, and the map sends them to two places
    device_map = {**disk_map(), "model.embed_tokens": "disk", "lm_head": "cpu"}
    stage.model = AutoModelForCausalLM.from_pretrained(
        stage.checkpoint(), device_map=device_map, offload_folder=stage.folder / "offload"
    )


def load_plainly(stage: Stage) -> None:
    from transformers import AutoModelForCausalLM

    stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())


def untie_the_head(stage: Stage) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    head = nn.Linear(stage.model.config.hidden_size, stage.model.config.vocab_size, bias=False)
    stage.model.lm_head = head  # the embedding stays, the tie is gone


META_SCENARIOS = (
    Scenario(
        "never-materialised", "Loading reports success, and every parameter is on meta.",
        steps(("load", "Load inside accelerate's context for empty models.", load_without_data),
              ("run", "Generate a few words.", generate)),
    ),
    Scenario(
        "never-materialised", "device_map='meta' is accepted, and gives shapes without data.", variant="meta-map",
        steps=steps(("load", "Load with device_map='meta'.", load_with_meta_map),
                    ("run", "Move it, as the usual advice says.", move_to_cpu)),
    ),
    Scenario(
        "never-materialised", "'All keys matched', and nothing was loaded.", variant="no-assign",
        steps=steps(("build", "Build the model without data.", build_empty),
                    ("load", "Load the checkpoint without assign=True.", load_state_without_assign),
                    ("run", "Generate a few words.", generate)),
    ),
    Scenario(
        "hooks-removed", "The headline error: the first operand of a norm is a stranded weight.",
        steps(("load", "Load with the last two blocks on disk.", load_with_disk),
              ("break", "Take the hooks off.", remove_hooks),
              ("run", "Run it.", run)),
    ),
    Scenario(
        "forward-bypasses-hook", "A Linear without bias computes with random memory, and nothing is raised.",
        steps(("build", "Remember the right answer.", remember_right_answer),
              ("load", "Load with the last two blocks on disk.", load_with_disk),
              ("break", "Patch one layer's forward.", patch_linear),
              ("run", "Run it.", run)),
        silent=True,
    ),
    Scenario(
        "forward-bypasses-hook", "The same patch on a norm raises the headline error.", variant="norm",
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("break", "Patch a norm's forward.", patch_norm),
                    ("run", "Run it.", run)),
    ),
    Scenario(
        "weight-used-outside-hook", "The same model answers right when its modules are called.",
        steps(("load", "Load with the embedding on disk.", load_embedding_on_disk),
              ("run", "Read the embedding's weight directly.", mask_padding_with_weight)),
    ),
    Scenario(
        "input-on-meta", "inputs.to(model.device) throws the inputs away.",
        steps(("load", "Load with the embedding on disk.", load_embedding_on_disk),
              ("run", "Send the inputs to model.device.", send_inputs_to_model_device)),
    ),
    Scenario(
        "missing-weight-data", "Loading succeeds, and the first forward fails.",
        steps(("build", "Remove one tensor from the checkpoint.", drop_a_key),
              ("load", "Load with that block on disk.", load_with_disk),
              ("run", "Run it.", run)),
    ),
    Scenario(
        "missing-weight-data", "Disk offload reads the checkpoint on every forward.", variant="files-gone",
        steps=steps(("load", "Load with the last two blocks on disk.", load_with_disk),
                    ("break", "Clean the cache.", remove_files),
                    ("run", "Run it.", run)),
    ),
    Scenario(
        "tied-weights-split", "One tensor under two names can't be in two places.",
        steps(("load", "Load with the embedding on disk and the head on the CPU.", load_with_split_tie),)
    ),
    Scenario(
        "tied-weights-split", "A head of its own answers nonsense.", variant="lost", silent=True,
        steps=steps(("build", "Remember the right answer.", remember_right_answer),
                    ("load", "Load it.", load_plainly),
                    ("break", "Put another head in.", untie_the_head),
                    ("run", "Run it.", run)),
    ),
)  # fmt: skip
