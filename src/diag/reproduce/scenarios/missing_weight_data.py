"""missing-weight-data: the tensor is missing from the checkpoint, or the files that hold it are gone."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, run, step


@step("build", "Remove one tensor from the checkpoint.")
def drop_a_key(stage: Stage) -> str:
    import json

    from safetensors.torch import load_file, save_file

    folder = stage.checkpoint()
    key = "model.layers.5.mlp.up_proj.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"].pop(key)
    state = load_file(shard)
    del state[key]
    save_file(state, shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return f"{key} is gone from {shard.name}"


@step("break", "Clean the cache.")
def remove_files(stage: Stage) -> str:
    for file in stage.checkpoint().glob("*.safetensors"):
        file.unlink()
    return "the checkpoint's files are gone, as a cleaned cache leaves them"


KEY_GONE_STEPS = (drop_a_key, load_with_disk.saying("Load with that block on disk."), run)
KEY_GONE = Scenario("missing-weight-data", "Loading succeeds, and the first forward fails.", KEY_GONE_STEPS)
FILES_GONE_TEACHES = "Disk offload reads the checkpoint on every forward."
FILES_GONE = Scenario("missing-weight-data/files-gone", FILES_GONE_TEACHES, (load_with_disk, remove_files, run))
