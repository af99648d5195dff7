"""The embedded models: real checkpoints made on this machine, without an account and without the network.

Importing this module loads neither torch nor transformers; making a sample does.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from diag.errors import SpecError
from diag.loading.samples import cache, catalog
from diag.machine.folders import cache_folder

if TYPE_CHECKING:
    import pandas as pd

# Read when the module is: a process that runs while the files change must not file old bytes under the new name.
_RECIPE = cache.fingerprint("catalog.py", "making.py", "words.py")

__all__ = ["describe", "names", "path"]


def names() -> tuple[str, ...]:
    """The sample names, in the order in which `describe` explains them.

    >>> names()[0], names()[-1]
    ('tiny', 'smollm2')
    """
    return tuple(catalog.SAMPLES)


def path(name: str) -> Path:
    """The checkpoint folder of a sample; made on first use, in seconds, then kept in the user's cache.

    The same name gives the same bytes. Several processes may ask at once, and one that is killed leaves nothing half
    done. The folder is shared: copy it before you change a file. Leaves the random state of the caller as it is.
    Raises SpecError for a name that is not a sample, CheckpointError where the cache can't be written or `smollm2`
    is nowhere to be had.
    """
    sample = catalog.SAMPLES.get(name)
    if sample is None:
        close = difflib.get_close_matches(str(name), names(), n=1)
        advice = "use one of these, or give a folder or hub id as model."
        next_step = f"did you mean {close[0]!r}?" if close else advice
        raise SpecError(f"{name!r} is not a sample.", why=f"samples are: {', '.join(names())}.", next_step=next_step)
    if not sample.config:  # real weights, made elsewhere
        from diag.loading.samples import smollm2

        return smollm2.path()

    def make(target: Path) -> None:
        from diag.loading.samples import making

        making.make(sample, target)

    # The files also depend on transformers' way of writing a checkpoint.
    key = f"{name}-{importlib.metadata.version('transformers')}-{_RECIPE}"
    return cache.folder(cache_folder() / "samples" / key, make, needs=4 * sample.nbytes)


def describe() -> pd.DataFrame:
    """One row per sample: name, architecture, what it shows, parameters (a tie counts once), MiB of its weights, dtype.

    Nothing is made or loaded for it.
    """
    import pandas as pd

    columns = ["name", "architecture", "shows", "parameters", "MiB", "dtype"]
    table = pd.DataFrame(vars(s) | {"shows": s.shows, "MiB": s.nbytes / 2**20} for s in catalog.SAMPLES.values())
    return table[columns].round(2)
