"""What to load and how: LoadSpec, as a frozen value. Standard library only."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diag.errors import SpecError
from diag.values.fields import (
    AS_STORED,
    AUTO_PRESETS,
    DEVICE_MAP_ALIASES,
    MAX_MEMORY_EXAMPLE,
    PRESETS,
    QUANTIZATIONS,
    QUANTIZE_ALIASES,
    MemoryLimits,
    Pairs,
    check_function,
    check_probe,
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
from diag.values.text import count_text

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
    max_memory: MemoryLimits | None = None
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
        memory = values.get("max_memory")
        return cls(**{**values, "max_memory": None if memory is None else dict(memory)})

    @classmethod
    def from_env(cls, model: str, environ: Mapping[str, str] = os.environ, **values: Any) -> LoadSpec:
        """The spec that `DEVICE_MAP`, `QUANTIZE` and `MAX_MEMORY` ask for; unset or empty means the default.

        `DEVICE_MAP` takes the presets, JSON, and `cuda`/`gpu` (`single`) and `off` (`none`); `QUANTIZE` the
        quantizations, `4bit` (`nf4`) and `8bit` (`int8`); `MAX_MEMORY` a JSON object. Raises SpecError that
        lists the valid values for anything else.

        >>> LoadSpec.from_env("tiny", {"DEVICE_MAP": "gpu", "QUANTIZE": "4bit"}).quantization
        'nf4'
        """
        for variable, (name, parse, aliases) in _VARIABLES.items():
            text = environ.get(variable, "").strip()
            try:
                if text:
                    values[name] = parse(aliases.get(text.lower(), text))
            except SpecError as e:
                also = f"also {', '.join(aliases)}" if aliases else f"a JSON object such as {MAX_MEMORY_EXAMPLE}"
                hint = f"{e.next_step} In {variable}: {also}."
                raise SpecError(f"{variable}: {e.what}", why=e.why, next_step=hint) from e
        return cls(model, **values)

    def __repr__(self) -> str:
        shown = [repr(self.model), f"device_map={self.device_map_text!r}"]
        for name in ("quantization", "dtype", "max_memory", "offload_folder", "adapter", "loader", "probe"):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                shown.append(f"{name}={dict(value) if name == 'max_memory' else value!r}")
        if self.hardware is not None:
            shown.append(f"hardware={str(self.hardware)!r}")
        return f"LoadSpec({', '.join(shown)})"


# Environment variable: the field it sets, who reads it, and the further words it takes.
_VARIABLES: dict[str, tuple[str, Callable[[object], object], dict[str, str]]] = {
    "DEVICE_MAP": ("device_map", parse_device_map, DEVICE_MAP_ALIASES),
    "QUANTIZE": ("quantization", parse_quantization, QUANTIZE_ALIASES),
    "MAX_MEMORY": ("max_memory", parse_max_memory, {}),
}


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
    """Raises SpecError for a device of the map or of `max_memory` that the simulated hardware does not have."""
    if spec.hardware is None:
        return
    count = len(spec.hardware.gpus)
    mapped = [] if isinstance(spec.device_map, str) else [device for _, device in spec.device_map]
    for device in [*mapped, *(device for device, _ in spec.max_memory or ())]:
        kind, _, number = ("simgpu", "", str(device)) if isinstance(device, int) else device.partition(":")
        what = f"device {device!r} does not exist on {spec.hardware}."
        if kind == "simgpu" and number and int(number) >= count:
            raise SpecError(
                what,
                why=f"that hardware has {count_text(count, 'simulated GPU')}, numbered from 0.",
                next_step="use a smaller number or hardware with more GPUs.",
            )
        if kind not in ("cpu", "disk", "meta", "simgpu"):
            raise SpecError(
                what,
                why="simulated GPUs are called simgpu:0, simgpu:1, …",
                next_step="write the index alone (0, 1, …): it means the current accelerator everywhere.",
            )
