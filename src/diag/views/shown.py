"""How diag's values show themselves in a notebook: spec, hardware, outcome, proof, fix and findings as views.

`values.showing` has this imported when a notebook first asks for one. Everything is escaped and redacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from diag.values.finding import Finding, Findings, Fix
from diag.values.hardware import Hardware
from diag.values.outcome import LoadOutcome, Proof
from diag.values.showing import Drawing, register
from diag.values.spec import LoadSpec
from diag.values.text import sentence, wrapped
from diag.values.units import format_seconds, format_size
from diag.views.markup import View, breakable, escape, fragment, notice, tag, visible
from diag.views.wording import number_text

_CERTAIN = {"shown": "shown by the state", "likely": "likely", "possible": "possible"}
_TONES = {"error": "bad", "silent": "bad", "info": "good"}
_SEVERE = {"error": "", "silent": "silent: a wrong answer, no error", "info": "a notice, nothing is wrong"}
_VERDICTS = {
    True: ("good", "✓ proved"),
    False: ("bad", "✗ not proved"),
    None: ("warn", "? could not be judged"),
}
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
    for name in ("dtype", "max_memory", "offload_folder", "adapter", "loader", "probe"):
        value = getattr(spec, name)
        if value != type(spec).__dataclass_fields__[name].default:
            pairs.append((name, _limits(value) if name == "max_memory" else str(value)))
    return View(_title("LoadSpec") + _facts(pairs), repr(spec))


def hardware_view(hardware: Hardware) -> View:
    """A simulated machine: each GPU with its capacity and what others hold, and the host."""
    gpus = [
        (f"simgpu:{i}", format_size(size) + (f", of which others hold {format_size(held)}" if held else ""))
        for i, (size, held) in enumerate(zip(hardware.gpus, hardware.taken))
    ]
    host = "this machine's memory" if hardware.host is None else format_size(hardware.host)
    words = f"simulated {hardware}: " + "; ".join(f"{name} {size}" for name, size in [*gpus, ("host", host)])
    return View(_title("Hardware", "simulated") + _facts([*gpus, ("host", host)]), words)


def outcome_view(outcome: LoadOutcome) -> View:
    """A load: the model it gave or the error it ended in, with seconds, peaks and what was logged."""
    peaks = ", ".join(f"{device} {format_size(size)}" for device, size in outcome.peak_bytes.items())
    missing = ", ".join(outcome.missing_keys[:_NAMES])
    pairs = [
        ("spec", repr(outcome.spec)),
        ("model", type(outcome.model).__name__ if outcome.ok else ""),
        ("took", format_seconds(outcome.seconds)),
        ("peak memory", peaks),
        ("not in the checkpoint", missing + _more(len(outcome.missing_keys), _NAMES)),
        ("proof", str(outcome.proof) if outcome.proof is not None else ""),
        *(("logged", text) for text in outcome.notes[:_NOTES]),
    ]
    head = tag("span", "✓ loaded", class_="status good") if outcome.ok else tag("span", "! failed", class_="status bad")
    error = "" if outcome.ok else _error(outcome.error)
    simulated = "simulated" if outcome.simulated else ""
    return View(_title("LoadOutcome", simulated, head) + error + _facts(pairs), _outcome_text(outcome, pairs))


def proof_view(proof: Proof) -> View:
    """A proof: proved, not proved or not judged, then the figures behind it."""
    tone, word = _VERDICTS[proof.proved]
    pairs = [
        ("probes", "; ".join(proof.probes)),
        ("the model said", proof.answer),
        ("largest difference", number_text(proof.max_abs_diff)),
        ("KL divergence", number_text(proof.kl_divergence)),
        ("same next word", "" if proof.top1_agreement is None else f"{proof.top1_agreement:.0%}"),
        ("same answer twice", "" if proof.repeatable is None else ("yes" if proof.repeatable else "no")),
        ("from the unquantized model", number_text(proof.quality_kl)),
    ]
    html = notice(tone, word, [breakable(sentence(proof.reason))]) + _facts(pairs)
    return View(html, "\n".join([wrapped(visible(proof)), *_lines(pairs)]))


def fix_view(fix: Fix) -> View:
    """A fix: what it does and why, the code, what it costs, and the advice not to follow."""
    kind = "by hand: diag can't apply it" if fix.by_hand else f"diag.fix applies it ({fix.action})"
    html = _title("Fix", kind) + tag("p", breakable(sentence(fix.because))) + _code(fix.code)
    pairs = [("takes", format_size(fix.nbytes)), ("avoid", fix.avoid)]
    words = [wrapped(visible(f"Fix: {fix.because}")), *(f"    {visible(line)}" for line in fix.code.splitlines())]
    return View(html + _facts(pairs), "\n".join([*words, *_lines([("how", kind), *pairs])]))


def findings_view(found: Findings) -> View:
    """The card: each cause with where, why, the fix as code and the advice to avoid; the first one open."""
    looked = f"Looked at: {'; '.join(found.looked_at)}." if found.looked_at else ""
    if not found:
        words = "\n".join(filter(None, ("Healthy: no cause found.", wrapped(visible(looked)))))
        return View(notice("good", "✓ Healthy", ["No cause found.", *_paragraph(looked)]), words)
    cards = "".join(_card(item, opened=number < _OPEN) for number, item in enumerate(found))
    return View(cards + tag("p", escape(looked), class_="soft"), visible(found))


def finding_view(finding: Finding) -> View:
    return View(_card(finding, opened=True), visible(finding))


def _card(item: Finding, opened: bool) -> str:
    badges = " · ".join(filter(None, (_CERTAIN[item.certainty], _SEVERE[item.severity])))
    head = tag("strong", escape(item.title)) + " " + tag("code", escape(item.cause)) + " " + _soft(badges)
    names = ", ".join(item.tensors[:_NAMES]) + _more(len(item.tensors), _NAMES)
    pairs = [("where", item.module), ("tensors", names), *(("why", text) for text in item.because)]
    body = _facts([*pairs, *(("to decide", text) for text in item.check)])
    body += "".join(
        tag("p", tag("b", "Fix: ") + breakable(sentence(fix.because))) + _code(fix.code) for fix in item.fixes
    )
    body += _facts([("avoid", text) for text in item.avoid]) + _links(item.sources[:_NOTES])
    attributes = {"open": "open"} if opened else {}
    return tag("details", tag("summary", head) + body, class_=f"notice finding {_TONES[item.severity]}", **attributes)


def _title(name: str, beside: str = "", status: str = "") -> str:
    mark = tag("span", escape(beside), class_="simulated") if beside else ""
    return tag("p", " ".join(filter(None, (tag("strong", escape(name)), status, mark))))


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A definition list of the pairs that have a value."""
    shown = [(name, value) for name, value in pairs if value]
    items = "".join(tag("dt", escape(name)) + tag("dd", breakable(value)) for name, value in shown)
    return tag("dl", items, class_="facts") if shown else ""


