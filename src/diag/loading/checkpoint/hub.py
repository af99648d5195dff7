"""A model on the Hugging Face hub: may it be read, what is missing in the cache, is there room. Seconds, not minutes.

Honours HF_ENDPOINT (mirrors), HF_HUB_OFFLINE, HF_TOKEN and the cache's place as huggingface_hub does.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.utils
from huggingface_hub import constants, errors, hf_hub_url, snapshot_download
from huggingface_hub.file_download import DryRunFileInfo

from diag.errors import CheckpointError
from diag.loading.checkpoint.files import SETTINGS, read_folder
from diag.loading.samples import names as sample_names
from diag.machine.folders import nearest_existing
from diag.values.text import error_line
from diag.values.units import format_seconds, format_size

SECONDS = 5.0  # for one question to the hub
_NOBODY_ANSWERED = {"TransportError", "ConnectionError", "TimeoutError", "Timeout", "OfflineModeIsEnabled"}
_SUBFOLDERS = "*/*"


@dataclass(frozen=True)
class Access:
    """What the hub and the cache say about one model.

    `folder` is the snapshot in the cache if it holds all that is needed, else None; then `files` with `nbytes` in all
    are to be downloaded. `note` is for people: that a cached copy stands in for a hub that could not be asked, say.
    """

    model: str
    folder: Path | None
    nbytes: int = 0
    note: str = ""
    files: tuple[str, ...] = ()


def look(model: str) -> Access:
    """Asks the hub, for at most 5 s a question, and the cache; downloads nothing but headers.

    Raises CheckpointError: no such model, gated, offline and not cached, not reachable and not cached, no room for it
    in the cache, or a cache that can't be written to.
    """
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Access(model, _cached_or_raise(model, "offline mode is on (HF_HUB_OFFLINE): the hub is not asked", ""))
    try:
        files = _needed_files(model)
    except CheckpointError:
        raise
    except Exception as e:
        if not _is_unreachable(e):
            raise _refused(model, e) from e
        why = f"{constants.ENDPOINT} did not answer within {format_seconds(SECONDS)}: {error_line(e)}"
        folder = _cached_or_raise(model, why, "check the network, the proxy and HF_ENDPOINT; ")
        return Access(model, folder, note=f"{why}. The copy in the cache is used.")
    missing = [file for file in files if file.will_download or not os.path.exists(file.local_path)]
    if not missing:
        return Access(model, Path(files[0].local_path).parent)
    nbytes = sum(file.file_size or 0 for file in missing)
    _check_room(model, nbytes, len(missing))
    return Access(model, None, nbytes, files=tuple(file.filename for file in files))


def fetch(model: str) -> Path:
    """The snapshot folder, downloaded where the cache does not hold it. Raises CheckpointError as `look` does."""
    access = look(model)
    if access.folder is not None:
        return access.folder
    try:
        return Path(snapshot_download(model, allow_patterns=list(access.files)))
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
        files = _needed_files(model)
        target = folder / files[0].commit_hash
        target.mkdir(parents=True)
        for file in files:
            _write_outline(model, file, target / file.filename)
    except CheckpointError:
        raise
    except Exception as e:
        raise (_not_reached(model, error_line(e), "try again; ") if _is_unreachable(e) else _refused(model, e)) from e
    return target


def _write_outline(model: str, file: DryRunFileInfo, target: Path) -> None:
    name, revision = file.filename, file.commit_hash
    if name.endswith(".bin"):
        what = f"{model!r} has its weights as {name}, whose contents are not known before it is downloaded."
        raise CheckpointError(what, next_step="run it without --plan, or download it first.")
    if not name.endswith(".safetensors"):
        shutil.copyfile(huggingface_hub.hf_hub_download(model, name, revision=revision), target)
        return
    length = int.from_bytes(_bytes_of(model, name, revision, 0, 8), "little")
    with target.open("wb") as out:
        out.write(length.to_bytes(8, "little") + _bytes_of(model, name, revision, 8, length))
        out.truncate(file.file_size or 0)


def _bytes_of(model: str, name: str, revision: str, start: int, count: int) -> bytes:
    """`count` bytes of a file from `start` on; also from a server that ignores the range and sends all of it."""
    url = hf_hub_url(model, name, revision=revision)
    headers = {**huggingface_hub.utils.build_hf_headers(), "Range": f"bytes={start}-{start + count - 1}"}
    answer = huggingface_hub.get_session().get(url, headers=headers, timeout=4 * SECONDS)
    answer.raise_for_status()
    data = answer.content
    return data if answer.status_code == 206 else data[start : start + count]


def cached(model: str) -> Path | None:
    """The newest whole copy in the cache; None where there is none or it is not complete."""
    try:  # without patterns, a copy that lacks a README is none for huggingface_hub 2
        found = snapshot_download(model, local_files_only=True, allow_patterns=[*SETTINGS], ignore_patterns=_SUBFOLDERS)
        folder = Path(found)
        read_folder(folder)
    except Exception:  # not cached, cut off half-way, or no valid id: in each case there is no copy to use
        return None
    return folder


def _needed_files(model: str) -> list[DryRunFileInfo]:
    """Settings, and the weights in the format that is read, each with its size and whether the cache holds it.

    The first two questions have a time limit, and show whether anybody answers and whether the files may be read: a
    gated repository shows its list to everybody. The dry run gets the commit, since by branch it would write to the
    cache.
    """
    info = huggingface_hub.HfApi().model_info(model, timeout=SECONDS)
    if any(file.rfilename == "config.json" for file in info.siblings or ()):
        config_url = hf_hub_url(model, "config.json", revision=info.sha)
        huggingface_hub.get_hf_file_metadata(config_url, timeout=SECONDS)
    files = snapshot_download(
        model,
        revision=info.sha,
        allow_patterns=[*SETTINGS, "*.safetensors", "*.bin"],
        ignore_patterns=_SUBFOLDERS,
        etag_timeout=SECONDS,
        tqdm_class=_NoBar,
        dry_run=True,
    )
    if not files:
        what = f"the repository {model!r} holds no model."
        next_step = "check its files on its page, and name the repository that holds config.json and weights."
        raise CheckpointError(what, why="neither settings nor weights are at its top level.", next_step=next_step)
    if any(file.filename.endswith(".safetensors") for file in files):
        files = [file for file in files if not file.filename.endswith(".bin")]
    return sorted(files, key=lambda file: file.filename)


class _NoBar(huggingface_hub.utils.tqdm):
    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "disable": True})


def _check_room(model: str, nbytes: int, count: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = nearest_existing(cache)
    if not os.access(there, os.W_OK):
        raise CheckpointError(
            f"{model!r} is not whole in the cache, and the cache {str(cache)!r} can't be written to.",
            why=f"{count} files with {format_size(nbytes)} are missing there.",
            next_step="set HF_HOME to a folder of yours, or have the model put into the cache.",
        )
    free = shutil.disk_usage(there).free
    if free < nbytes:
        what = f"there is no room for {model!r} in the cache {str(cache)!r}."
        why = f"{format_size(nbytes)} are to be downloaded, and {format_size(free)} are free on that disk."
        raise CheckpointError(what, why=why, next_step="make room there, or set HF_HOME to a folder on another disk.")


def _cached_or_raise(model: str, why: str, advice: str) -> Path:
    folder = cached(model)
    if folder is None:
        raise _not_reached(model, why, advice)
    return folder


def _not_reached(model: str, why: str, advice: str) -> CheckpointError:
    what = f"{model!r} is not in the cache, or not whole, and the hub could not be asked."
    helps = "copy the model here and name its folder, or use a sample, which works offline: "
    return CheckpointError(what, why=f"{why.rstrip('.')}.", next_step=f"{advice}{helps}{', '.join(sample_names())}.")


def _refused(model: str, error: Exception) -> CheckpointError:
    """What the hub's answer means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    why, known = error_line(error), ", ".join(sample_names())
    if isinstance(error, errors.HFValidationError):
        what = f"{model!r} is neither a folder, a sample nor a hub id."
        next_step = f"a hub id reads owner/name; samples: {known}."
    elif isinstance(error, errors.GatedRepoError) or status == 403:
        what, why = f"the repository {model!r} is gated or closed to this account.", _answered(status or 403, why)
        next_step = "accept its terms on its page, then set HF_TOKEN to a token of that account."
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        what, why = f"the hub has no model {model!r}, or it is private.", _answered(status or 404, why)
        next_step = f"check the spelling; for a private one set HF_TOKEN. Samples: {known}."
    elif isinstance(error, OSError) and getattr(error, "errno", None) is not None:
        what = f"{model!r} could not be put into the cache."
        next_step = "make room there, or set HF_HOME to a folder of yours."
    else:
        return _not_reached(model, _answered(status, why), "try again later, or check HF_ENDPOINT; ")
    return CheckpointError(what, why=why, next_step=next_step)


def _answered(status: int | None, line: str) -> str:
    return f"{constants.ENDPOINT} answered{f' {status}' if status else ''}: {line}"


def _is_unreachable(error: BaseException) -> bool:
    """Whether nobody answered. By the names of the classes: huggingface_hub has changed its HTTP library twice."""
    return bool(_NOBODY_ANSWERED & {kind.__name__ for kind in type(error).__mro__})
