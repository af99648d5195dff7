"""out-of-memory: the model is larger than the device."""

from diag.reproduce.common import load_on_gpu
from diag.reproduce.scenario import Scenario

SCENARIO = Scenario(
    cause="out-of-memory",
    teaches="A device that is smaller than the model.",
    steps=(load_on_gpu.saying("Load everything on it."),),
    hardware="600KiB+8GiB",
    asked={"device_map": "single"},
)
