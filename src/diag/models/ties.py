"""Which names of a model stand for one tensor: by transformers' declaration, and by what its config asks for."""

from collections.abc import Iterable, Mapping

from torch import nn

from diag.models.entries import Entry
from diag.models.walk import OnFailure


def read_ties(
    parts: Iterable[tuple[str, nn.Module]], paths: Mapping[int, str], entries: Iterable[Entry], failed: OnFailure
) -> dict[str, str]:
    """Which name follows which in a model or the components of a bundle, under full names."""
    found: dict[str, str] = {}
    for prefix, part in parts:
        own = {key: path.removeprefix(prefix) for key, path in paths.items()} if prefix else paths
        names = (e.name.removeprefix(prefix) for e in entries if e.name.startswith(prefix))
        try:
            declared = declared_ties(part, own, names)
        except Exception as error:
            failed(f"what {type(part).__name__} declares tied", error)
            continue
        found |= {f"{prefix}{follower}": f"{prefix}{source}" for follower, source in declared.items()}
    return found


def embedding_path(root: nn.Module, paths: Mapping[int, str]) -> str | None:
    """The path of the input embedding; None for a model without one, or whose method raises, as with several."""
    try:
        return paths.get(id(embedding(root, "input")))
    except Exception:
        return None


def declared_ties(model: nn.Module, paths: Mapping[int, str], names: Iterable[str]) -> dict[str, str]:
    """Which name each tied name follows, as transformers declares it; empty where nothing is declared.

    `paths` are the modules' paths by id, `names` those of all tensors.
    """
    declared = getattr(model, "all_tied_weights_keys", None)
    return dict(declared) if isinstance(declared, Mapping) else _declared_in_version_4(model, paths, names)


def _declared_in_version_4(model: nn.Module, paths: Mapping[int, str], names: Iterable[str]) -> dict[str, str]:
    """transformers 4 lists the tied names only; all of them follow the input embedding."""
    listed = getattr(model, "_tied_weights_keys", None)
    if not isinstance(listed, (list, tuple)) or not hasattr(model, "get_input_embeddings"):
        return {}
    source, output = _weight_of(embedding(model, "input"), paths), _weight_of(embedding(model, "output"), paths)
    there = frozenset(names)
    tied_output = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    followers = [name for name in listed if name in there and name != source and (tied_output or name != output)]
    return dict.fromkeys(followers, source) if source else {}


def ties_of_config(model: nn.Module, paths: Mapping[int, str]) -> dict[str, str]:
    """The head and the embedding, where the config ties them; raises what the model's own methods raise."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    if not getattr(text, "tie_word_embeddings", False) or not hasattr(model, "get_output_embeddings"):
        return {}
    follower, source = _weight_of(embedding(model, "output"), paths), _weight_of(embedding(model, "input"), paths)
    return {follower: source} if follower and source else {}


def embedding(model: nn.Module, side: str) -> nn.Module | None:
    """The module that takes the tokens (`input`) or makes the logits (`output`), as the model's own method says.

    None for a model without such a method. Raises what the method raises: CLIP's raises NotImplementedError.
    """
    method = getattr(model, f"get_{side}_embeddings", None)
    found = method() if callable(method) else None
    return found if isinstance(found, nn.Module) else None


def _weight_of(module: nn.Module | None, paths: Mapping[int, str]) -> str:
    path = paths.get(id(module))
    return f"{path}.weight" if path else ""


def tied_groups(entries: Iterable[Entry], ties: Mapping[str, str]) -> dict[str, int]:
    """A number for each name; names of the same tensor, and names that `ties` declares tied, have the same.

    `data_ptr` is no help: it is 0 for every meta tensor. Quantization state follows no tie.
    """
    by_name = {entry.name: entry for entry in entries}
    numbers: dict[int, int] = {}
    groups = {}
    for name, entry in by_name.items():
        source = by_name.get(_root_of(name, ties), entry) if name in ties else entry
        groups[name] = numbers.setdefault(id(source.tensor), len(numbers))
    return groups


def _root_of(name: str, ties: Mapping[str, str]) -> str:
    """The last name that a tied name leads to."""
    seen = set()
    while name in ties and name not in seen:
        seen.add(name)
        name = ties[name]
    return name
