"""take(model) -> Snapshot: everything diag wants to know of a live model, from one walk over it.

Reads attributes only: no forward, no `.to()`, nothing out of a `weights_map`. Never raises for an odd model: what can't
be read is an `Unreadable`, and what depends on it is left out. A snapshot refers to the live tensors and modules, so it
is thrown away with the question it was taken for; after the model was changed a new one has to be taken.
"""

import torch

from diag.machine.accelerators import accelerator_name
from diag.models import adapters
from diag.models.entries import Entry, TensorReader, Unreadable
from diag.models.hooks import HookIndex
from diag.models.ties import embedding_path, read_ties, tied_groups
from diag.models.walk import Visit, parts_of, walk

_KINDS = ("parameter", "buffer", "non_persistent_buffer", "quant_state")
_WRAPPERS = ("torch.distributed", "torch.nn.parallel", "deepspeed", "fairscale", "megatron")


class Snapshot:
    """A model as it was when it was read. Names of a bundle's components begin with their prefix.

    `given` is what was read; `parts` are the models in it with their prefixes: one with an empty prefix, or of a bundle
    (a pipeline, a dict of modules) its components. `root` is the model itself, of a bundle the first component; `base`
    is the model below PEFT's wrapper, and `carries_adapter` says that PEFT wrapped it or put layers into it.
    `device_map` is the model's own as it is held, under full names; empty without one. `modules` has every path (also
    the second one of a shared module), `named_modules` each module under its first path, `paths` that path by the
    module's id. `entries` are in the order of the model, `in_table_order` has parameters first, `distinct` each tensor
    under its first name, by its id. Names of one tensor, and names declared tied, have the same number in
    `tied_groups`; `ties` says which name follows which as declared. `embedding_path` is where tokens go in, `hooked`
    are the paths of modules that carry a hook of accelerate's, `accelerator` is what an integer in a device map means,
    `wrappers` are the classes that spread the model over processes. All is read at once, and nobody changes it.
    """

    def __init__(self, model: object) -> None:
        self.given = model
        self.parts = parts_of(model)
        self.root = self.parts[0][1]
        self.is_bundle = self.parts[0][0] != ""
        self.unreadable: list[Unreadable] = []
        with torch._C.DisableTorchFunction():  # a tensor class, or a mode that is on, gets no say in reading attributes
            visits = walk(self.parts, self._failed)
            self.hooks = HookIndex(visits, self._failed)
            self.carries_adapter = adapters.mark_what_was_put_in(visits, self._failed)
            try:
                self.base = adapters.without_adapter(self.root)
            except Exception as error:
                self._failed("the model below PEFT's", error)
                self.base = self.root
            self.entries = tuple(TensorReader(self.hooks, self._failed).read(visits))
        self.device_map, self.hooked = self.hooks.device_map, self.hooks.hooked
        self.modules = {at.path: at.module for at in visits}
        first: dict[int, Visit] = {}
        for at in visits:
            first.setdefault(id(at.module), at)
        self.paths = {key: at.path for key, at in first.items()}
        self.named_modules = tuple((at.path, at.module) for at in first.values())
        self.by_name = {entry.name: entry for entry in self.entries}
        self.distinct: dict[int, Entry] = {}
        for entry in self.entries:
            self.distinct.setdefault(id(entry.tensor), entry)
        self.in_table_order = tuple(entry for kind in _KINDS for entry in self.entries if entry.kind == kind)
        classes = {type(at.module) for at in visits} | {type(entry.tensor) for entry in self.entries}
        self.wrappers = tuple(sorted(kind.__name__ for kind in classes if kind.__module__.startswith(_WRAPPERS)))
        devices = [entry.device.type for entry in self.entries if entry.device.type not in ("cpu", "meta")]
        self.ties = read_ties(self.parts, self.paths, self.entries, self._failed)
        self.tied_groups = tied_groups(self.entries, self.ties)
        self.embedding_path = embedding_path(self.root, self.paths)
        self.accelerator = devices[0] if devices else accelerator_name()

    def _failed(self, what: str, error: Exception) -> None:
        self.unreadable.append(Unreadable.because(what, error))


def take(model: object) -> Snapshot:
    """Reads a module, a pipeline (an object with `components`) or a dict of modules.

    Raises NotAModelError for anything else, and nothing for a model.
    """
    return model if isinstance(model, Snapshot) else Snapshot(model)