def _links(sources: Iterable[str]) -> str:
    """Public threads as links with short names; anything else as text."""
    shown = [
        tag("a", breakable(source.removeprefix(_GITHUB)), href=source)
        if source.startswith(_GITHUB)
        else breakable(source)
        for source in sources
    ]
    return tag("p", f"Reported in: {', '.join(shown)}", class_="soft") if shown else ""


def _lines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [wrapped(visible(value), f"  {name}: ") for name, value in pairs if value]


def _outcome_text(outcome: LoadOutcome, pairs: list[tuple[str, str]]) -> str:
    return "\n".join([visible(repr(outcome)), *([] if outcome.ok else _error_lines(outcome.error)), *_lines(pairs[3:])])


def _error(error: BaseException | None) -> str:
    first, *rest = _error_lines(error) or [""]
    return notice("bad", first.strip(), [escape(line.strip()) for line in rest])


def _error_lines(error: BaseException | None) -> list[str]:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return [f"  {visible(line)}" for line in lines[:12]]


def _code(code: str) -> str:
    return tag("pre", tag("code", escape(code)), tabindex="0") if code else ""


def _paragraph(text: str) -> list[str]:
    return [escape(text)] if text else []


def _soft(text: str) -> str:
    return tag("span", escape(text), class_="soft")


def _more(total: int, shown: int) -> str:
    return f" and {total - shown} more" if total > shown else ""


def _limits(value: Any) -> str:
    return ", ".join(f"{device}: {format_size(size)}" for device, size in value)


def _drawing(draw: Callable[[Any], View]) -> Callable[[Any], Drawing]:
    def drawn(value: Any) -> Drawing:
        view = draw(value)
        return Drawing(fragment(view.html), view.text)

    return drawn


for _kind, _draw in (
    (LoadSpec, spec_view),
    (Hardware, hardware_view),
    (LoadOutcome, outcome_view),
    (Proof, proof_view),
    (Fix, fix_view),
    (Finding, finding_view),
    (Findings, findings_view),
):
    register(_kind, _drawing(_draw))
