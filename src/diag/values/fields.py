"""Reads what people and job runners give: one parser for each field of a spec, then those for any parameter of a run.

Each takes a value or the text that means it, and raises SpecError with what would be right. Standard library only.
"""

import ast
import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import SupportsInt, TypeVar

from diag.errors import SpecError
from diag.values.functions import is_function_name
from diag.values.hardware import Hardware
from diag.values.units import parse_size

AUTO_PRESETS = ("auto", "balanced", "balanced_low_0", "sequential")
PRESETS = (*AUTO_PRESETS, "single", "none", "cpu", "disk", "offload")
QUANTIZATIONS = ("none", "int8", "nf4", "fp4", "nf4-double")
AS_STORED = "as-stored"
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

DEVICE_MAP_ALIASES = {"cuda": "single", "gpu": "single", "off": "none"}
QUANTIZE_ALIASES = {"4bit": "nf4", "8bit": "int8"}
MAX_MEMORY_EXAMPLE = '{"0": "20GiB", "cpu": "60GiB"}'

T = TypeVar("T")
Pairs = tuple[tuple[str, str | int], ...]
MemoryLimits = tuple[tuple[str | int, int], ...]

_DEVICE = re.compile(  # the types accelerate counts by index, and the simulated one
    r"(cpu|disk|meta|(cuda|xpu|mps|npu|hpu|mlu|musa|sdaa|xla|simgpu)(:\d+)?)\Z"
)
_CONFIG = re.compile(r"[A-Za-z_]\w*Config \{.*\}\Z", re.DOTALL)
_LISTS = "'auto,disk' or '[\"auto\", \"disk\"]'."
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _wrong(field: str, value: object, why: str, next_step: str) -> SpecError:
    return SpecError(f"{field}={value!r} is not valid.", why=why, next_step=next_step)


def _one_of(field: str, value: str, valid: tuple[str, ...], also: str = "") -> str:
    if value in valid:
        return value
    close = difflib.get_close_matches(value, valid, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(valid)}."
    raise _wrong(field, value, f"valid are: {', '.join(valid)}{also}.", hint)


# The fields of a spec


def parse_model(value: object) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip():
        hint = "give a hub id, a local folder, or a sample name such as 'tiny' or 'smollm2'."
        raise _wrong("model", value, "a model is named by a non-empty text.", hint)
    return os.path.expanduser(value)


def parse_hardware(value: object) -> Hardware | None:
    if value is None or isinstance(value, Hardware):
        return value
    if isinstance(value, str):
        return None if value == "this machine" else Hardware.parse(value)
    why = "hardware is None (this machine), a Hardware, or its text."
    raise _wrong("hardware", value, why, "for simulated GPUs write for example '2x24GiB+64GiB'.")


