"""What to load and how: LoadSpec, as a frozen value. Standard library only."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diag.errors import SpecError
from diag.hardware import Hardware, parse_size

AUTO_PRESETS = ("auto", "balanced", "balanced_low_0", "sequential")
PRESETS = (*AUTO_PRESETS, "single", "none", "cpu", "disk", "offload")
QUANTIZATIONS = ("none", "int8", "nf4", "fp4", "nf4-double")
AS_STORED = "as-stored"
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

DEVICE_MAP_ALIASES = {"cuda": "single", "gpu": "single", "off": "none"}
QUANTIZE_ALIASES = {"4bit": "nf4", "8bit": "int8"}

Pairs = tuple[tuple[str, str | int], ...]

_DEVICE = re.compile(r"(cpu|disk|meta|[a-z]+(:\d+)?)\Z")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_CONFIG = re.compile(r"[A-Za-z_]\w*Config \{.*\}\Z", re.DOTALL)


@dataclass(frozen=True)
class LoadSpec:
    """One way to load one model; hashable, so it can be a key.

    `model` is a hub id, a local folder or a sample name. `device_map` is one of `PRESETS` or a map from module
    names to devices (a dict or its JSON; kept as sorted pairs). `quantization` is one of `QUANTIZATIONS`,
    `as-stored`, or a transformers quantization config (kept as class name and sorted JSON). `hardware` is None
    for this machine or a simulated one (`"2x24GiB+64GiB"`). `max_memory` maps devices to bytes or sizes.
    `adapter` is a PEFT adapter, `loader` the user's own `package.module:function`, `probe` a text prompt or
    `package.module:function`. Raises SpecError for what the values alone show to be wrong.

    >>> LoadSpec("tiny", device_map={"lm_head": "cpu", "": 0}).device_map
    (('', 0), ('lm_head', 'cpu'))
    """

    model: str
    device_map: str | Pairs = "auto"
    quantization: str = "none"
    hardware: Hardware | None = None
    dtype: str = "auto"
    max_memory: tuple[tuple[str | int, int], ...] | None = None
    offload_folder: str | None = None
    adapter: str | None = None
    loader: str | None = None
    probe: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "model", _model(self.model))
        put(self, "hardware", _hardware(self.hardware))
        put(self, "device_map", _device_map(self.device_map))
        put(self, "quantization", _quantization(self.quantization))
        put(self, "dtype", _dtype(self.dtype))
        put(self, "max_memory", _max_memory(self.max_memory))
        put(self, "offload_folder", _path(self.offload_folder, "offload_folder"))
        put(self, "adapter", _path(self.adapter, "adapter"))
        _check_function(self.loader, "loader")
        _check_probe(self.probe)
        _check_devices_exist(self)

    @property
    def device_map_text(self) -> str:
        """The preset, or the map as sorted compact JSON."""
        if isinstance(self.device_map, str):
            return self.device_map
        return json.dumps(dict(self.device_map), sort_keys=True, separators=(",", ":"))

    @property
    def hardware_text(self) -> str:
        return "this machine" if self.hardware is None else str(self.hardware)

    @property
    def simulated(self) -> bool:
        return self.hardware is not None

    def replace(self, **changes: Any) -> LoadSpec:
        """The same spec with some values changed."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `LoadSpec.from_json` gives the same spec back."""
        values = dict(self.__dict__)
        values["device_map"] = self.device_map_text
        values["hardware"] = None if self.hardware is None else str(self.hardware)
        values["max_memory"] = None if self.max_memory is None else [list(p) for p in self.max_memory]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LoadSpec:
        values = dict(values)
        if values.get("max_memory") is not None:
            values["max_memory"] = dict(values["max_memory"])
        return cls(**values)

    @classmethod
    def from_env(cls, model: str, environ: Mapping[str, str] = os.environ, **values: Any) -> LoadSpec:
        """The spec that `DEVICE_MAP`, `QUANTIZE` and `MAX_MEMORY` ask for; unset or empty means the default.

        `DEVICE_MAP` takes the presets, JSON, and `cuda`/`gpu` (`single`) and `off` (`none`); `QUANTIZE` the
        quantizations, `4bit` (`nf4`) and `8bit` (`int8`); `MAX_MEMORY` a JSON object. Raises SpecError that
        lists the valid values for anything else.

        >>> LoadSpec.from_env("tiny", {"DEVICE_MAP": "gpu", "QUANTIZE": "4bit"}).quantization
        'nf4'
        """
        device_map = environ.get("DEVICE_MAP", "").strip()
        quantize = environ.get("QUANTIZE", "").strip()
        memory = environ.get("MAX_MEMORY", "").strip()
        with _naming("DEVICE_MAP", f"also {', '.join(DEVICE_MAP_ALIASES)}"):
            if device_map:
                values["device_map"] = _device_map(DEVICE_MAP_ALIASES.get(device_map.lower(), device_map))
        with _naming("QUANTIZE", f"also {', '.join(QUANTIZE_ALIASES)}"):
            if quantize:
                values["quantization"] = _quantization(QUANTIZE_ALIASES.get(quantize.lower(), quantize))
        with _naming("MAX_MEMORY", 'a JSON object such as {"0": "20GiB", "cpu": "60GiB"}'):
            if memory:
                values["max_memory"] = _max_memory(_json_object(memory, "max_memory"))
        return cls(model, **values)

    def __repr__(self) -> str:
        shown = [repr(self.model), f"device_map={self.device_map_text!r}"]
        for name in (
            "quantization",
            "dtype",
            "max_memory",
            "offload_folder",
            "adapter",
            "loader",
            "probe",
        ):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                shown.append(f"{name}={value!r}" if name != "max_memory" else f"max_memory={dict(value)!r}")
        if self.hardware is not None:
            shown.append(f"hardware={str(self.hardware)!r}")
        return f"LoadSpec({', '.join(shown)})"


