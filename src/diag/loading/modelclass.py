"""Which class loads a checkpoint: the one its config names, and never code from the checkpoint itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from diag.errors import CheckpointError
from diag.loading.checkpoint.files import Checkpoint
from diag.loading.transformers_private import ModelClass
from diag.values.text import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def may_run_its_code(checkpoint: Checkpoint) -> bool:
    """Whether the user consented to run the code of just this commit (`--trust-remote-code <commit>`)."""
    return checkpoint.revision is not None and checkpoint.revision == os.environ.get("DIAG_TRUST_REMOTE_CODE")


def load_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The transformers config object. Raises CheckpointError where only code from the checkpoint could read it."""
    from transformers import AutoConfig

    trust = may_run_its_code(checkpoint)
    try:
        return AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=trust)
    except (ValueError, KeyError, ImportError) as e:
        if _own_code(checkpoint):
            raise _remote_code(checkpoint) from e
        raise CheckpointError(
            f"transformers can't read the config of {checkpoint.model!r}.",
            why=f"model_type is {checkpoint.config.get('model_type')!r}. {first_line(e)}",
            next_step="check config.json, or install a transformers that knows this model type.",
        ) from e


def model_class(checkpoint: Checkpoint, config: PretrainedConfig | None) -> ModelClass:
    """The class that `config.architectures` names, or the generic one for the model type where it names none."""
    import transformers

    listed = checkpoint.config.get("architectures")
    names = list(listed) if isinstance(listed, (list, tuple)) else []
    known = [name for name in names if isinstance(getattr(transformers, name, None), type)]
    if known:
        return getattr(transformers, known[0])
    if names and _own_code(checkpoint):
        if may_run_its_code(checkpoint):
            return _class_from_its_code(checkpoint)
        raise _remote_code(checkpoint)
    if names:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class {names[0]!r}.",
            why="config.json names it as the architecture of this checkpoint.",
            next_step="install a transformers that has it, or name your own loader (loader='module:function').",
        )
    return _generic_class(checkpoint, config)


def _own_code(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.config.get("auto_map"))


def _generic_class(checkpoint: Checkpoint, config: PretrainedConfig | None) -> ModelClass:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if config is None or type(config) not in MODEL_MAPPING:
        raise CheckpointError(
            f"config.json of {checkpoint.model!r} names no architecture.",
            why=f"there is no generic class for {type(config).__name__} either.",
            next_step='add "architectures": ["YourClass"] to config.json, or name your own loader.',
        )
    found = MODEL_MAPPING[type(config)]
    return cast("ModelClass", found[0] if isinstance(found, tuple) else found)


def _class_from_its_code(checkpoint: Checkpoint) -> ModelClass:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    references = checkpoint.config["auto_map"]
    assert isinstance(references, Mapping)
    known = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel", *references)
    chosen = next(kind for kind in known if kind in references)
    return cast("ModelClass", get_class_from_dynamic_module(references[chosen], str(checkpoint.folder)))


def _remote_code(checkpoint: Checkpoint) -> CheckpointError:
    commit = checkpoint.revision or "the commit of a hub revision"
    return CheckpointError(
        f"{checkpoint.model!r} can only be loaded by running code that comes with it.",
        why="config.json has an auto_map, and transformers has no class of its own for it; diag runs no such code.",
        next_step="load it yourself and hand over the model (diag.placement(model), diag.diagnose(model)), name your "
        f"own loader (loader='module:function'), or consent to one revision: --trust-remote-code {commit}.",
    )
