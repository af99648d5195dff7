"""Which rows of a placement table to look at, as a value. Pure."""

import fnmatch
import re
from dataclasses import dataclass

import pandas as pd

from diag.values.units import format_size

ANY = "any"
ORDERS = ("model order", "largest first", "by name")
FILTERS = ("device", "backing", "kind", "dtype", "quantization")
SIZES = (0, 2**10, 100 * 2**10, 2**20, 10 * 2**20, 100 * 2**20, 2**30)
_LAYER = r"^((?:.*?\.)?\d+)(?=\.|$)"


@dataclass(frozen=True)
class Choice:
    """Rows whose columns equal the chosen values, whose name holds `module`, and that are `at_least` bytes large.

    `module` is any part of the name, or a pattern with `*`, in upper or lower case. `order` is one of ORDERS.
    """

    device: str = ANY
    backing: str = ANY
    kind: str = ANY
    dtype: str = ANY
    quantization: str = ANY
    module: str = ""
    at_least: int = 0
    order: str = ORDERS[0]

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """The chosen rows, all of them, in the chosen order."""
        keep = pd.Series(True, index=table.index)
        for column in FILTERS:
            wanted = getattr(self, column)
            if wanted != ANY:
                keep &= table[column].astype(str) == wanted
        if part := self.module.strip():
            pattern = fnmatch.translate(f"*{part}*") if "*" in part else re.escape(part)
            keep &= table["name"].str.contains(pattern, case=False, regex=True)
        if self.at_least:
            keep &= table["nbytes"] >= self.at_least
        chosen = table[keep]
        if self.order == ORDERS[1]:
            return chosen.sort_values("nbytes", ascending=False, kind="stable")
        return chosen.sort_values("name", kind="stable") if self.order == ORDERS[2] else chosen


def totals_text(chosen: pd.DataFrame, table: pd.DataFrame) -> str:
    """How many tensors and bytes were chosen, of how many; tied tensors count once."""
    some, every = chosen.drop_duplicates("tied_group"), table.drop_duplicates("tied_group")
    size, whole = format_size(int(some["nbytes"].sum())), format_size(int(every["nbytes"].sum()))
    names = f"{len(chosen):,} of {len(table):,} names, {len(some):,} of {len(every):,} tensors"
    return f"{names}, {size} of {whole}"


def condensed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a row for each layer and place instead of each name: the same strip and totals, faster."""
    found = table["module"].str.extract(_LAYER, expand=False)
    keys = [found.fillna(table["module"]).rename("module"), "device", "mapped_device", "backing", "kind"]
    nbytes = table["nbytes"].where(~table["tied_group"].duplicated(), 0)
    sums = table.assign(nbytes=nbytes).groupby(keys, sort=False, dropna=False)["nbytes"].sum().reset_index()
    return sums.assign(name=sums["module"], tied_group=range(len(sums)))
