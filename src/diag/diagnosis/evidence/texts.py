"""The texts that are about devices, in every wording, and who stood where in them. Standard library only."""

import re
from dataclasses import dataclass
from functools import lru_cache

_DEVICE = r"((?:cpu|meta|disk|cuda|xpu|mps|npu|hpu|mlu|musa|hip|xla|privateuse\w+|[a-z]{2,10})(?::\d+)?)"
_ORDERED = re.compile(rf"tensorondevice{_DEVICE}isnotontheexpecteddevice{_DEVICE}!?")
_PAIRS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"foundatleasttwodevices[,(:]*{_DEVICE}and{_DEVICE}[!)]?",
        rf"found(?:two|at-?leasttwo)differentdevices,?{_DEVICE},?(?:and)?,?{_DEVICE}",
        rf"butgot\w+ison{_DEVICE},differentfromothertensorson{_DEVICE}",
        rf"expectedobjectof(?:backend|devicetype){_DEVICE}butgot(?:backend|devicetype){_DEVICE}",
        rf"expecteddevice{_DEVICE}butgot(?:device)?{_DEVICE}",
        rf"expecteda?'?{_DEVICE}'?devicetypeforgeneratorbutfound'?{_DEVICE}",
        r"expectedquery,key,andvaluetohavethesamedevicetype,butgotquery\.device:"
        rf"{_DEVICE}[,\w.:]*?(?:key|value)\.device:{_DEVICE}",
        rf"indicesshouldbeeitheron{_DEVICE}oronthesamedeviceastheindexedtensor\({_DEVICE}\)",
        rf"storageonthesamedevice.*?{_DEVICE}and{_DEVICE}",
        rf"modulemusthaveitsparametersandbuffersondevice{_DEVICE}\S*butfoundoneofthemondevice:?{_DEVICE}",
    )
)
_MIXED_TYPES = re.compile(
    r"(?:inputtype|weighttype)\(?(?:torch\.)?(?:cuda|xpu|mps|npu)?\w*\)?"
    r"and(?:weight|bias)type\(?(?:torch\.)?(?:cuda|xpu|mps|npu)?"
    r"|placeholderstoragehasnotbeenallocatedonmps|passedcputensortompsop|tensorforargument#\d.*isoncpu"
    r"|inputtensorisnotanxlatensor|input,output,?andindicesmustbeonthecurrentdevice|devicetype\w*butgotdevicetype"
)
_COPY = re.compile(r"cannotcopyoutofmetatensor|can'tcopyoutofmetatensor")
_ITEM = re.compile(
    r"tensor\.item\(\)cannotbecalledonmeta|_local_scalar_dense.{0,120}meta|can'tconvertmetadevicetypetensor"
    r"|cannotbecalledonmetatensors|'aten::\w+(?:\.\w+)?'witharguments(?:from|on)the'meta'backend"
    r"|attemptedtorunthisoperatorwithmetatensors"
)
_NEED_VALUE = re.compile(r"(\w{1,80})isonthemetadevice,weneeda`?value`?toputinon")


@dataclass(frozen=True)
class Mixed:
    """Two devices in one operation. `expected` is the first operand's where `ordered`, `other` a later one's."""

    expected: str
    other: str
    ordered: bool

    @property
    def with_meta(self) -> bool:
        return "meta" in (self.expected, self.other)

    @property
    def real(self) -> str:
        return self.other if self.expected == "meta" else self.expected


@lru_cache(maxsize=8)
def squash(text: str) -> str:
    """Lower case without white space, so that wrapped lines compare equal."""
    return "".join(text.split()).lower()


def mixed_devices(text: str) -> Mixed | None:
    """The two devices a message names, whatever its wording; None where it names no such pair.

    >>> mixed_devices("Tensor on device xpu:0 is not on the expected device meta!")
    Mixed(expected='meta', other='xpu:0', ordered=True)
    """
    flat = squash(text)
    if match := _ORDERED.search(flat):
        return Mixed(expected=match[2], other=match[1], ordered=True)
    for pattern in _PAIRS:
        if match := pattern.search(flat):
            return Mixed(expected=match[1], other=match[2], ordered=False)
    return Mixed("", "", ordered=False) if _MIXED_TYPES.search(flat) else None


def is_copy_out_of_meta(text: str) -> bool:
    return bool(_COPY.search(squash(text)))


def is_value_of_meta(text: str) -> bool:
    """`.item()`, `.numpy()`, `bool()` and the like on a meta tensor, also in older wordings."""
    return bool(_ITEM.search(squash(text)))


def needs_value(text: str) -> str:
    """The local tensor name in `weight is on the meta device, we need a value to put in on 0`, else nothing."""
    match = _NEED_VALUE.search(squash(text))
    return match[1].removeprefix("valueerror:").rpartition(":")[2] if match else ""


def is_about_devices(text: str) -> bool:
    """Whether a message is one of those that only a tensor on the wrong device gives."""
    return any((mixed_devices(text), is_copy_out_of_meta(text), is_value_of_meta(text), needs_value(text)))


def named_tensors(text: str) -> tuple[str, ...]:
    """Tensor names that a message gives, in order, without repeats."""
    dotted = re.findall(
        r"(?<![\w./\\])((?:[A-Za-z_]\w*\.)+(?:\d+\.)?(?:[\w]+\.)*"
        r"(?:weight|bias|inv_freq|lora_[AB]\S*?|scale|zeros?|wf|absmax|SCB|qweight|gamma|beta))\b",
        text,
    )
    copied = re.findall(r'copying the parameter named "([^"]+)"', text)
    listed = re.search(r"following parameters?:\s*(.+?)(?:\.\s|\.?$)", text, re.DOTALL)
    names = [*copied, *([part.strip() for part in listed[1].split(",")] if listed else []), *dotted]
    skipped = ("torch.", "self.", "nn.", "model_args.", "module.weight")
    return tuple(dict.fromkeys(n for n in names if n and " " not in n and not n.startswith(skipped)))[:200]
