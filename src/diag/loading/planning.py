"""plan_load(spec): everything that can be decided before a weight is read, or the error that would stop the load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from diag.errors import CheckpointError, MissingLibraryError, UnsupportedError
from diag.loading import footprint
from diag.loading.checkpoint.files import Checkpoint
from diag.loading.checkpoint.find import find_checkpoint
from diag.loading.footprint import NOTHING, Device, Packed
from diag.loading.presets import WRITTEN_PRESETS, check_devices, check_map, written_map
from diag.loading.quantizer_config import is_bitsandbytes, known_refusal, quantizer_config
from diag.loading.transformers_private import ModelClass, Skeleton, skeleton
from diag.machine.accelerators import accelerator_name, usable_memory, use_hardware
from diag.models.ties import declared_ties
from diag.values.spec import AUTO_PRESETS, LoadSpec
from diag.values.text import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Memory = Mapping[int | str, int]  # bytes by device index or "cpu"
RequestedMap = str | Mapping[str, Device] | None


@dataclass(frozen=True)
class Plan:
    """How one spec would be loaded: the arguments for `from_pretrained`, and what they come to.

    `resolved_map` is the final device map (None: no map at all), `packed` the modules that will hold quantized
    weights, `n_linear` how many linear layers there are, `nbytes` the bytes per device the map places there,
    `spilled` says in a sentence which limit pushed blocks off the first device (empty: none left it), `needs_disk`
    whether the map places weights on disk. A user's own loader has a plan without a `model_class`, and what it makes
    of the map that it is given is seen after the load.
    """

    spec: LoadSpec
    checkpoint: Checkpoint
    model_class: ModelClass | None
    config: PretrainedConfig | None
    arguments: dict[str, Any]
    resolved_map: Mapping[str, Device] | None = None
    packed: Packed = NOTHING
    n_linear: int = 0
    nbytes: Mapping[str, int] | None = None
    spilled: str = ""
    needs_disk: bool = False


def plan_load(spec: LoadSpec, free_memory: Memory | None = None) -> Plan:
    """Resolves a spec against its checkpoint and machine, where `free_memory` stands in for asking it now.

    Raises DiagError for what it finds wrong, UnsupportedError for a known refusal; other errors are the libraries' own.
    """
    use_hardware(spec.hardware)
    accelerator = accelerator_name()
    limits = usable_memory(spec, free_memory) if spec.device_map in AUTO_PRESETS else None
    if not isinstance(spec.device_map, str) and not spec.simulated:
        check_devices(dict(spec.device_map))
    checkpoint = find_checkpoint(spec.model)
    config = _config_for_loader(checkpoint) if spec.loader else _load_config(checkpoint)
    kind = None if spec.loader else _model_class(checkpoint, config)
    own_code, quantizing = _may_run_its_code(checkpoint), quantizer_config(spec, checkpoint, config)
    arguments: dict[str, Any] = {"config": config, "dtype": spec.dtype, "trust_remote_code": own_code}
    arguments |= {"quantization_config": quantizing} | ({} if limits is None else {"max_memory": limits})
    plan = Plan(spec, checkpoint, kind, config, arguments)
    if kind is None:
        given = arguments["device_map"] = _map_for_loader(plan, accelerator)
        return replace(plan, needs_disk=isinstance(given, Mapping) and "disk" in given.values())
    arguments["device_map"] = _requested_map(plan, kind, accelerator)
    built = _without_weights(plan, kind)
    tied = _ties(built.model)
    has_map = arguments["device_map"] is not None or quantizing is not None
    placed = footprint.plain_devices(built.device_map, accelerator) if has_map else None
    layers = footprint.linear_layers(built.model)
    devices = footprint.module_devices(built.model, placed or {"": "cpu" if accelerator is None else 0})
    nbytes = footprint.bytes_per_device(built.model, placed or {"": "cpu"}, tied)
    return replace(
        plan,
        resolved_map=placed,
        packed=footprint.packed_among(layers, devices),
        n_linear=len(layers),
        nbytes=nbytes,
        spilled=footprint.why_spilled(spec.device_map, placed, nbytes, limits or {}, accelerator),
        needs_disk="disk" in (placed or {}).values(),
    )


def _config_for_loader(checkpoint: Checkpoint) -> PretrainedConfig | None:
    """The config where transformers can read it; a user's loader may know what transformers alone does not."""
    try:
        return _load_config(checkpoint)
    except CheckpointError:
        return None


def _map_for_loader(plan: Plan, accelerator: str | None) -> RequestedMap:
    """What transformers takes: `disk` and `offload` are diag's own words, so a loader gets the map they stand for."""
    spec = plan.spec
    if not isinstance(spec.device_map, str):
        return dict(spec.device_map)
    if spec.device_map not in WRITTEN_PRESETS:
        return _preset_map(spec.device_map, accelerator)
    try:
        return _written_map(plan, _model_class(plan.checkpoint, plan.config), accelerator)
    except UnsupportedError:
        raise
    except Exception as e:  # a class that is not known, or one that can't be built without weights: each has its own
        raise UnsupportedError(
            f"no map can be written for the preset {spec.device_map!r} and the loader {spec.loader!r}.",
            why=f"the preset {spec.device_map!r} is a map that diag writes from {spec.model!r} built without weights, "
            f"and that can't be built: {getattr(e, 'what', '') or f'{type(e).__name__}: {e}'}",
            next_step="give the map yourself: device_map={'module.name': 'disk', …}.",
        ) from e


