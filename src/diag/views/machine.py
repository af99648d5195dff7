"""What this machine is, as a view. Imports no torch, so that it works where torch is broken."""

from diag.machine.environment import Environment, environment
from diag.values.units import format_size
from diag.views.markup import View, render

_FIRST = ("diag", "torch", "transformers", "accelerate", "bitsandbytes", "peft", "diffusers")


def this_machine(known: Environment | None = None) -> View:
    """This machine in a few lines, the rest folded: fit for a report and for a bug report. Looks when not given."""
    known = environment() if known is None else known
    others = {name: version for name, version in known.versions.items() if name not in _FIRST}
    disks = {disk.use: f"{disk.path}, {_room(disk.free_bytes, disk.total_bytes)}" for disk in known.disks}
    folded = {"Versions": others, "Disks": disks, "Settings": known.settings}
    host, devices = known.host, known.torch.devices
    found = (f"{one.name} {one.model}, {_room(one.free_bytes, one.total_bytes)}" for one in devices)
    held = (f"{format_size(by.nbytes) or 'unknown size'} by {by.program} ({by.owner})" for by in known.holders)
    facts = {
        "libraries": " · ".join(f"{name} {known.versions[name]}" for name in _FIRST if name in known.versions),
        "python": f"{known.python} on {known.system}, {known.cpus} CPUs",
        "accelerators": "; ".join(found) or "none",
        "host memory": f"{_room(host.free, host.total)}, limited by the {host.limited_by}",
        "held on GPUs": "; ".join(held),
    }
    return View(render("machine", error=known.torch.error, pairs=facts, folded=folded), str(known))


describe = this_machine  # its name in notebooks that people have copied


def _room(free: int | None, total: int | None) -> str:
    return f"{format_size(free) or '?'} free of {format_size(total) or '?'}"