def grid(
    model: str,
    device_maps: Iterable[Any] = PRESETS,
    quantizations: Iterable[Any] = ("none", "int8", "nf4"),
    hardware: Iterable[Any] | str | Hardware | None = None,
    **values: Any,
) -> list[LoadSpec]:
    """Every combination, hardware by hardware, then map by map; other fields of LoadSpec are shared.

    `fp4` and `nf4-double` are left out of the default because they take as long as `nf4` and place alike.

    >>> [(s.device_map, s.quantization) for s in grid("tiny", ["auto", "cpu"], ["none"])]
    [('auto', 'none'), ('cpu', 'none')]
    """
    machines = [hardware] if hardware is None or isinstance(hardware, (str, Hardware)) else list(hardware)
    maps = [device_maps] if isinstance(device_maps, (str, Mapping)) else list(device_maps)
    kinds = [quantizations] if isinstance(quantizations, str) else list(quantizations)
    return [
        LoadSpec(model, device_map=m, quantization=q, hardware=h, **values)
        for h, m, q in itertools.product(machines, maps, kinds)
    ]


def _wrong(field: str, value: Any, why: str, next_step: str) -> SpecError:
    return SpecError(f"{field}={value!r} is not valid.", why=why, next_step=next_step)


def _one_of(field: str, value: str, valid: tuple[str, ...], also: str = "") -> str:
    if value in valid:
        return value
    close = difflib.get_close_matches(value, valid, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(valid)}."
    raise _wrong(field, value, f"valid are: {', '.join(valid)}{also}.", hint)


def _model(value: Any) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip():
        raise _wrong(
            "model",
            value,
            "a model is named by a non-empty text.",
            "give a hub id, a local folder, or a sample name such as 'tiny' or 'smollm2'.",
        )
    return value


def _hardware(value: Any) -> Hardware | None:
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


def _json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        raise _wrong(field, text, f"it is not valid JSON: {e}.", "check quotes, commas and braces.") from e
    if not isinstance(value, dict):
        raise _wrong(field, text, "a JSON object is needed.", 'for example {"": 0, "lm_head": "cpu"}.')
    return value


def _device_map(value: Any) -> str | Pairs:
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            return _one_of("device_map", text, PRESETS, also=", or a map as a dict or JSON")
        value = _json_object(text, "device_map")
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


def _quantization(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        if _CONFIG.match(value):
            name, _, text = value.partition(" ")
            return f"{name} {json.dumps(_json_object(text, 'quantization'), sort_keys=True, separators=(',', ':'))}"
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


def _dtype(value: Any) -> str:
    if value is None:
        return "auto"
    text = str(value).removeprefix("torch.")
    return _one_of("dtype", text, DTYPES)


def _max_memory(value: Any) -> tuple[tuple[str | int, int], ...] | None:
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


def _path(value: Any, field: str) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise _wrong(field, value, "a folder or name is needed.", "leave it out for the default.")
    return text


def _check_function(value: Any, field: str) -> None:
    if value is not None and not (isinstance(value, str) and _FUNCTION.match(value)):
        raise _wrong(
            field,
            value,
            "it is not written as package.module:function.",
            "put the function in an importable file and write for example 'my_loader:load'.",
        )


def _check_probe(value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise _wrong(
            "probe",
            value,
            "a probe is a text prompt or package.module:function.",
            "leave it out for the default probe.",
        )


def _check_devices_exist(spec: LoadSpec) -> None:
    if spec.hardware is None:
        return
    count = len(spec.hardware.gpus)
    indices = [] if isinstance(spec.device_map, str) else [d for _, d in spec.device_map]
    for device in [*indices, *(key for key, _ in spec.max_memory or ())]:
        index = device if isinstance(device, int) else _index(device)
        if index is not None and index >= count:
            raise SpecError(
                f"device {device!r} does not exist on {spec.hardware}.",
                why=f"that hardware has {count} simulated GPU{'s' * (count != 1)}, numbered from 0.",
                next_step="use a smaller number or hardware with more GPUs.",
            )
        if isinstance(device, str) and device.partition(":")[0] not in (
            "cpu",
            "disk",
            "meta",
            "simgpu",
        ):
            raise SpecError(
                f"device {device!r} does not exist on {spec.hardware}.",
                why="simulated GPUs are called simgpu:0, simgpu:1, …",
                next_step="write the index alone (0, 1, …): it means the current accelerator everywhere.",
            )


def _index(device: str) -> int | None:
    kind, _, number = device.partition(":")
    return int(number) if kind == "simgpu" and number else None


class _naming:
    """Says which environment variable held the value that a SpecError refused."""

    def __init__(self, variable: str, also: str) -> None:
        self.variable, self.also = variable, also

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, SpecError):
            raise SpecError(
                f"{self.variable}: {error.what}",
                why=error.why,
                next_step=f"{error.next_step} In {self.variable}: {self.also}.",
            ) from error
