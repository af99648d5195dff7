"""The four quick fixes of the first analysis, each in four situations, each settled by loads that are proved."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from diag.values.hardware import Hardware
from diag.values.spec import LoadSpec
from diag.values.text import error_line

SITUATIONS = ("one GPU", "two GPUs", "offloaded", "quantized")
ROOM, SMALL, TWO, TWO_SMALL = "300MiB+8GiB", "600KiB+8GiB", "2x300MiB+8GiB", "2x600KiB+8GiB"
SMALL_PACKED = "300KiB+8GiB"  # too small for the packed weights as well


class Settled(NamedTuple):
    """How a claim was settled: `answer` is `true`, `false` or `only when …`, `because` says what happened."""

    answer: str
    because: str


@dataclass(frozen=True)
class Try:
    """One load under one condition; `moved` then sends the model to the GPU, as a caller does."""

    when: str
    spec: LoadSpec
    moved: bool = False

    @property
    def call(self) -> str:
        """The same as code that a person can run."""
        return f"diag.load(diag.{self.spec!r})" + (".model.to('simgpu:0')" if self.moved else "")


@cache
def problem_of(spec: LoadSpec, moved: bool = False) -> str:
    """Loads, and moves if asked; empty where the model is proved, otherwise what happened. Settled once per process."""
    from diag.loading.recipe import load
    from diag.proving.proof import prove

    outcome = load(spec)
    if outcome.model is None:
        return error_line(outcome.error)
    try:
        model = outcome.model.to("simgpu:0") if moved else outcome.model
    except Exception as error:
        return error_line(error)
    proof = prove(model, spec)
    return "" if proof.proved else str(proof)


def verdict_over(tries: tuple[Try, ...]) -> Settled:
    """`true` where every try is proved, `false` where none is; otherwise `only when` and the conditions that help."""
    problems = {one.when: problem_of(one.spec, one.moved) for one in tries}
    good = [when for when, problem in problems.items() if not problem]
    bad = "; ".join(f"{when}: {problem}" for when, problem in problems.items() if problem)
    right = f"right when {', '.join(good)}"
    if not bad:
        return Settled("true", f"{right}.")
    return Settled(f"only when {' or '.join(good)}", f"{right}; {bad}") if good else Settled("false", bad)


def _spec(device_map: str, hardware: str, quantization: str = "none") -> LoadSpec:
    return LoadSpec("tiny", device_map, quantization, Hardware.parse(hardware))


def _packing(situation: str) -> str:
    return "nf4" if situation == "quantized" else "none"


def _with_room_and_without(situation: str, device_map: str) -> tuple[Try, ...]:
    """What was offloaded was so because the GPU is too small, or because others held it: both are tried.

    Without a map the model is on the CPU, from where the caller moves it; packed weights go to the GPU at once.
    """
    conditions = {"a GPU holds the whole model": ROOM, "the GPU is too small": SMALL}
    if situation == "two GPUs":
        conditions = {"a GPU holds the whole model": TWO, "each GPU is too small for the model alone": TWO_SMALL}
    elif situation == "quantized":
        conditions["the GPU is too small"] = SMALL_PACKED
    packing, moved = _packing(situation), device_map == "none" and situation != "quantized"
    return tuple(Try(when, _spec(device_map, hardware, packing), moved) for when, hardware in conditions.items())


def _no_quantization(situation: str) -> tuple[Try, ...]:
    removed, installed = "QUANTIZE is removed", "bitsandbytes is installed"
    if situation == "quantized":
        return (
            Try(removed, _spec("auto", SMALL)),
            Try(f"{installed} and a GPU holds the packed model", _spec("auto", ROOM, "nf4")),
            Try(f"{installed} and the GPU is too small", _spec("auto", SMALL_PACKED, "nf4")),
        )
    device_map = "offload" if situation == "offloaded" else "auto"
    hardware = TWO if situation == "two GPUs" else ROOM
    return Try(removed, _spec(device_map, hardware)), Try(installed, _spec(device_map, hardware, "nf4"))


def _dropped(situation: str) -> tuple[Try, ...]:
    if situation == "offloaded":
        split = Try("blocks are on the CPU and on disk", _spec("offload", ROOM))
        return split, Try("everything is on disk", LoadSpec("tiny", (("", "disk"),)))
    device_map, hardware = ("balanced", TWO) if situation == "two GPUs" else ("auto", ROOM)
    return (Try("the loader makes the map", _spec(device_map, hardware, _packing(situation))),)


DROP_TO = "Dropping the manual .to(...)"
# a fix -> what is run for it in one of SITUATIONS
FIXES: dict[str, Callable[[str], tuple[Try, ...]]] = {
    "DEVICE_MAP=single": lambda situation: _with_room_and_without(situation, "single"),
    "Removing QUANTIZE or installing bitsandbytes": _no_quantization,
    "DEVICE_MAP=none": lambda situation: _with_room_and_without(situation, "none"),
    DROP_TO: _dropped,
}
