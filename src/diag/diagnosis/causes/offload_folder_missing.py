"""offload-folder-missing: the map needs disk, and no folder was given."""

from diag.diagnosis.cause import NO_FOLDER, Cause, Fixes, cases_of, texts_of
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="offload-folder-missing",
    rank=160,
    title="The map needs disk, and no folder was given",
    explanation="Weights that go to disk are read from the checkpoint itself when it is safetensors. A .bin "
    "checkpoint, weights that are converted while loading, or a model that is already in memory have to be written "
    "somewhere first, and no folder was given.",
    proves=("The refusal asks for offload_folder or offload_dir.",),
    rules_out=("The map holds no disk.",),
    check="Is the checkpoint .bin, and does the map hold 'disk'?",
    fix="Pass offload_folder= (transformers, PEFT) or offload_dir= (accelerate's dispatch_model), or convert the "
    "checkpoint to safetensors.",
    avoid=("a folder in /tmp that a cleaner empties: the weights are read on every forward.",),
    seen_as=(
        "The current `device_map` had weights offloaded to the disk, which needed to be re-saved.…",
        ("The current `device_map` had weights offloaded to the disk. Please provide an `offload_folder` for them.…"),
        NO_FOLDER,
    ),
    texts=texts_of(r"""
        the map needs disk, and no folder was given
            10: weights offloaded to the disk\. please provide an `?offload_(?:folder|dir)
            10: we need an `?offload_(?:dir|folder)`? to dispatch
                |we need either a `?state_dict`? or an `?offload_(?:dir|folder)
        disk offload has to save weights anew, and no folder was given
            8: provide an? `?offload_(?:dir|folder)|which needed to be re-?saved
    """),
    cases=cases_of("""
        T63 disk in the map, no offload folder: h2oai/h2ogpt#155 databrickslabs/dolly#46 zhaoxlpku/HKU-DASC7606-A2#13
            PromtEngineer/localGPT#206
    """),
    settles=True,
)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_alike()