def _requested_map(plan: Plan, kind: ModelClass, accelerator: str | None) -> RequestedMap:
    """The `device_map` for `from_pretrained`: a word of transformers', or a map from names to devices."""
    asked = plan.spec.device_map
    if asked == "none" and plan.spec.hardware and is_bitsandbytes(plan.spec, plan.config):
        return {"": 0}  # what its update_device_map does on cuda, xpu, npu and hpu, the devices it knows by name
    if isinstance(asked, str) and asked not in WRITTEN_PRESETS:
        return _preset_map(asked, accelerator)
    return _written_map(plan, kind, accelerator)


def _preset_map(preset: str, accelerator: str | None) -> RequestedMap:
    if preset == "single":
        return {"": "cpu" if accelerator is None else 0}
    return {"none": None, "cpu": {"": "cpu"}}.get(preset, preset)


def _written_map(plan: Plan, kind: ModelClass, accelerator: str | None) -> dict[str, Device]:
    """The spec's own map, checked, or the one that a preset of ours stands for; both by the unquantized model."""
    arguments = {**plan.arguments, "device_map": {"": "cpu"}}
    del arguments["quantization_config"]
    model = skeleton(kind, str(plan.checkpoint.folder), **arguments).model
    if not isinstance(plan.spec.device_map, str):
        device_map = dict(plan.spec.device_map)
        check_map(model, device_map)
        return device_map
    ties = _ties(model)
    first: Device = "cpu" if accelerator is None else 0
    return written_map(plan.spec.device_map, model, first, {*ties, *ties.values()})


def _ties(model: nn.Module) -> dict[str, str]:
    """Which name each tied name follows."""
    paths = {id(module): path for path, module in model.named_modules()}
    return declared_ties(model, paths, {name for name, _ in model.named_parameters(remove_duplicate=False)})


def _without_weights(plan: Plan, kind: ModelClass) -> Skeleton:
    """The model as `from_pretrained` builds it before it reads weights, with its device map; refusals in our words."""
    asked = plan.arguments["device_map"]
    arguments = {**plan.arguments, "device_map": {"": "cpu"} if asked is None else asked}
    try:
        return skeleton(kind, str(plan.checkpoint.folder), **arguments)
    except ImportError as e:
        what = f"quantization={plan.spec.quantization!r} can't be used here."
        raise MissingLibraryError(what, why=str(e), next_step="install what it names.") from e
    except ValueError as e:
        known = known_refusal(plan.spec, plan.config, e)
        if known is None:
            raise
        raise known from e


# --- which class loads a checkpoint: the one its config names, never the checkpoint's own code -----------------------


def _may_run_its_code(checkpoint: Checkpoint) -> bool:
    """Whether the user consented to run the code of just this commit (`--trust-remote-code <commit>`)."""
    return checkpoint.revision is not None and checkpoint.revision == os.environ.get("DIAG_TRUST_REMOTE_CODE")


def _load_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The transformers config object. Raises CheckpointError where only code from the checkpoint could read it."""
    from transformers import AutoConfig

    trust = _may_run_its_code(checkpoint)
    try:
        return AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=trust)
    except (ValueError, KeyError, ImportError) as e:
        if checkpoint.config.get("auto_map"):
            raise _remote_code(checkpoint) from e
        raise CheckpointError(
            f"transformers can't read the config of {checkpoint.model!r}.",
            why=f"model_type is {checkpoint.config.get('model_type')!r}. {first_line(e)}",
            next_step="check config.json, or install a transformers that knows this model type.",
        ) from e


def _model_class(checkpoint: Checkpoint, config: PretrainedConfig | None) -> ModelClass:
    """The class that `config.architectures` names, or the generic one for the model type where it names none."""
    import transformers

    listed = checkpoint.config.get("architectures")
    names = list(listed) if isinstance(listed, (list, tuple)) else []
    known = [name for name in names if isinstance(getattr(transformers, name, None), type)]
    if known:
        return getattr(transformers, known[0])
    if not names:
        return _generic_class(checkpoint, config)
    references = checkpoint.config.get("auto_map")
    if not isinstance(references, Mapping):
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class {names[0]!r}.",
            why="config.json names it as the architecture of this checkpoint.",
            next_step="install a transformers that has it, or name your own loader (loader='module:function').",
        )
    if not _may_run_its_code(checkpoint):
        raise _remote_code(checkpoint)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    preferred = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel", *references)
    chosen = next(references[kind] for kind in preferred if kind in references)
    return cast("ModelClass", get_class_from_dynamic_module(chosen, str(checkpoint.folder)))


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


def _remote_code(checkpoint: Checkpoint) -> CheckpointError:
    commit = checkpoint.revision or "the commit of a hub revision"
    return CheckpointError(
        f"{checkpoint.model!r} can only be loaded by running code that comes with it.",
        why="config.json has an auto_map, and transformers has no class of its own for it; diag runs no such code.",
        next_step="load it yourself and hand over the model (diag.placement(model), diag.diagnose(model)), name your "
        f"own loader (loader='module:function'), or consent to one revision: --trust-remote-code {commit}.",
    )
