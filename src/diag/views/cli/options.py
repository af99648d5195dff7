"""The options of the commands that load models, and the values they stand for."""

import argparse
import json
from typing import Any

from diag.errors import SpecError
from diag.values.fields import parse_list
from diag.values.spec import PRESETS, QUANTIZATIONS, LoadSpec, grid
from diag.values.units import parse_seconds

_SEVERAL = "one, several with commas, or JSON; may be repeated"
_MAX_MEMORY = 'such as {"0": "20GiB", "cpu": "60GiB"} (default: what is free)'
_DTYPE = "float32, bfloat16, … (default: the checkpoint's)"


def add_report_options(command: argparse.ArgumentParser) -> None:
    add_matrix_options(command)
    option = command.add_argument_group("what is written").add_argument
    option("--out", metavar="FILE", help="the HTML file (default: reports/MODEL.html)")
    option("--notebook", metavar="FILE", help="a notebook of your own in place of diag's report.ipynb")
    own = "sets a parameter of that notebook; VALUE is JSON or text; may be repeated"
    option("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help=own)
    whose = "loads nothing: makes the page from a notebook that papermill ran, also from one that died halfway"
    option("--from", dest="from_notebook", metavar="NOTEBOOK", help=whose)


def add_matrix_options(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    _add_grid(command)
    _add_limits(command)
    option = command.add_argument_group("what is kept and compared").add_argument
    option("--results", metavar="FILE", help="the SQLite file of the rows; a finished row is not run again")
    again = "run rows again that were killed, timed out or out of memory, however often"
    option("--retry-failed", action="store_true", help=again)
    option("--fresh", action="store_true", help="run every row again")
    option("--baseline", metavar="FILE", help="end with exit code 1 if a row is worse than in this file")
    new = "keep the rows as a baseline (default FILE: the one of --baseline)"
    option("--write-baseline", nargs="?", const=True, metavar="FILE", help=new)


def _add_grid(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("how the model is loaded").add_argument
    option("--device-map", action="append", metavar="MAPS", help=f"{_SEVERAL} (default: {', '.join(PRESETS)})")
    option("--quantization", action="append", metavar="QS", help=f"{_SEVERAL} (default: none, int8, nf4)")
    machines = "'this machine', or simulated GPUs such as 2x300MiB+8GiB; may be repeated"
    option("--hardware", action="append", metavar="H", help=machines)
    option("--dtype", metavar="D", help=_DTYPE)
    option("--max-memory", metavar="JSON", help=_MAX_MEMORY)
    option("--offload-folder", metavar="FOLDER", help="the folder for offloaded weights, if any are written")
    option("--adapter", metavar="FOLDER", help="a PEFT adapter that is put on after the load")
    option("--loader", metavar="FUNCTION", help="package.module:function of yours in place of from_pretrained")
    asked = "a prompt, a saved request (.json, .safetensors) or package.module:function (default: the model's own)"
    option("--probe", metavar="PROBE", help=asked)


def _add_limits(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("how much is run").add_argument
    option("--plan", action="store_true", help="only say what the run would take: loads, bytes, disk")
    option("--timeout", metavar="TIME", default="600s", help="for each combination, such as 90s (default: 10m)")
    option("--deadline", metavar="TIME", help="for the whole run, such as 30m or 2h; the rest is left out")
    option("--budget", metavar="TIME", help="no load begins after this time; the most informative come first")
    option("--max-loads", type=_count, metavar="N", help="at most N loads; the most informative come first")
    option("--workers", type=_count, metavar="N", help="loads at a time (default: as many as the machine has room for)")
    option("--yes", action="store_true", help="run even if more than half of the host's memory would be held")


def add_placement_options(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    option = command.add_argument
    option("--device-map", metavar="MAP", default="auto", help=f"{', '.join(PRESETS)}, or a map as JSON")
    option("--quantization", metavar="Q", default="none", help=", ".join(QUANTIZATIONS))
    option("--hardware", metavar="H", help="simulated GPUs, such as 2x300MiB+8GiB (default: this machine)")
    option("--dtype", metavar="D", default="auto", help=_DTYPE)
    option("--max-memory", metavar="JSON", help=_MAX_MEMORY)
    option("--by", choices=("layer", "device", "tensor"), default="layer", help="what has a row (default: layer)")
    option("--results", metavar="FILE", help="read the table that a matrix run stored, and load nothing")


def add_diff_options(command: argparse.ArgumentParser) -> None:
    for name, when in (("old", "earlier"), ("new", "later")):
        command.add_argument(name, metavar=name.upper(), help=f"the results file of the {when} run")


def _add_model(command: argparse.ArgumentParser) -> None:
    what = "a hub id, a local folder or a sample (tiny, smollm2, …)"
    command.add_argument("model_name", nargs="?", metavar="MODEL", help=what)
    command.add_argument("--model", metavar="MODEL", help="the same, as an option")


def _count(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


# What the options stand for


def model_of(options: argparse.Namespace) -> str:
    """The one model that was named. Raises SpecError for none, and for two different ones."""
    names = {name for name in (options.model_name, options.model) if name is not None}
    if len(names) == 1:
        return names.pop()
    why = f"two were given: {' and '.join(sorted(names))}." if names else "none was given."
    raise SpecError("one model is needed.", why=why, next_step=f"diag {options.command} --model smollm2")


def grid_of(options: argparse.Namespace) -> list[LoadSpec]:
    """One spec for each combination. Raises SpecError."""
    return grid(model_of(options), **axes_of(options), **spec_options(options))


def axes_of(options: argparse.Namespace) -> dict[str, Any]:
    """The values of the three axes of a grid, and the fields of its specs that `write_report`, too, takes by name."""
    maps, kinds = (
        [item for value in values or [] for item in parse_list(value, "a list")]
        for values in (options.device_map, options.quantization)
    )
    axes = {"device_maps": maps or PRESETS, "quantizations": kinds or ("none", "int8", "nf4")}
    return {**axes, **{name: getattr(options, name) for name in ("hardware", "probe", "loader", "adapter")}}


def spec_options(options: argparse.Namespace) -> dict[str, Any]:
    """The other fields that all specs of a grid share; those that were not given are left out."""
    given = {"dtype": options.dtype, "offload_folder": options.offload_folder, "max_memory": max_memory_of(options)}
    return {name: value for name, value in given.items() if value is not None}


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """How the rows are run; what was not given is left out."""
    given = {name: getattr(options, name) for name in ("workers", "retry_failed", "fresh", "yes")}
    return {name: value for name, value in given.items() if value is not None}


def limits_of(options: argparse.Namespace) -> dict[str, Any]:
    """How much is run, times in seconds; None where nothing was given. Raises SpecError."""
    limits: dict[str, Any] = {"max_loads": options.max_loads}
    for name in ("timeout", "budget", "deadline"):
        value = getattr(options, name)
        limits[name] = None if value is None else parse_seconds(value, f"--{name}")
    return limits


def order_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `write_report` is asked, beside the model. Raises SpecError."""
    order = {name: getattr(options, name) for name in ("out", "baseline", "write_baseline", "results")}
    order |= {"notebook": options.notebook} if options.notebook else {}
    order["parameters"] = parameters_of(options)
    further = {**spec_options(options), **run_options(options)}
    return {**order, **axes_of(options), **limits_of(options), "options": further}


def max_memory_of(options: argparse.Namespace) -> object:
    try:
        return None if options.max_memory is None else json.loads(options.max_memory)
    except json.JSONDecodeError as e:
        what = f"--max-memory: {options.max_memory!r} is not valid JSON."
        raise SpecError(what, why=str(e), next_step="check quotes, commas and braces.") from e


def parameters_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `-p NAME=VALUE` sets. Raises SpecError for one without a name or a sign between."""
    found: dict[str, Any] = {}
    for text in options.parameter:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            hint = f"-p {name or 'rows'}=VALUE, where papermill has `-p NAME VALUE`."
            raise SpecError(f"-p {text!r} is not a parameter.", why="it is written NAME=VALUE.", next_step=hint)
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
