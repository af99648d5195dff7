"""What a finished or half-finished matrix says: how many combinations work, which one to use here, and why. Pure."""

from dataclasses import asdict, dataclass

import pandas as pd

from diag.sweep.results.gate import gate_of
from diag.values.exits import Exit
from diag.values.spec import PRESETS, QUANTIZATIONS
from diag.values.text import count_text, list_text
from diag.values.units import format_seconds, format_size, is_missing
from diag.views.rows import machine_text
from diag.views.wording import THIS_MACHINE, device_bytes, number_text, status_word

VERDICT_MIME = "application/vnd.diag.verdict+json"


@dataclass(frozen=True)
class Advice:
    """One combination and why it is the one to take; `code` is its keyword arguments."""

    device_map: str
    quantization: str
    hardware: str
    because: str

    @property
    def code(self) -> str:
        return f"device_map={self.device_map!r}, quantization={self.quantization!r}"


@dataclass(frozen=True)
class Verdict:
    """The frame in a few values. `best` is None where nothing works, `smallest` where `best` is about as small.

    `unjudged` says in a sentence why the run could not judge, and is empty where it could.
    """

    models: tuple[str, ...]
    total: int
    counts: tuple[tuple[str, int], ...]
    machines: tuple[tuple[str, int, int], ...]
    best: Advice | None
    smallest: Advice | None
    exit_code: Exit
    unjudged: str = ""

    @property
    def works(self) -> int:
        return dict(self.counts).get("ok", 0)

    @property
    def headline(self) -> str:
        """One sentence: how many work, machine by machine."""
        name = list_text(list(self.models)) or "the model"
        if self.total == 0:
            return f"No combination of {name} has been loaded"
        if len(self.machines) == 1:
            machine, works, total = self.machines[0]
            return f"{works} of {total} combinations of {name} work on {machine_text(machine)}"
        parts = [f"{works} of {total} on {machine_text(machine)}" for machine, works, total in self.machines]
        return f"{self.works} of {self.total} combinations of {name} work: {list_text(parts)}"

    def to_json(self) -> dict[str, object]:
        """For programs: what is written beside the headline in the executed notebook and by `--json`."""
        advice = {"best": self.best and asdict(self.best), "smallest": self.smallest and asdict(self.smallest)}
        counted = {"total": self.total, "works": self.works, "counts": dict(self.counts)}
        return {"headline": self.headline, **counted, **advice, "exit_code": int(self.exit_code)}


def verdict_of(frame: pd.DataFrame) -> Verdict:
    """The verdict of a matrix frame; an empty frame is one that could not judge."""
    gate = gate_of(frame)
    counts = {str(name): int(count) for name, count in frame["status"].value_counts().items()}
    machines = frame["status"].eq("ok").groupby(frame["hardware"], sort=False)
    works_by_machine = [(str(machine), int(works.sum()), len(works)) for machine, works in machines]
    working = [row for _, row in frame.iterrows() if row["status"] == "ok"]
    best = min(working, key=_rank, default=None)
    return Verdict(
        models=tuple(dict.fromkeys(map(str, frame["model"]))),
        total=len(frame),
        counts=tuple(sorted(counts.items(), key=lambda item: _order(item[0]))),
        machines=tuple(works_by_machine),
        best=None if best is None else _advice(best, _why(best)),
        smallest=None if best is None else _smaller(working, best),
        exit_code=gate.exit_code,
        unjudged=gate.headline if gate.exit_code is Exit.NOT_JUDGED else "",
    )


def peaks_text(row: pd.Series) -> str:
    """Every peak that was measured, the host's first.

    >>> peaks_text(pd.Series({"peak_host_bytes": 2**30, "peak_device_bytes": '{"cuda:0": 5242880, "cuda:1": 0}'}))
    '1 GiB of host memory and 5 MiB on cuda:0'
    """
    host, devices = format_size(row["peak_host_bytes"]), device_bytes(row["peak_device_bytes"])
    said = [f"{host} of host memory"] if host else []
    return list_text(said + [f"{format_size(size)} on {name}" for name, size in devices.items() if size])


