"""The catalogue of causes: one entry per id, and the only place for this prose. Standard library only.

>>> get("offload-notice").severity
'info'
"""

from __future__ import annotations

import difflib

from diag.diagnosis.cause import Cause
from diag.diagnosis.causes.causes_meta import META_CAUSES
from diag.diagnosis.causes.causes_placement import PLACEMENT_CAUSES
from diag.diagnosis.causes.causes_quantized import QUANTIZED_CAUSES
from diag.diagnosis.causes.causes_use import USE_CAUSES
from diag.diagnosis.causes.symptoms import by_symptom
from diag.errors import SpecError, listed

CATALOGUE: dict[str, Cause] = {
    cause.id: cause for cause in (*META_CAUSES, *USE_CAUSES, *QUANTIZED_CAUSES, *PLACEMENT_CAUSES)
}

# What the user did, then the state it left, then the symptom: the first that fits is named first.
PRECEDENCE: tuple[str, ...] = (
    "quantized-cast", "moved-after-dispatch", "saving-offloaded-model", "concurrent-load", "concurrent-calls",
    "compiled-hooks",
    "adapter-on-offloaded-base", "training-offloaded-layers", "distributed-loader-conflict", "hooks-removed",
    "submodule-replaced", "forward-bypasses-hook", "constructor-on-meta", "quantized-offload-refused",
    "device-map-incomplete", "offload-folder-missing", "missing-weight-data", "tied-weights-split",
    "never-materialised", "quantization-state-lost", "quantization-skipped", "uninitialised-values",
    "quantization-backend-missing", "weight-used-outside-hook", "input-on-meta", "memory-already-taken",
    "out-of-memory", "environment-mismatch", "device-mismatch", "offload-notice", "unknown",
)  # fmt: skip


def ids() -> tuple[str, ...]:
    """All cause ids in the order of precedence."""
    return PRECEDENCE


def get(cause: str) -> Cause:
    """The entry of one cause. Raises SpecError that names the nearest id for one that does not exist."""
    if cause in CATALOGUE:
        return CATALOGUE[cause]
    close = difflib.get_close_matches(cause, CATALOGUE, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`diag causes` lists them."
    raise SpecError(f"{cause!r} is not a cause.", why=f"causes are:{listed(cause, PRECEDENCE)}", next_step=hint)


def describe():
    """One row per cause: id, title, severity, fix, advice to avoid, where it can be shown, cases; a DataFrame."""
    import pandas as pd

    rows = [
        (c.id, c.title, c.severity, c.fix, " ".join(c.avoid), c.shown_on, len(c.cases)) for c in map(get, PRECEDENCE)
    ]
    return pd.DataFrame(rows, columns=["cause", "title", "severity", "fix", "avoid", "shown_on", "cases"])


def as_markdown() -> str:
    """The catalogue as a page: from what is seen to its causes; for each how to tell it, its fix, what to avoid."""
    parts = [
        "# Troubleshooting",
        "",
        "Rendered from the catalogue (`diag causes`); `diag explain` decides between the causes of one text.",
        "",
        "| What you see | What it can be |",
        "|---|---|",
    ]
    for text, behind in by_symptom(PRECEDENCE).items():
        links = " · ".join(f"[{cause}](#{cause})" for cause in behind)
        parts.append(f"| {text if text.startswith('no error') else _code(text)} | {links} |")
    for cause in map(get, PRECEDENCE):
        parts += ["", f'<a id="{cause.id}"></a>', "", f"## {cause.title}", ""]
        parts += [f"`{cause.id}` · {cause.explanation}", ""]
        parts += [f"- **Tell it by:** {cause.check}", f"- **Fix:** {cause.fix}"]
        parts += [f"- **Leave alone:** {advice}" for advice in cause.avoid]
    return "\n".join(parts) + "\n"


def _code(text: str) -> str:
    """Text with backquotes as code in a Markdown table."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