def _json_object(text: str, field: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        raise _wrong(field, text, f"it is not valid JSON: {e}.", "check quotes, commas and braces.") from e
    if not isinstance(value, dict):
        raise _wrong(field, text, "a JSON object is needed.", 'for example {"": 0, "lm_head": "cpu"}.')
    return value


def parse_device_map(value: object) -> str | Pairs:
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            return _one_of("device_map", text, PRESETS, also=", or a map as a dict or JSON")
        value = _json_object(text, "device_map")
    if isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        if len({name for name, _ in value}) != len(value):
            raise _wrong("device_map", value, "a module is named twice.", "give each module one device.")
        value = dict(value)
    if not isinstance(value, Mapping):
        hint = f"use one of: {', '.join(PRESETS)}, or a dict from module names to devices."
        raise _wrong("device_map", value, f"it is a {type(value).__name__}.", hint)
    if not value:
        raise _wrong("device_map", {}, "an empty map places nothing.", "use 'none' to load without a map.")
    return tuple(sorted(_map_entry(name, device) for name, device in value.items()))


def _map_entry(name: object, device: object) -> tuple[str, str | int]:
    if not isinstance(name, str):
        why = "keys are module names, as in model.named_modules()."
        raise _wrong("device_map", {name: device}, why, "use '' for the whole model.")
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        return name, device
    text = str(device)  # also of a torch.device
    if not _DEVICE.match(text):
        hint = "use a number (an accelerator's index), 'cpu', 'disk', or a name such as 'cuda:0'."
        raise _wrong("device_map", {name: device}, f"{device!r} is not a device.", hint)
    return name, text


def parse_quantization(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        if not _CONFIG.match(value):
            valid = (*QUANTIZATIONS, AS_STORED)
            return _one_of("quantization", value, valid, also=", or a transformers quantization config")
        name, _, text = value.partition(" ")
        return f"{name} {_compact_json(_json_object(text, 'quantization'))}"
    to_dict = getattr(value, "to_dict", None)
    if type(value).__name__.endswith("Config") and callable(to_dict):
        return f"{type(value).__name__} {_compact_json(to_dict())}"
    hint = f"use one of: {', '.join(QUANTIZATIONS)}, or a transformers quantization config."
    raise _wrong("quantization", value, f"it is a {type(value).__name__}.", hint)


def _compact_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def parse_dtype(value: object) -> str:
    if value is None:
        return "auto"
    return _one_of("dtype", str(value).removeprefix("torch."), DTYPES)


def parse_max_memory(value: object) -> MemoryLimits | None:
    if value is None:
        return None
    if isinstance(value, str) and value.strip().startswith("{"):
        value = _json_object(value, "max_memory")
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, (list, tuple)) or any(not isinstance(i, (list, tuple)) or len(i) != 2 for i in items):
        raise _wrong("max_memory", value, "it maps devices to sizes.", f"for example {MAX_MEMORY_EXAMPLE}.")
    pairs = [(_memory_key(key), parse_size(size, "max_memory")) for key, size in items]
    if len({key for key, _ in pairs}) != len(pairs):
        raise _wrong("max_memory", value, "a device is named twice.", "give each device one size.")
    return tuple(sorted(pairs, key=lambda pair: (isinstance(pair[0], str), str(pair[0]).zfill(4))))


def _memory_key(key: object) -> str | int:
    if isinstance(key, str) and (key.isdigit() or key in ("cpu", "disk")):
        return int(key) if key.isdigit() else key
    if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
        return key
    why = f"{key!r} is not a device that max_memory knows."
    raise _wrong("max_memory", {key: "…"}, why, "use an accelerator's index (0, 1, …) or 'cpu'.")


def parse_path(value: object, field: str) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise _wrong(field, value, "a folder or name is needed.", "leave it out for the default.")
    return os.path.expanduser(text)


def check_function(value: object, field: str) -> None:
    if value is not None and not (isinstance(value, str) and is_function_name(value)):
        hint = "put the function in an importable file and write for example 'my_loader:load'."
        raise _wrong(field, value, "it is not written as package.module:function.", hint)


def check_probe(value: object) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        why = "a probe is a text prompt or package.module:function."
        raise _wrong("probe", value, why, "leave it out for the default probe.")


# Any parameter of a run


def none_if_blank(value: T) -> T | None:
    """None for nothing, an empty text and the texts `None` and `null`; any other value as it is."""
    return None if isinstance(value, str) and value.strip() in ("", "None", "null") else value


def optional(parse: Callable[[object, str], T], value: object, field: str) -> T | None:
    """What `parse` makes of a value, and None for what `none_if_blank` takes for nothing."""
    given = none_if_blank(value)
    return None if given is None else parse(given, field)


def parse_list(value: object, field: str) -> list[object]:
    """A list, or text that means one: JSON, Python, commas or blanks; a JSON object is one device map."""
    if value is None or isinstance(value, Mapping):
        return [] if value is None else [value]
    if not isinstance(value, str):
        if isinstance(value, Iterable):
            return list(value)
        raise _wrong(field, value, "a list, or text that means one, is needed.", f"write for example {_LISTS}")
    text = value.strip()
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError):
            continue
        if isinstance(found, (list, tuple, dict)):
            return [found] if isinstance(found, dict) else list(found)
    if "{" in text:
        return [text]
    return [part for part in re.split(r"[,\s]+", text.strip("[] ,")) if part]


def parse_filled_list(value: object, field: str) -> list[object]:
    """As `parse_list`, and an empty list is refused: it would ask for no combination."""
    found = parse_list(none_if_blank(value), field)
    if not found:
        raise _wrong(field, value, "it asks for no combination.", f"leave it out for the default, or write {_LISTS}")
    return found


def parse_machines(value: object) -> list[object]:
    """Hardware as a list, or text of one or several machines, whose own sizes may hold commas (`24GiB,80GiB`)."""
    if not isinstance(value, str) or value.strip().startswith(("[", "(")):
        return parse_list(value, "hardware")
    try:
        Hardware.parse(value.strip())
    except SpecError:
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value.strip()]


def parse_count(value: object, field: str) -> int:
    """A whole number above zero, also as text."""
    try:
        number = int(value) if isinstance(value, (str, SupportsInt)) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (number != value and not isinstance(value, str)):
        raise SpecError(f"{field}={value!r} is not a whole number.", next_step=f"write for example {field} 12")
    if number < 1:
        raise SpecError(f"{field}={value!r} runs nothing.", next_step="give 1 or more.")
    return number


def parse_flag(value: object, field: str) -> bool:
    """True or false, also as text: "no" must not count as yes for being a text.

    >>> parse_flag("no", "yes"), parse_flag(True, "yes"), parse_flag("1", "yes")
    (False, True, True)
    """
    word = str(value).strip().lower()
    if word not in _FLAGS:
        raise _wrong(field, value, "it is neither true nor false.", "write true or false.")
    return _FLAGS[word]


def parse_file_name(value: object, field: str) -> str:
    """The path of a file as text."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise _wrong(field, value, "a file's name is needed.", "write it as text, such as './name'.")
