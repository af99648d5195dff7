"""Which fixes there are for a finding, safest first: values, not actions. `diag.fix` carries them out."""

from __future__ import annotations

from typing import Any

from diag.diagnosis import causes
from diag.diagnosis.finding import Finding, Fix
from diag.spec import LoadSpec


def fixes_for(finding: Finding, model: Any = None, spec: LoadSpec | None = None) -> tuple[Fix, ...]:
    return (Fix("by-hand", causes.get(finding.cause).fix),)
