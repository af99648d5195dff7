"""A model on the Hugging Face hub: may it be read, what is missing in the cache, is there room. Seconds, not minutes.

Honours HF_ENDPOINT (mirrors), HF_HUB_OFFLINE, HF_TOKEN and the cache's place as huggingface_hub does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diag.errors import CheckpointError
from diag.machine.folders import nearest_existing
from diag.values.text import error_line
from diag.values.units import format_size

SECONDS = 5.0  # for one question to the hub
_NOBODY_ANSWERED = {"TransportError", "ConnectionError", "TimeoutError", "Timeout", "OfflineModeIsEnabled"}
_WHAT_HELPS = "copy the model here and name its folder, or use a sample, which works offline: "

SETTINGS = ("*.json", "*.model", "*.txt", "*.jinja")  # config, tokenizer, processor, generation, templates


@dataclass(frozen=True)
class Access:
    """What the hub and the cache say about one model.

    `folder` is the snapshot in the cache if it holds all that is needed, else None; then `nbytes` are to be downloaded.
    `note` is for people: that a cached copy stands in for a hub that could not be asked, say.
    """

    model: str
    folder: Path | None
    nbytes: int = 0
    note: str = ""


def look(model: str) -> Access:
    """Asks the hub (twice at most, 5 s each) and the cache; downloads nothing but a file's header.

    Raises CheckpointError: no such model, gated, offline and not cached, not reachable and not cached, no room for it
    in the cache, or a cache that can't be written to.
    """
    if is_offline():
        return Access(model, _cached_or_raise(model, "offline mode is on (HF_HUB_OFFLINE): the hub is not asked", ""))
    try:
        info = _ask(model)
    except Exception as e:
        if not _is_unreachable(e):
            raise _refused(model, e) from e
        why = f"{endpoint()} did not answer within {SECONDS:.0f} s: {error_line(e)}"
        folder = _cached_or_raise(model, why, "check the network, the proxy and HF_ENDPOINT; ")
        return Access(model, folder, note=f"{why}. The copy in the cache is used.")
    return _compare_with_cache(model, info)


def fetch(model: str) -> Path:
    """The snapshot folder, downloaded where the cache does not hold it. Raises CheckpointError as `look` does."""
    from huggingface_hub import snapshot_download

    access = look(model)
    if access.folder is not None:
        return access.folder
    try:
        folder = Path(snapshot_download(model, allow_patterns=list(SETTINGS)))
        has = (folder / "model.safetensors.index.json").exists() or _lists_safetensors(model)
        weights = ["*.safetensors"] if has else ["*.bin"]
        return Path(snapshot_download(model, allow_patterns=[*SETTINGS, *weights]))
    except Exception as e:
        if not _is_unreachable(e):
            raise _refused(model, e) from e
        raise _not_reached(model, f"the download broke off: {error_line(e)}", "run it again to go on; ") from e


def outline(model: str, folder: Path) -> Path:
    """A copy of a hub model that can be planned and not loaded: its settings and the headers of its weight files.

    The rest of each weight file is a hole, so that it has its size and takes no room. Goes into a new folder below
    `folder`, named after the commit. Raises CheckpointError as `look` does.
    """
    try:
        info = _ask(model)
        target = folder / str(info.sha)
        target.mkdir(parents=True)
        for name, size in _wanted((file.rfilename, file.size or 0) for file in info.siblings or ()):
            _write_outline(model, name, size, str(info.sha), target)
    except CheckpointError:
        raise
    except Exception as e:
        raise (_not_reached(model, error_line(e), "try again; ") if _is_unreachable(e) else _refused(model, e)) from e
    return target


def _write_outline(model: str, name: str, size: int, revision: str, target: Path) -> None:
    if not name.endswith((".safetensors", ".bin")):
        from huggingface_hub import hf_hub_download

        shutil.copyfile(hf_hub_download(model, name, revision=revision), target / name)
        return
    if name.endswith(".bin"):
        raise CheckpointError(
            f"{model!r} has its weights as {name}, whose contents are not known before it is downloaded.",
            next_step="run it without --plan, or download it first.",
        )
    length = int.from_bytes(_first_bytes(model, name, revision, 0, 8), "little")
    with (target / name).open("wb") as file:
        file.write(length.to_bytes(8, "little") + _first_bytes(model, name, revision, 8, length))
        file.truncate(size)


def _first_bytes(model: str, name: str, revision: str, start: int, count: int) -> bytes:
    """`count` bytes of a file from `start` on; also from a server that ignores the range and sends all of it."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + count - 1}"}
    answer = get_session().get(hf_hub_url(model, name, revision=revision), headers=headers, timeout=4 * SECONDS)
    answer.raise_for_status()
    data = answer.content
    return data if answer.status_code == 206 else data[start : start + count]


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """The hub that is asked: `HF_ENDPOINT`, or the public one."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def cached(model: str) -> Path | None:
    """The newest whole copy in the cache; None where there is none or it is not complete."""
    from huggingface_hub import snapshot_download

    from diag.loading.checkpoint.files import check_folder

    try:
        folder = Path(snapshot_download(model, local_files_only=True))
        check_folder(folder)
    except Exception:  # not cached, cut off half-way, or no valid id: in each case there is no copy to use
        return None
    return folder


def _ask(model: str) -> Any:
    """The repository's list of files; then one file's header, since a gated repository still shows its list."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    info = HfApi().model_info(model, timeout=SECONDS, files_metadata=True)
    if any(file.rfilename == "config.json" for file in info.siblings or ()):
        get_hf_file_metadata(hf_hub_url(model, "config.json", revision=info.sha), timeout=SECONDS)
    return info


