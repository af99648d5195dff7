"""out-of-memory: the model is larger than the device."""

from diag.reproduce.common import Scenario, load_on_gpu

TEACHES = "A device that is smaller than the model."
STEPS = (load_on_gpu.saying("Load everything on it."),)
SCENARIO = Scenario("out-of-memory", TEACHES, STEPS, hardware="600KiB+8GiB", asked={"device_map": "single"})
