"""The same content as HTML and as text: escaping, tables, notices, pages. Nothing here names an outside resource."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape as escape_html
from importlib import resources
from typing import Any

from diag.values.redact import redact

# C0 and C1 controls, DEL, bidirectional overrides and lone surrogates: shown as escapes, so that a hostile or broken
# name can neither colour a terminal, turn text around, nor make the file impossible to encode.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT, _LINE = 24, 60  # characters of a word that fits a cell on a phone, and a line elsewhere
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class View:
    """A piece of output: HTML for notebooks and the report, text for terminals and for those who can't see it.

    `data` are further mime types with their values, for programs that read the notebook afterwards.

    >>> View("<b>2</b> rows", "2 rows")
    2 rows
    """

    html: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        return {**self.data, "text/html": fragment(self.html), "text/plain": self.text}

    def __add__(self, other: View) -> View:
        return View(f"{self.html}\n{other.html}", f"{self.text}\n\n{other.text}", {**self.data, **other.data})


def visible(text: object) -> str:
    r"""Text whose control characters are written out instead of acting.

    >>> visible("red \x1b[31mname\x1b[0m")
    'red \\x1b[31mname\\x1b[0m'
    """
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def escape(text: object) -> str:
    """Text for use inside HTML, attributes included; secrets and home paths are taken out while it is still text.

    >>> escape('<img src="x">')
    '&lt;img src=&quot;x&quot;&gt;'
    """
    return escape_html(visible(redact(str(text))), quote=True)


def tag(name: str, content: str = "", **attributes: object) -> str:
    """One element; `content` is HTML already, attribute values are escaped here (`class_`, `aria_label`, …).

    >>> tag("td", "4", class_="number", data_label="load <s>")
    '<td class="number" data-label="load &lt;s&gt;">4</td>'
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{pairs}>{content}</{name}>"


def breakable(text: object) -> str:
    """Escaped text whose long words break after the separators of paths, module names and JSON, where they must.

    A word that fits a line stays whole on it (`whole` in the style sheet); one longer than any cell breaks freely.

    >>> breakable("device_map of transformers/quantizers/base.py")
    'device_map of <span class="whole">transformers/<wbr>quantizers/<wbr>base.<wbr>py</span>'
    """
    return "".join(map(_word, re.split(r"(\s+)", visible(redact(str(text))))))


def _word(word: str) -> str:
    if len(word) <= _SHORT:
        return _escaped(word)
    parts = [_escaped(part) for part in re.split(r"(?<=[/._,:])(?=.)", word)]
    content = "<wbr>".join(parts)
    return tag("span", content, class_="whole") if len(word) <= _LINE else content


def _escaped(text: str) -> str:
    return escape_html(text, quote=True).replace("&#x27;", "'")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, cards: bool = True) -> str:
    """A table whose cells are HTML already and whose first column names its row.

    On a narrow screen it folds into one card a row (`cards`) or scrolls inside its own box, never the page.
    """
    head = "".join(tag("th", escape(name), scope="col") for name in columns)
    body = "".join(
        tag("tr", "".join(_cell(i, name, value) for i, (name, value) in enumerate(zip(columns, row)))) for row in rows
    )
    content = tag("caption", escape(caption)) + tag("thead", tag("tr", head)) + tag("tbody", body)
    grid = tag("table", content, class_="cards" if cards else None)
    return tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(position: int, name: str, value: str) -> str:
    return (
        tag("th", value, scope="row")
        if position == 0
        else tag("td", tag("div", value) if value else "", data_label=name)
    )


def notice(tone: str, title: str, paragraphs: Iterable[str]) -> str:
    """A framed message; `tone` is `bad`, `warn` or `good`, and never the only thing that tells them apart."""
    body = tag("strong", escape(title)) + "".join(tag("p", paragraph) for paragraph in paragraphs)
    return tag("div", body, class_=f"notice {tone}", role="alert" if tone == "bad" else "note")


@cache
def style() -> str:
    """The style sheet of every view."""
    return resources.files("diag.views").joinpath("style.css").read_text(encoding="utf-8")


def style_tag() -> str:
    return f'<style class="diag-style">{style()}</style>'


def fragment(content: str) -> str:
    """A view for a notebook's output area, with its style sheet."""
    return f'{style_tag()}<div class="diag">{content}</div>'


def page(title: str, content: str) -> str:
    """A whole document that needs no network: the policy in its head forbids the browser to fetch or run anything."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n{style_tag()}\n</head>\n"
        f'<body class="diag page">\n<main>\n{content.replace(style_tag(), "")}\n</main>\n</body>\n</html>\n'
    )
