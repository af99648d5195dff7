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
_FIRST = "ok wrong_output forward_error load_error out_of_memory killed timeout".split()  # in this order


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

    @property
    def where(self) -> str:
        return "here" if self.hardware == THIS_MACHINE else f"on {machine_text(self.hardware)}"


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

    @property
    def counts_text(self) -> str:
        """How many of each status, for example `2 work, 1 killed`."""
        plural = {"works": "work", "wrong answer": "wrong answers"}
        words = [(count, status_word(status).text) for status, count in self.counts]
        return ", ".join(f"{count} {word if count == 1 else plural.get(word, word)}" for count, word in words)

    def to_json(self) -> dict[str, object]:
        """For programs: what is written beside the headline in the executed notebook and by `--json`."""
        advice = {"best": self.best and asdict(self.best), "smallest": self.smallest and asdict(self.smallest)}
        counted = {"total": self.total, "works": self.works, "counts": dict(self.counts)}
        return {"headline": self.headline, **counted, **advice, "exit_code": int(self.exit_code)}


def verdict_of(frame: pd.DataFrame) -> Verdict:
    """The verdict of a matrix frame; an empty frame is one that could not judge."""
    gate = gate_of(frame)
    counts = {str(name): int(count) for name, count in frame["status"].value_counts().items()}
    ordered = tuple((name, counts[name]) for name in dict.fromkeys([*_FIRST, *counts]) if name in counts)
    machines = frame["status"].eq("ok").groupby(frame["hardware"], sort=False)
    works_by_machine = tuple((str(machine), int(works.sum()), len(works)) for machine, works in machines)
    working = [row for _, row in frame.iterrows() if row["status"] == "ok"]
    best = min(working, key=_rank, default=None)
    advice = None if best is None else _advice(best, _why(best))
    smallest = None if best is None else _smaller(working, best)
    models = tuple(dict.fromkeys(map(str, frame["model"])))
    unjudged = gate.headline if gate.exit_code is Exit.NOT_JUDGED else ""
    return Verdict(models, len(frame), ordered, works_by_machine, advice, smallest, gate.exit_code, unjudged)


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


def _rank(row: pd.Series) -> tuple[bool | int, ...]:
    """Smaller is better: real before simulated, all resident before offloaded, exact before quantized, plain first."""
    quantization, device_map = str(row["quantization"]), str(row["device_map"])
    kind, preset = [*QUANTIZATIONS, quantization].index(quantization), [*PRESETS, device_map].index(device_map)
    return row["hardware"] != THIS_MACHINE, bool(_fetches(row)), kind, preset


def _smaller(working: list[pd.Series], best: pd.Series) -> Advice | None:
    """The working combination on the same machine that needs least of the same memory, if it saves a quarter."""
    kind, limit = _scarce_bytes(best)
    here = [(row, *_scarce_bytes(row)) for row in working if row["hardware"] == best["hardware"]]
    alike = [(nbytes, _rank(row), row) for row, own, nbytes in here if own == kind and nbytes]
    nbytes, _, smallest = min(alike, key=lambda found: found[:2], default=(0, (), best))
    if not 0 < nbytes <= 0.75 * limit:
        return None
    price = f"peaks at {peaks_text(smallest)} instead of {peaks_text(best)}"
    return _advice(smallest, "; ".join(filter(None, (price, _fetches(smallest), _costs(smallest)))))


def _why(row: pd.Series) -> str:
    """Where its weights are, how exact its answer is, and what it takes."""
    fetches, difference = _fetches(row), row["max_abs_diff"]
    if is_missing(difference):
        exact = "its answer equals its reference's"
    elif float(difference) == 0:
        exact = "its logits equal its reference's bit for bit, twice"
    else:
        exact = f"its logits are within {number_text(difference)} of its reference's, twice"
    load, forward = format_seconds(row["load_seconds"]), "" if fetches else format_seconds(row["forward_seconds"])
    figures = (("loads in", load), ("a forward takes", forward), ("peaks at", peaks_text(row)))
    takes = [f"{words} {figure}" for words, figure in figures if figure]
    place = fetches or "every tensor is resident, nothing is fetched during a forward"
    return "; ".join(filter(None, (place, exact, *takes, _costs(row))))


def _fetches(row: pd.Series) -> str:
    """What offloading costs; empty where nothing is offloaded."""
    count = 0 if is_missing(row["n_offloaded"]) else int(row["n_offloaded"])
    took = format_seconds(row["forward_seconds"])
    then = f", which then takes {took}" if took else ""
    return f"{count_text(count, 'offloaded tensor')} fetched for every forward{then}" if count else ""


def _costs(row: pd.Series) -> str:
    """What quantization costs; empty where that is nothing, or not known."""
    quality = row["quality_kl"]
    if str(row["quantization"]) == "none" or is_missing(quality) or float(quality) == 0:
        return ""
    return f"differs from the unquantized model by a KL divergence of {number_text(quality)}"


def _advice(row: pd.Series, because: str) -> Advice:
    return Advice(str(row["device_map"]), str(row["quantization"]), str(row["hardware"]), because)
