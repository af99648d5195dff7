"""Where a model came from: the spec that `load` made it from, or what a model that others loaded says of itself."""

import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diag.errors import CheckpointError, SpecError
from diag.loading import samples
from diag.loading.checkpoint.files import Checkpoint
from diag.loading.checkpoint.find import find_checkpoint
from diag.loading.quantizer_config import bitsandbytes_arguments
from diag.values.spec import AS_STORED, QUANTIZATIONS, LoadSpec

Checkpointed = LoadSpec | str | os.PathLike[str] | None  # whose checkpoint is meant; None: the model says it itself


class Made(NamedTuple):
    """How `load` made a model: from which spec, and the files that were read."""

    spec: LoadSpec
    checkpoint: Checkpoint


LOADED_FROM: weakref.WeakKeyDictionary[object, Made] = weakref.WeakKeyDictionary()  # filled by load


def made_from(model: object) -> Made | None:
    """How `load` made this model, if it did."""
    try:
        return LOADED_FROM.get(model)
    except TypeError:  # what can't be referred to weakly was not made by load
        return None


def spec_of(model: object) -> LoadSpec | None:
    """The spec that `load` made this model from, if it did."""
    made = made_from(model)
    return None if made is None else made.spec


def checkpoint_name(model: object, given: Checkpointed = None) -> str:
    """The sample, folder or hub id of a model: what the caller says, else what load or its config says, else ''."""
    given = given or spec_of(model)
    if given is not None:
        return given.model if isinstance(given, LoadSpec) else str(given)
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def files_on_this_machine(model: object, spec: LoadSpec | None = None) -> tuple[str, tuple[Path, ...]]:
    """A model's checkpoint by name, and its weight files; none where they are not here or can't be read.

    Nothing is downloaded for it.
    """
    made, name = made_from(model), checkpoint_name(model, spec)
    if made is not None and made.spec.model == name:
        return name, made.checkpoint.files
    try:
        return name, find_checkpoint(name).files if name in samples.names() or os.path.isdir(name) else ()
    except CheckpointError:
        return name, ()


def spec_for(model: object, has_adapter: bool) -> LoadSpec | None:
    """The spec to load this model again with: load's own, or one for a model that came from a local folder.

    The latter has the same files, dtype and quantization, and the same map where a spec can name its devices. None
    where the model does not say where it came from, and for one with an adapter, whose folder a model does not name.
    """
    made = spec_of(model)
    name = checkpoint_name(model)
    if made is not None or has_adapter or not os.path.isdir(name):
        return made
    dtype = str(getattr(model, "dtype", "auto")).removeprefix("torch.")
    spec = LoadSpec(name, device_map="none", dtype=dtype if dtype in ("float32", "float16", "bfloat16") else "auto")
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is not None:
        return spec.replace(device_map="auto", quantization=_quantization(config, spec))
    placed = getattr(model, "hf_device_map", None)
    if not isinstance(placed, Mapping) or not placed:
        return spec
    devices = {key: device if isinstance(device, (int, str)) else str(device) for key, device in placed.items()}
    try:
        return spec.replace(device_map=devices)
    except SpecError:  # devices that a spec can't name
        return spec.replace(device_map="auto")


def _quantization(config: object, spec: LoadSpec) -> object:
    """`as-stored`, the name that stands for this config, or the config itself."""
    try:
        stored = json.loads((Path(spec.model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    if stored.get("quantization_config"):
        return AS_STORED
    values = config if isinstance(config, Mapping) else config.to_dict() if hasattr(config, "to_dict") else {}
    if values.get("load_in_8bit") or values.get("load_in_4bit"):
        from transformers import BitsAndBytesConfig

        for name in QUANTIZATIONS[1:]:
            named = BitsAndBytesConfig(**bitsandbytes_arguments(name, spec.dtype)).to_dict()
            if all(values.get(key, value) == value for key, value in named.items()):
                return name
    return "none" if isinstance(config, Mapping) else config
