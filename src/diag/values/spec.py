"""What to load and how: LoadSpec, as a frozen value. Standard library only."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diag.errors import SpecError
from diag.values.fields import (
    AS_STORED,
    AUTO_PRESETS,
    DEVICE_MAP_ALIASES,
    PRESETS,
    QUANTIZATIONS,
    QUANTIZE_ALIASES,
    Pairs,
    check_function,
    check_probe,
    json_object,
    parse_device_map,
    parse_dtype,
    parse_hardware,
    parse_max_memory,
    parse_model,
    parse_path,
    parse_quantization,
)
from diag.values.hardware import Hardware
from diag.values.showing import ShownAsHtml

__all__ = ["AS_STORED", "AUTO_PRESETS", "PRESETS", "QUANTIZATIONS", "LoadSpec", "grid"]


@dataclass(frozen=True)
class LoadSpec(ShownAsHtml):
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
        put(self, "model", parse_model(self.model))
        put(self, "hardware", parse_hardware(self.hardware))
        put(self, "device_map", parse_device_map(self.device_map))
        put(self, "quantization", parse_quantization(self.quantization))
        put(self, "dtype", parse_dtype(self.dtype))
        put(self, "max_memory", parse_max_memory(self.max_memory))
        put(self, "offload_folder", parse_path(self.offload_folder, "offload_folder"))
        put(self, "adapter", parse_path(self.adapter, "adapter"))
        check_function(self.loader, "loader")
        check_probe(self.probe)
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
                values["device_map"] = parse_device_map(DEVICE_MAP_ALIASES.get(device_map.lower(), device_map))
        with _naming("QUANTIZE", f"also {', '.join(QUANTIZE_ALIASES)}"):
            if quantize:
                values["quantization"] = parse_quantization(QUANTIZE_ALIASES.get(quantize.lower(), quantize))
        with _naming("MAX_MEMORY", 'a JSON object such as {"0": "20GiB", "cpu": "60GiB"}'):
            if memory:
                values["max_memory"] = parse_max_memory(json_object(memory, "max_memory"))
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