def _compare_with_cache(model: str, info: Any) -> Access:
    from huggingface_hub import constants, try_to_load_from_cache

    wanted = _wanted((file.rfilename, file.size or 0) for file in info.siblings or ())
    found = {name: try_to_load_from_cache(model, name, revision=info.sha) for name, _ in wanted}
    missing = [(name, size) for name, size in wanted if not isinstance(found[name], str)]
    if wanted and not missing:
        return Access(model, _snapshot(found))
    nbytes = sum(size for _, size in missing)
    _check_room(model, nbytes, len(missing), Path(constants.HF_HUB_CACHE))
    return Access(model, None, nbytes)


def _wanted(files: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Settings, and the weights in the format that is read: safetensors where there are any."""
    files = [file for file in files if "/" not in file[0]]
    weights = [f for f in files if f[0].endswith(".safetensors")] or [f for f in files if f[0].endswith(".bin")]
    return [f for f in files if any(fnmatch(f[0], pattern) for pattern in SETTINGS)] + weights


def _snapshot(found: dict[str, Any]) -> Path:
    name, path = next(iter(found.items()))
    return Path(path).parents[name.count("/")]


def _lists_safetensors(model: str) -> bool:
    from huggingface_hub import list_repo_files

    return any(name.endswith(".safetensors") for name in list_repo_files(model))


def _check_room(model: str, nbytes: int, count: int, cache: Path) -> None:
    there = nearest_existing(cache)
    if not os.access(there, os.W_OK):
        raise CheckpointError(
            f"{model!r} is not whole in the cache, and the cache {str(cache)!r} can't be written to.",
            why=f"{count} files with {format_size(nbytes)} are missing there.",
            next_step="set HF_HOME to a folder of yours, or have the model put into the cache.",
        )
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise CheckpointError(
            f"there is no room for {model!r} in the cache {str(cache)!r}.",
            why=f"{format_size(nbytes)} are to be downloaded, and {format_size(free)} are free on that disk.",
            next_step="make room there, or set HF_HOME to a folder on another disk.",
        )


def _cached_or_raise(model: str, why: str, advice: str) -> Path:
    folder = cached(model)
    if folder is None:
        raise _not_reached(model, why, advice)
    return folder


def _not_reached(model: str, why: str, advice: str) -> CheckpointError:
    what = f"{model!r} is not in the cache, or not whole, and the hub could not be asked."
    return CheckpointError(what, why=f"{why.rstrip('.')}.", next_step=advice + _WHAT_HELPS + _sample_names() + ".")


def _refused(model: str, error: Exception) -> CheckpointError:
    """What the hub's answer means."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(
            f"{model!r} is neither a folder, a sample nor a hub id.",
            why=error_line(error),
            next_step=f"a hub id reads owner/name; samples: {_sample_names()}.",
        )
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return CheckpointError(
            f"the repository {model!r} is gated or closed to this account.",
            why=f"{endpoint()} answered {status or 403}: {error_line(error)}",
            next_step="accept its terms on its page, then set HF_TOKEN to a token of that account.",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return CheckpointError(
            f"the hub has no model {model!r}, or it is private.",
            why=f"{endpoint()} answered {status or 404}: {error_line(error)}",
            next_step=f"check the spelling; for a private one set HF_TOKEN. Samples: {_sample_names()}.",
        )
    if isinstance(error, OSError) and getattr(error, "errno", None) is not None:
        return CheckpointError(f"{model!r} could not be put into the cache.", why=error_line(error),
                               next_step="make room there, or set HF_HOME to a folder of yours.")  # fmt: skip
    why = f"{endpoint()} answered{f' {status}' if status else ''}: {error_line(error)}"
    return _not_reached(model, why, "try again later, or check HF_ENDPOINT; ")


def _is_unreachable(error: BaseException) -> bool:
    """Whether nobody answered. By the names of the classes: huggingface_hub has changed its HTTP library twice."""
    return bool(_NOBODY_ANSWERED & {kind.__name__ for kind in type(error).__mro__})


def _sample_names() -> str:
    from diag.loading import samples

    return ", ".join(samples.names())
