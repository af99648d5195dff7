"""device-map-incomplete: the device map does not cover the model, or names modules that do not exist."""

import re

from diag.diagnosis.cause import Cause, Fixes, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="device-map-incomplete",
    rank=150,
    title="The device map does not cover the model, or names modules that do not exist",
    explanation="A map written by hand has to give every parameter a device, directly or through a parent. A typo, an "
    "older layout (rotary_emb moved to the top of the model in recent versions) or a new head leaves something out. "
    "With several devices accelerate refuses; with one device, and for buffers, it does not, and the rest stays where "
    "it was.",
    proves=("Names in the map match no module, or tensors are covered by no name of it.",),
    rules_out=("The map has '' as a default, or every tensor has a mapped device.",),
    check="Which names does the message list, and does the map name a parent of each?",
    fix="Add the missing modules, or '' as a default, or use device_map='auto'.",
    avoid=("copying a map from another version of the model: module names change between versions.",),
    seen_as=("The device_map provided does not give any device for the following parameters: …",),
    texts=texts_of(r"""
        the device map leaves parameters without a device
            10: does ?n[o']t give any device for the following parameters?
        the device map leaves a module without a device
            10: doesn't have any device set|does not have any device set
        the device map names modules that do not exist
            8: device_map ?keys? (?:do not|don't) match any|device_?map contains keys? that
        the device map is not a name that the loader knows
            9: when passing device_map as a string,? the value needs to be
        the model class does not say which blocks may not be split
            7: does not support `?device_map='?\w+'?`?|needs? to implement the `?_no_split_modules
        the map and the model's names differ
            10: the device map (?:gives no device to|names \d+ modules? that)
    """),
    cases=cases_of("""
        T37 rotary_emb missing from a hand-written map: huggingface/transformers#35505 huggingface/transformers#35417
            huggingface/transformers#35354
        T61 parameters without a device in the map: chatchat-space/Langchain-Chatchat#829 hiyouga/LlamaFactory#8953
            evo-design/evo#61
    """),
)


_BY_HAND = (
    r"device_map=(?!['\"]?(?:auto|balanced|sequential|cuda))|rotary_emb['\"]:|split_model|custom.{0,20}device_?map|\}"
)


def from_text(trace: Trace) -> Points:
    if trace.mixed is None or trace.mixed.with_meta:
        return
    called = " ".join(f"{frame.function} {frame.code}" for frame in trace.frames)
    if re.search(r"rotary|inv_freq", called + trace.flat):
        said = "the rotary embedding's buffer is on another device than its layer"
        by_hand = re.search(_BY_HAND, trace.flat) is not None
        yield Point(9, f"{said}, under a map written by hand") if by_hand else Point(4, said)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_with_map("auto", "a map that the loader computes covers every tensor")
