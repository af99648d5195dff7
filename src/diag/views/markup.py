"""A piece of output as HTML and as text. All HTML comes from the templates in `templates/`.

The templates escape whatever they are given. What they print was redacted before, and its control characters were
written out. No template names an outside resource.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup
from markupsafe import escape as escape_markup

from diag.values.redact import redact
from diag.values.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG_WORD = re.compile(r"(\S{25,})")  # 24 characters fit a cell on a phone
_LINE = 60  # characters that fit a line elsewhere
_SEPARATOR = re.compile(r"(?<=[/._,:])(?=.)")


@dataclass(frozen=True)
class View:
    """A piece of output: HTML for notebooks and the report, text for terminals and for those who can't see it.

    `data` are further mime types with their values, for programs that read the notebook afterwards.
    """

    html: Markup
    text: str
    data: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        return {**self.data, "text/html": fragment(self.html), "text/plain": self.text}

    def __add__(self, other: View) -> View:
        html = Markup("\n").join((self.html, other.html))
        return View(html, f"{self.text}\n\n{other.text}", {**self.data, **other.data})


def render(template: str, /, **values: object) -> Markup:
    """The HTML of a template in `templates/`, named by its path there without the ending.

    Every value is redacted, made visible and escaped where the template prints it, unless it is HTML already (Markup).
    """
    return Markup(_environment().get_template(f"{template}.html.j2").render(values))


def fragment(content: Markup) -> str:
    """A view for a notebook's output area, with its style sheet."""
    return str(render("fragment", content=content))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__package__ or "", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["long_words"] = _long_words
    return environment


def _shown(value: object) -> object:
    """What a template prints of a value: HTML as it is, anything else as redacted text."""
    return value if isinstance(value, Markup) else visible(redact(str(value)))


def _long_words(text: object) -> Iterator[tuple[list[Markup], bool]]:
    """The text in pieces: the places where each may break, and whether it stays whole on a line that has room."""
    if isinstance(text, Markup):
        yield [text], False
        return
    for number, piece in enumerate(_LONG_WORD.split(visible(redact(str(text))))):
        parts = _SEPARATOR.split(piece) if number % 2 else [piece]
        yield [escape_markup(part) for part in parts], number % 2 == 1 and len(piece) <= _LINE
