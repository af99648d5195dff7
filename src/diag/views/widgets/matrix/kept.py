"""What a results file already holds of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diag.errors import DiagError
from diag.values.spec import LoadSpec


def stored_rows(specs: Sequence[LoadSpec], results: str | None) -> Mapping[LoadSpec, dict[str, Any]]:
    """The rows that the results file holds for these specs; none where there is no such file."""
    from diag.sweep.results.store import Store

    if results is None or not Path(results).is_file():
        return {}
    try:
        with Store(Path(results), must_exist=True) as store:
            rows = store.rows()
            keys = {spec: store.find(spec.to_json()) for spec in specs}
    except DiagError:
        return {}
    return {spec: rows[key] for spec, key in keys.items() if key is not None}
