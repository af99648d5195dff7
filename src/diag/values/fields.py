"""Reads the values a spec is given: one parser per field, each raising SpecError. Standard library only."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from diag.errors import SpecError
from diag.values.hardware import Hardware, parse_size

AUTO_PRESETS = ("auto", "balanced", "balanced_low_0", "sequential")
PRESETS = (*AUTO_PRESETS, "single", "none", "cpu", "disk", "offload")
QUANTIZATIONS = ("none", "int8", "nf4", "fp4", "nf4-double")
AS_STORED = "as-stored"
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

DEVICE_MAP_ALIASES = {"cuda": "single", "gpu": "single", "off": "none"}
QUANTIZE_ALIASES = {"4bit": "nf4", "8bit": "int8"}

Pairs = tuple[tuple[str, str | int], ...]

_DEVICE = re.compile(  # the types accelerate counts by index, and the simulated one
    r"(cpu|disk|meta|(cuda|xpu|mps|npu|hpu|mlu|musa|sdaa|xla|simgpu)(:\d+)?)\Z"
)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_CONFIG = re.compile(r"[A-Za-z_]\w*Config \{.*\}\Z", re.DOTALL)


def _wrong(field: str, value: Any, why: str, next_step: str) -> SpecError:
    return SpecError(f"{field}={value!r} is not valid.", why=why, next_step=next_step)


def _one_of(field: str, value: str, valid: tuple[str, ...], also: str = "") -> str:
    if value in valid:
        return value
    close = difflib.get_close_matches(value, valid, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(valid)}."
    raise _wrong(field, value, f"valid are: {', '.join(valid)}{also}.", hint)


def parse_model(value: Any) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip():
        raise _wrong(
            "model",
            value,
            "a model is named by a non-empty text.",
            "give a hub id, a local folder, or a sample name such as 'tiny' or 'smollm2'.",
        )
    return os.path.expanduser(value)


def parse_hardware(value: Any) -> Hardware | None:
    if value is None or isinstance(value, Hardware):
        return value
    if isinstance(value, str):
        return None if value == "this machine" else Hardware.parse(value)
    raise _wrong(
        "hardware",
        value,
        "hardware is None (this machine), a Hardware, or its text.",
        "for simulated GPUs write for example '2x24GiB+64GiB'.",
    )


def json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        raise _wrong(field, text, f"it is not valid JSON: {e}.", "check quotes, commas and braces.") from e
    if not isinstance(value, dict):
        raise _wrong(field, text, "a JSON object is needed.", 'for example {"": 0, "lm_head": "cpu"}.')
    return value


def parse_device_map(value: Any) -> str | Pairs:
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            return _one_of("device_map", text, PRESETS, also=", or a map as a dict or JSON")
        value = json_object(text, "device_map")
    if isinstance(value, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in value):
        if len({k for k, _ in value}) != len(value):
            raise _wrong("device_map", value, "a module is named twice.", "give each module one device.")
        value = dict(value)
    if not isinstance(value, Mapping):
        raise _wrong(
            "device_map",
            value,
            f"it is a {type(value).__name__}.",
            f"use one of: {', '.join(PRESETS)}, or a dict from module names to devices.",
        )
    if not value:
        raise _wrong("device_map", {}, "an empty map places nothing.", "use 'none' to load without a map.")
    for name, device in value.items():
        _check_map_entry(name, device)
    return tuple(sorted(((name, _device(device)) for name, device in value.items())))


def _check_map_entry(name: Any, device: Any) -> None:
    if not isinstance(name, str):
        raise _wrong(
            "device_map",
            {name: device},
            "keys are module names, as in model.named_modules().",
            "use '' for the whole model.",
        )
    text = str(device)
    is_index = isinstance(device, int) and not isinstance(device, bool) and device >= 0
    if not is_index and not (text == text.lower() and _DEVICE.match(text)):
        raise _wrong(
            "device_map",
            {name: device},
            f"{device!r} is not a device.",
            "use a number (an accelerator's index), 'cpu', 'disk', or a name such as 'cuda:0'.",
        )


def _device(device: Any) -> str | int:
    return device if isinstance(device, int) else str(device)


def parse_quantization(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        if _CONFIG.match(value):
            name, _, text = value.partition(" ")
            return f"{name} {json.dumps(json_object(text, 'quantization'), sort_keys=True, separators=(',', ':'))}"
        also = ", or a transformers quantization config"
        return _one_of("quantization", value, (*QUANTIZATIONS, AS_STORED), also)
    if type(value).__name__.endswith("Config") and hasattr(value, "to_dict"):
        text = json.dumps(value.to_dict(), sort_keys=True, separators=(",", ":"), default=str)
        return f"{type(value).__name__} {text}"
    raise _wrong(
        "quantization",
        value,
        f"it is a {type(value).__name__}.",
        f"use one of: {', '.join(QUANTIZATIONS)}, or a transformers quantization config.",
    )


def parse_dtype(value: Any) -> str:
    if value is None:
        return "auto"
    text = str(value).removeprefix("torch.")
    return _one_of("dtype", text, DTYPES)


def parse_max_memory(value: Any) -> tuple[tuple[str | int, int], ...] | None:
    if value is None:
        return None
    items = value.items() if isinstance(value, Mapping) else value
    try:
        pairs = [(_memory_key(key), parse_size(size, "max_memory")) for key, size in items]
    except (TypeError, ValueError) as e:
        if isinstance(e, SpecError):
            raise
        raise _wrong(
            "max_memory",
            value,
            "it maps devices to sizes.",
            "for example {0: '20GiB', 'cpu': '60GiB'}.",
        ) from e
    if len({key for key, _ in pairs}) != len(pairs):
        raise _wrong("max_memory", value, "a device is named twice.", "give each device one size.")
    return tuple(sorted(pairs, key=lambda pair: (isinstance(pair[0], str), str(pair[0]).zfill(4))))


def _memory_key(key: Any) -> str | int:
    if isinstance(key, str) and key.isdigit():
        return int(key)
    if isinstance(key, bool) or not (key in ("cpu", "disk") or (isinstance(key, int) and key >= 0)):
        raise _wrong(
            "max_memory",
            {key: "…"},
            f"{key!r} is not a device that max_memory knows.",
            "use an accelerator's index (0, 1, …) or 'cpu'.",
        )
    return key


def parse_path(value: Any, field: str) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise _wrong(field, value, "a folder or name is needed.", "leave it out for the default.")
    return os.path.expanduser(text)


def check_function(value: Any, field: str) -> None:
    if value is not None and not (isinstance(value, str) and _FUNCTION.match(value)):
        raise _wrong(
            field,
            value,
            "it is not written as package.module:function.",
            "put the function in an importable file and write for example 'my_loader:load'.",
        )


def check_probe(value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise _wrong(
            "probe",
            value,
            "a probe is a text prompt or package.module:function.",
            "leave it out for the default probe.",
        )
