"""The four quick fixes of the first analysis, each in four situations, each settled by loads that are proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from diag.values.spec import LoadSpec

SITUATIONS = ("one GPU", "two GPUs", "offloaded", "quantized")
FIXES = ("DEVICE_MAP=single", "Removing QUANTIZE or installing bitsandbytes", "DEVICE_MAP=none",
         "Dropping the manual .to(...)")  # fmt: skip
ROOM, SMALL, TWO, TWO_SMALL = "300MiB+8GiB", "600KiB+8GiB", "2x300MiB+8GiB", "2x600KiB+8GiB"
SMALL_PACKED = "300KiB+8GiB"  # too small for the packed weights as well


@dataclass(frozen=True)
class Try:
    """One load under one condition: LoadSpec fields; `moved` then sends the model to the GPU as a caller does."""

    when: str
    fields: tuple[tuple[str, Any], ...]
    moved: bool = False

    @property
    def call(self) -> str:
        spec = LoadSpec("tiny", **dict(self.fields))
        return f"diag.load(diag.{spec!r})" + ".model.to('simgpu:0')" * self.moved

    def problem(self) -> str:
        """Empty where the model is proved; otherwise what happened."""
        return _loaded(LoadSpec("tiny", **dict(self.fields)), self.moved)


@cache
def _loaded(spec: LoadSpec, moved: bool) -> str:
    from diag.loading.recipe import load
    from diag.proving.proof import prove

    outcome = load(spec)
    if outcome.model is None:
        return f"{type(outcome.error).__name__}: {outcome.error}".splitlines()[0]
    try:
        model = outcome.model.to("simgpu:0") if moved else outcome.model
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    proof = prove(model, spec)
    return "" if proof.proved else str(proof)


def verdict_over(tries: tuple[Try, ...]) -> tuple[str, str]:
    """true, false, or only when …; and what happened under each condition."""
    results = {one.when: one.problem() for one in tries}
    good, bad = [when for when, r in results.items() if not r], [f"{when}: {r}" for when, r in results.items() if r]
    if not bad:
        return "true", f"right when {', '.join(good)}."
    answer = f"only when {' or '.join(good)}" if good else "false"
    return answer, f"right when {', '.join(good)}; {'; '.join(bad)}" if good else "; ".join(bad)


def tries_of(fix: str, situation: str) -> tuple[Try, ...]:
    """What is run for one quick fix in one situation."""
    return _MAKERS[FIXES.index(fix)](situation)


def _try(when: str, moved: bool = False, **fields: Any) -> Try:
    return Try(when, tuple(fields.items()), moved)


def _machines(situation: str) -> tuple[tuple[str, str], ...]:
    """Room and lack of it. What was offloaded was so because the GPU is too small, or because others held it."""
    if situation == "two GPUs":
        return ("a GPU holds the whole model", TWO), ("each GPU is too small for the model alone", TWO_SMALL)
    small = SMALL_PACKED if situation == "quantized" else SMALL
    return ("a GPU holds the whole model", ROOM), ("the GPU is too small", small)


def _packed(situation: str) -> dict[str, Any]:
    return {"quantization": "nf4"} if situation == "quantized" else {}


def _single(situation: str) -> tuple[Try, ...]:
    return tuple(_try(when, device_map="single", hardware=hardware, **_packed(situation))
                 for when, hardware in _machines(situation))  # fmt: skip


def _no_map(situation: str) -> tuple[Try, ...]:
    """Without a map the model is on the CPU, from where the caller moves it; packed weights go to the GPU at once."""
    moved = situation != "quantized"
    return tuple(_try(when, moved=moved, device_map="none", hardware=hardware, **_packed(situation))
                 for when, hardware in _machines(situation))  # fmt: skip


def _no_quantization(situation: str) -> tuple[Try, ...]:
    if situation in ("one GPU", "two GPUs"):
        hardware = ROOM if situation == "one GPU" else TWO
        return (_try("QUANTIZE is removed", device_map="auto", hardware=hardware),
                _try("bitsandbytes is installed", device_map="auto", quantization="nf4",
                     hardware=hardware))  # fmt: skip
    if situation == "offloaded":
        return (_try("QUANTIZE is removed", device_map="offload", hardware=ROOM),
                _try("bitsandbytes is installed", device_map="offload", quantization="nf4", hardware=ROOM))  # fmt: skip
    return (_try("QUANTIZE is removed", device_map="auto", hardware=SMALL),
            _try("bitsandbytes is installed and a GPU holds the packed model", device_map="auto",
                 quantization="nf4", hardware=ROOM),
            _try("bitsandbytes is installed and the GPU is too small", device_map="auto", quantization="nf4",
                 hardware=SMALL_PACKED))  # fmt: skip


def _dropped(situation: str) -> tuple[Try, ...]:
    if situation == "offloaded":
        return (_try("blocks are on the CPU and on disk", device_map="offload", hardware=ROOM),
                _try("everything is on disk", device_map={"": "disk"}))  # fmt: skip
    hardware = TWO if situation == "two GPUs" else ROOM
    device_map = "balanced" if situation == "two GPUs" else "auto"
    return (_try("the loader makes the map", device_map=device_map, hardware=hardware, **_packed(situation)),)


_MAKERS: tuple[Callable[[str], tuple[Try, ...]], ...] = (_single, _no_quantization, _no_map, _dropped)
