"""A diffusers pipeline goes through placement and diagnose with its components as prefixes."""

from __future__ import annotations

import accelerate
import pytest
import torch

import diag

diffusers = pytest.importorskip("diffusers")


@pytest.fixture
def pipeline():
    """A latent diffusion pipeline with three tiny random components, built here: no files, no network."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), cross_attention_dim=16, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    text = CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                        num_attention_heads=2, vocab_size=100))  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=None, unet=unet, scheduler=diffusers.DDPMScheduler(clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def test_components_are_prefixes_and_every_tensor_is_there(pipeline):
    table = diag.placement(pipeline)
    counts = table.name.str.split(".").str[0].value_counts()
    assert set(counts.index) == {"unet", "vae", "text_encoder"}
    parameters = sum(len(list(part.parameters())) for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder))
    assert (table.kind == "parameter").sum() == parameters
    assert set(table.backing) == {"resident"}


def test_a_whole_pipeline_is_healthy(pipeline):
    assert diag.diagnose(pipeline).healthy


def test_a_component_that_is_offloaded_is_healthy(pipeline):
    accelerate.cpu_offload(pipeline.unet, execution_device=torch.device("cpu"))
    table = diag.placement(pipeline)
    assert set(table.backing[table.name.str.startswith("unet.")]) == {"offloaded"}
    assert diag.diagnose(pipeline).healthy


def test_a_component_whose_hooks_were_removed_is_named(pipeline):
    accelerate.cpu_offload(pipeline.unet, execution_device=torch.device("cpu"))
    accelerate.hooks.remove_hook_from_module(pipeline.unet, recurse=True)
    for module in pipeline.unet.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"))
    found = diag.diagnose(pipeline)
    assert not found.healthy
    assert all(name.startswith("unet.") for name in found[0].tensors) and len(found[0].tensors) > 100
    counts = diag.placement(pipeline).backing.value_counts()
    assert counts["none"] == len(found[0].tensors)
