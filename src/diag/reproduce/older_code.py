"""Small models as custom code writes them: each does one thing that transformers 5 does not allow or expect."""

from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

_WIDTH = 8


class SmallConfig(PretrainedConfig):
    model_type = "diag-small"


class WithoutPostInit(PreTrainedModel):
    """Does not call post_init(), which sets what transformers 5 expects."""

    config_class = SmallConfig

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class DropPathModel(WithoutPostInit):
    """Computes its drop-path rates with tensors, as vision models of the transformers 4 time do."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.rates = [(rate / 10).item() for rate in torch.arange(3)]
        self.post_init()


class UnsavedBufferModel(WithoutPostInit):
    """Keeps a buffer that is not saved, and that its own code never computes again."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.register_buffer("steps", torch.arange(_WIDTH, dtype=torch.float32) + 1.0, persistent=False)
        self.post_init()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.steps


def saved_by(model_class: type[WithoutPostInit], folder: Path) -> str:
    """A checkpoint for one of these models, written with random weights."""
    from safetensors.torch import save_file

    target = folder / model_class.__name__
    target.mkdir(exist_ok=True)
    SmallConfig(architectures=[model_class.__name__]).save_pretrained(target)
    torch.manual_seed(0)
    state = {f"linear.{name}": value for name, value in nn.Linear(_WIDTH, _WIDTH).state_dict().items()}
    save_file(state, target / "model.safetensors", {"format": "pt"})
    return str(target)
