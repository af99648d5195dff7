"""Prose for people: wrapped lines, sentences, lists, counts, text that is safe to print. Standard library only."""

import re
import textwrap
from collections.abc import Sequence

WIDTH = 100
# What is read or copied as one: quoted code, a call, an argument, a size or a time with its unit.
_TOGETHER = re.compile(r"`[^`\n]+`|[\w.]+\([^()\n]*\)|\w+='[^'\n]*'|\d (?:[KMGT]i)?B\b|\d (?:s|min)\b")
_HOLD = "\x00"
# C0 and C1 controls, DEL, bidirectional overrides and lone surrogates. A hostile or broken name that holds them could
# colour a terminal, turn text around, or make the file impossible to encode, so they are shown as escapes.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LIBRARIES = ("bitsandbytes", "accelerate", "transformers", "diffusers", "cuBLAS", "sentence-transformers")
_CODE = re.compile(r"\w[._:=]\w|\(")


def wrapped(text: str, label: str = "", *, indent: int | None = None, width: int = WIDTH) -> str:
    """`label` and `text`, its further lines indented (by default to below the text); names and calls are not broken.

    >>> print(wrapped("Load it again with from_pretrained(path, device_map=None).", "Fix:  ", width=40))
    Fix:  Load it again with
          from_pretrained(path, device_map=None).
    """
    hanging = " " * (len(label) if indent is None else indent)
    held = _TOGETHER.sub(lambda match: match[0].replace(" ", _HOLD), text)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
    lines: list[str] = []
    for part in held.split("\n"):
        wrapper.initial_indent = hanging if lines else label
        fits = len(wrapper.initial_indent) + len(part) <= width
        lines += [wrapper.initial_indent + part] if fits else wrapper.wrap(part)
    return "\n".join(lines).replace(_HOLD, " ")


def with_code(text: str, code: str, label: str = "") -> str:
    """Prose, then each line of code whole on a line of its own, ready to be copied."""
    indent = " " * len(label)
    lines = (f"{indent}{line}".rstrip() for line in code.splitlines())
    return "\n".join([wrapped(text, label), *lines])


def first_line(said: object) -> str:
    """The first line of a text or an error that is not blank; empty where there is none, and for None.

    >>> first_line(ValueError("\\n  no such file\\nin /tmp"))
    'no such file'
    """
    lines = "" if said is None else str(said)
    return next((line.strip() for line in lines.splitlines() if line.strip()), "")


def last_line(text: str) -> str:
    """The last line that is not blank; empty where there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def error_line(error: BaseException | None) -> str:
    """An error's class and the first line of its text, as `ValueError: too small`; empty for None."""
    if error is None:
        return ""
    text = first_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """The text with a capital and a full stop; names of code and of libraries stay as they are written.

    >>> sentence("a model was moved"), sentence("torch.compile traced the model"), sentence("")
    ('A model was moved.', 'torch.compile traced the model.', '')
    """
    text = text.strip()
    first = text.partition(" ")[0]
    if not (first.removesuffix("'s") in _LIBRARIES or _CODE.search(first)):
        text = capital(text)
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def count_text(count: int, noun: str) -> str:
    """`1 tensor`, `3 tensors`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def list_text(items: Sequence[str]) -> str:
    """`auto, cpu and disk`."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def visible(text: object) -> str:
    r"""Text whose control characters are written out instead of acting.

    >>> visible("red \x1b[31mname\x1b[0m")
    'red \\x1b[31mname\\x1b[0m'
    """
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], str(text))
