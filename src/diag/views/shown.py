"""How diag's values show themselves in a notebook: spec, hardware, outcome, proof, fix and findings as views.

`values.showing` has this imported when a notebook first asks for one. Everything is escaped and redacted.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from diag.values.finding import Finding, Findings, Fix
from diag.values.hardware import Hardware
from diag.values.outcome import LoadOutcome, Proof
from diag.values.showing import Drawing, register
from diag.values.spec import LoadSpec
from diag.values.text import sentence, visible, wrapped
from diag.values.units import format_seconds, format_size
from diag.views.markup import View, fragment, render
from diag.views.wording import number_text

_CERTAIN = {"shown": "shown by the state", "likely": "likely", "possible": "possible"}
_TONES = {"error": "bad", "silent": "bad", "info": "good"}
_SEVERE = {"error": "", "silent": "silent: a wrong answer, no error", "info": "a notice, nothing is wrong"}
_VERDICTS = {True: ("good", "✓ proved"), False: ("bad", "✗ not proved"), None: ("warn", "? could not be judged")}
_GITHUB = "https://github.com/"
_NAMES, _NOTES, _OPEN = 6, 3, 2


def spec_view(spec: LoadSpec) -> View:
    """A spec as its fields; those at their default are left out, except the three that everybody asks for."""
    pairs = [
        ("model", spec.model),
        ("device_map", spec.device_map_text),
        ("quantization", spec.quantization),
        ("hardware", spec.hardware_text + (" (simulated)" if spec.simulated else "")),
    ]
    if spec.dtype != "auto":
        pairs.append(("dtype", spec.dtype))
    pairs.append(("max_memory", ", ".join(f"{device}: {format_size(size)}" for device, size in spec.max_memory or ())))
    pairs += [(name, getattr(spec, name) or "") for name in ("offload_folder", "adapter", "loader", "probe")]
    return View(render("values/facts", title="LoadSpec", badge_text="", pairs=pairs), repr(spec))


def hardware_view(hardware: Hardware) -> View:
    """A simulated machine: each GPU with its capacity and what others hold, and the host."""
    pairs = []
    for number, (size, held) in enumerate(zip(hardware.gpus, hardware.taken)):
        others = f", of which others hold {format_size(held)}" if held else ""
        pairs.append((f"simgpu:{number}", format_size(size) + others))
    pairs.append(("host", "this machine's memory" if hardware.host is None else format_size(hardware.host)))
    words = f"simulated {hardware}: " + "; ".join(f"{name} {size}" for name, size in pairs)
    return View(render("values/facts", title="Hardware", badge_text="simulated", pairs=pairs), words)


def outcome_view(outcome: LoadOutcome) -> View:
    """A load: the model it gave or the error it ended in, with seconds, peaks and what was logged."""
    peaks = ", ".join(f"{device} {format_size(size)}" for device, size in outcome.peak_bytes.items())
    pairs = [
        ("spec", repr(outcome.spec)),
        ("model", type(outcome.model).__name__ if outcome.ok else ""),
        ("took", format_seconds(outcome.seconds)),
        ("peak memory", peaks),
        ("not in the checkpoint", _some(outcome.missing_keys)),
        ("proof", str(outcome.proof) if outcome.proof is not None else ""),
        *(("logged", text) for text in outcome.notes[:_NOTES]),
    ]
    said = "" if outcome.ok else f"{type(outcome.error).__name__}: {outcome.error}"
    error = [visible(line) for line in said.splitlines()[:12]]
    html = render("values/outcome", pairs=pairs, is_loaded=outcome.ok, is_simulated=outcome.simulated, error=error)
    lines = [visible(repr(outcome)), *(f"  {line}" for line in error), *_lines(pairs[3:])]
    return View(html, "\n".join(lines))


def proof_view(proof: Proof) -> View:
    """A proof: proved, not proved or not judged, then the figures behind it."""
    tone, word = _VERDICTS[proof.proved]
    same_twice = {True: "yes", False: "no", None: ""}
    pairs = [
        ("probes", "; ".join(proof.probes)),
        ("the model said", proof.answer),
        ("largest difference", number_text(proof.max_abs_diff)),
        ("KL divergence", number_text(proof.kl_divergence)),
        ("same next word", "" if proof.top1_agreement is None else f"{proof.top1_agreement:.0%}"),
        ("same answer twice", same_twice[proof.repeatable]),
        ("from the unquantized model", number_text(proof.quality_kl)),
    ]
    html = render("values/proof", tone=tone, verdict=word, reason=sentence(proof.reason), pairs=pairs)
    return View(html, "\n".join([wrapped(visible(proof)), *_lines(pairs)]))


def fix_view(fix: Fix) -> View:
    """A fix: what it does and why, the code, what it costs, and the advice not to follow."""
    how = "by hand: diag can't apply it" if fix.by_hand else f"diag.fix applies it ({fix.action})"
    pairs = [("takes", format_size(fix.nbytes)), ("avoid", fix.avoid)]
    html = render("values/fix", how=how, because=sentence(fix.because), code=fix.code, pairs=pairs)
    words = [wrapped(visible(f"Fix: {fix.because}")), *(f"    {visible(line)}" for line in fix.code.splitlines())]
    return View(html, "\n".join([*words, *_lines([("how", how), *pairs])]))


def findings_view(found: Findings) -> View:
    """The card: each cause with where, why, the fix as code and the advice to avoid; the first one open."""
    looked = f"Looked at: {'; '.join(found.looked_at)}." if found.looked_at else ""
    cards = [_card(item, is_open=number < _OPEN) for number, item in enumerate(found)]
    html = render("values/findings", cards=cards, looked=looked)
    if found:
        return View(html, visible(found))
    return View(html, "\n".join(filter(None, ("Healthy: no cause found.", wrapped(visible(looked))))))


def finding_view(finding: Finding) -> View:
    html = render("values/findings", cards=[_card(finding, is_open=True)], looked="")
    return View(html, visible(finding))


def _card(item: Finding, is_open: bool) -> dict[str, object]:
    """A finding as its card shows it: some tensors of many, some sources."""
    facts = [("where", item.module), ("tensors", _some(item.tensors)), *(("why", text) for text in item.because)]
    return {
        "finding": item,
        "is_open": is_open,
        "tone": _TONES[item.severity],
        "badges": " · ".join(filter(None, (_CERTAIN[item.certainty], _SEVERE[item.severity]))),
        "facts": [*facts, *(("to decide", text) for text in item.check)],
        "fixes": [(sentence(fix.because), fix.code) for fix in item.fixes],
        "avoid": [("avoid", text) for text in item.avoid],
        "sources": [(source, source.startswith(_GITHUB)) for source in item.sources[:_NOTES]],
    }


def _lines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [wrapped(visible(value), f"  {name}: ") for name, value in pairs if value]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _drawing(view_of: Callable[[Any], View], value: object) -> Drawing:
    view = view_of(value)
    return Drawing(fragment(view.html), view.text)


_VIEWS: dict[type, Callable[[Any], View]] = {LoadSpec: spec_view, Hardware: hardware_view, LoadOutcome: outcome_view}
_VIEWS |= {Proof: proof_view, Fix: fix_view, Finding: finding_view, Findings: findings_view}
for _kind, _view_of in _VIEWS.items():
    register(_kind, partial(_drawing, _view_of))
