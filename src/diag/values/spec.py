"""What to load and how: LoadSpec, as a frozen value. Standard library only."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from diag.errors import SpecError
from diag.values import fields
from diag.values.fields import AS_STORED, AUTO_PRESETS, PRESETS, QUANTIZATIONS, MemoryLimits, Pairs
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
        for name, parse in _PARSERS.items():
            object.__setattr__(self, name, parse(getattr(self, name)))
        fields.check_function(self.loader, "loader")
        fields.check_probe(self.probe)
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
        for variable, (name, aliases) in _VARIABLES.items():
            text = environ.get(variable, "").strip()
            try:
                if text:
                    values[name] = _PARSERS[name](aliases.get(text.lower(), text))
            except SpecError as e:
                also = f"also {', '.join(aliases)}" if aliases else f"a JSON object such as {fields.MAX_MEMORY_EXAMPLE}"
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


_PARSERS: dict[str, Callable[[object], object]] = {
    "model": fields.parse_model,
    "hardware": fields.parse_hardware,
    "device_map": fields.parse_device_map,
    "quantization": fields.parse_quantization,
    "dtype": fields.parse_dtype,
    "max_memory": fields.parse_max_memory,
    "offload_folder": partial(fields.parse_path, field="offload_folder"),
    "adapter": partial(fields.parse_path, field="adapter"),
}
# Environment variable: the field it sets, and the further words it takes.
_VARIABLES: dict[str, tuple[str, dict[str, str]]] = {
    "DEVICE_MAP": ("device_map", fields.DEVICE_MAP_ALIASES),
    "QUANTIZE": ("quantization", fields.QUANTIZE_ALIASES),
    "MAX_MEMORY": ("max_memory", {}),
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
    return [LoadSpec(model, m, q, h, **values) for h, m, q in itertools.product(machines, maps, kinds)]


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
            why = f"that hardware has {count_text(count, 'simulated GPU')}, numbered from 0."
            raise SpecError(what, why=why, next_step="use a smaller number or hardware with more GPUs.")
        if kind not in ("cpu", "disk", "meta", "simgpu"):
            hint = "write the index alone (0, 1, …): it means the current accelerator everywhere."
            raise SpecError(what, why="simulated GPUs are called simgpu:0, simgpu:1, …", next_step=hint)