def _scarce_bytes(row: pd.Series) -> tuple[str, int]:
    """What decides whether it fits: bytes on accelerators where any are used, else on the host."""
    devices = sum(int(size) for size in device_bytes(row["peak_device_bytes"]).values())
    if devices:
        return "device", devices
    return "host", 0 if is_missing(row["peak_host_bytes"]) else int(row["peak_host_bytes"])


def _order(status: str) -> int:
    known = ["ok", "wrong_output", "forward_error", "load_error", "out_of_memory", "killed", "timeout"]
    return known.index(status) if status in known else len(known)


def _rank(row: pd.Series) -> tuple[bool | int, ...]:
    """Smaller is better: real before simulated, all resident before offloaded, exact before quantized, plain first."""
    quantization, device_map = str(row["quantization"]), str(row["device_map"])
    kinds, maps = list(QUANTIZATIONS), list(PRESETS)
    return (
        row["hardware"] != THIS_MACHINE,
        _count(row, "n_offloaded") > 0,
        kinds.index(quantization) if quantization in kinds else len(kinds),
        maps.index(device_map) if device_map in maps else len(maps),
    )


def _smaller(working: list[pd.Series], best: pd.Series) -> Advice | None:
    """The working combination on the same machine that needs least of the same memory, if it saves a quarter."""
    kind, limit = _scarce_bytes(best)
    same = [row for row in working if row["hardware"] == best["hardware"]]
    alike = [row for row in same if _scarce_bytes(row)[0] == kind and _scarce_bytes(row)[1]]
    smallest = min(alike, key=lambda row: (_scarce_bytes(row)[1], _rank(row)), default=best)
    if _scarce_bytes(smallest)[1] > 0.75 * limit:
        return None
    price = f"peaks at {peaks_text(smallest)} instead of {peaks_text(best)}"
    return _advice(smallest, "; ".join([price, *_fetches(smallest), *_costs(smallest)]))


def _why(row: pd.Series) -> str:
    place = _fetches(row) or ["every tensor is resident, nothing is fetched during a forward"]
    return "; ".join([*place, _agreement(row), *_figures(row), *_costs(row)])


def _fetches(row: pd.Series) -> list[str]:
    """What offloading costs."""
    count = _count(row, "n_offloaded")
    if not count:
        return []
    took = format_seconds(row["forward_seconds"])
    fetched = f"{count_text(count, 'offloaded tensor')} fetched for every forward"
    return [f"{fetched}, which then takes {took}" if took else fetched]


def _agreement(row: pd.Series) -> str:
    difference = row["max_abs_diff"]
    if is_missing(difference):
        return "its answer equals its reference's"
    if float(difference) == 0:
        return "its logits equal its reference's bit for bit, twice"
    return f"its logits are within {number_text(difference)} of its reference's, twice"


def _figures(row: pd.Series) -> list[str]:
    forward = "" if _count(row, "n_offloaded") else format_seconds(row["forward_seconds"])
    load, peaks = format_seconds(row["load_seconds"]), peaks_text(row)
    said = (("loads in", load), ("a forward takes", forward), ("peaks at", peaks))
    return [f"{words} {figure}" for words, figure in said if figure]


def _costs(row: pd.Series) -> list[str]:
    quality = row["quality_kl"]
    if str(row["quantization"]) == "none" or is_missing(quality) or float(quality) == 0:
        return []
    return [f"differs from the unquantized model by a KL divergence of {number_text(quality)}"]


def _advice(row: pd.Series, because: str) -> Advice:
    return Advice(str(row["device_map"]), str(row["quantization"]), str(row["hardware"]), because)


def _count(row: pd.Series, column: str) -> int:
    return 0 if is_missing(row[column]) else int(row[column])


def status_counts_text(verdict: Verdict) -> str:
    """
    >>> status_counts_text(Verdict((), 3, (("ok", 2), ("killed", 1)), (), None, None, Exit.AS_EXPECTED))
    '2 work, 1 killed'
    """
    plural = {"works": "work", "wrong answer": "wrong answers"}
    words = [(count, status_word(status).text) for status, count in verdict.counts]
    return ", ".join(f"{count} {word if count == 1 else plural.get(word, word)}" for count, word in words)
