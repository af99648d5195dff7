"""Turns text as people paste it into plain lines, one stream per worker. Standard library only.

Undone here: JSON bodies and whole HTTP responses, VS Code's error JSON, notebook files, HTML pages, colour codes,
rich boxes, links around frames, full-width punctuation, quoting, and log prefixes (interleaved workers are split).
"""

import ast
import html
import json
import re

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ", 0x3002: ".", 0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0xA0: " ", 0x200B: "", 0xFEFF: "",
}  # fmt: skip
_ANSI = re.compile(
    r"(?:\x1b|\\x1b|\\u001b|\\033|\\e)\[[0-9;?]*[A-Za-z]"  # colours, also written out as an escape
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # terminal links
    r"|(?<!\w)\[(?:\d{1,3};){1,4}\d{1,3}m|(?<!\w)\[(?:0|1|3\d|4\d|9\d)m",  # the escape character was lost
    re.IGNORECASE,
)
_TAG = re.compile(
    r"</?(?:pre|span|div|a|p|code|html|body|head|title|h[1-6]|b|i|em|strong|table|tbody|thead|t[dhr]|[uo]l|li|font|hr|"
    r"meta|section|style|summary|details|!doctype)\b[^>]*>",
    re.IGNORECASE,
)
_LINK = re.compile(r"\[([^\]\n]+)\]\((?:https?|file|vscode-notebook-cell)://?[^)\n]*\)")
_BOX_SIDE = re.compile(r"^\s*[│┃║|]\s?(.*?)\s*[│┃║|]\s*$")
_BOX_EDGE = re.compile(r"[╭╮╰╯─━┏┓┗┛╔╗╚╝═]{3,}|^\s*\+-{3,}.*-{3,}\+\s*$")
_STAMP = r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?\]?"
_LEVEL = r"(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL|TRACE|stderr|stdout)"
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[(?P<who>(?:default|rank)\d+)\]:\s?",
        r"\[(?:rank|RANK)[ :=]?(?P<who>\d+)\]:?\s?",
        r"\[(?P<who>\d+,\d+)\]<std(?:err|out)>:\s?",
        r"\((?P<who>[^()\n]*pid=\d+[^()\n]*)\)\s?",
        r"(?P<who>(?:worker|rank|node|gpu|replica|proc|process|task|pod|container)[-_ ]?\d+[\w./-]*)\s*[|:>\]]\s?",
        r"(?P<who>[\w.-]+-\d+|[a-z][\w.-]*)\s+\| ",
        r"(?P<who>pod/\S+|\[pod/\S+\])\s",
        r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ (?P<who>[\w./-]+\[\d+\]):\s?",
        rf"{_STAMP}\s*(?:[-|:]\s*)?(?=\S|\s|$)",
        r"\[(?P<who>\d{2,7})\]\s(?:\[?" + _LEVEL + r"\]?\b\s?)?",
        rf"\[?\b{_LEVEL}\b\]?[ \t]*(?:[|:-]\s?(?:\s*[\w.]+(?::\w+)*:\d+\s*[-|:]\s?)?|(?=\s))",
        r"[EWIF]\d{4} \d\d:\d\d:\d\d\.\d+\s+(?P<who>\d+) [\w.]+:\d+\] ?",
        r"[-|] (?=\s*(?:File |Traceback|\w+Error))",
    )
)
_STAMPED = re.compile(rf"^{_STAMP}\s*(?:[-|:]\s*)?")
_QUOTE = re.compile(r"^(?:> ?)+")


def read_paste(text: str) -> tuple[tuple[str, ...], ...]:
    """The text as streams of plain lines, one per worker that wrote it; the longest trace does not come first.

    >>> read_paste('{"error": "Tensor on device cuda:0 is not on the expected device meta!"}')
    (('error', 'Tensor on device cuda:0 is not on the expected device meta!'),)
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_WIDE)
    text = _ANSI.sub("", _unfold_json(text))
    text = _plain_html(_LINK.sub(r"\1", text))
    lines = [_QUOTE.sub("", line) for line in text.split("\n")]
    return _split_workers(_open_boxes(lines))


def _plain_html(text: str) -> str:
    if re.search(r"&(?:#x?\w+|quot|lt|gt|amp|apos|nbsp);", text) or re.search(r"</(?:pre|span|div|p|body)>", text):
        text = re.sub(r"<br\s*/?>|</(?:p|div|li|tr|h\d)>", "\n", text, flags=re.IGNORECASE)
        text = html.unescape(_TAG.sub("", text)).translate(_WIDE)
    return text


# --- JSON -----------------------------------------------------------------------------------------------------


def _unfold_json(text: str) -> str:
    """Replaces every JSON object in the text by its strings, one after the other."""
    if "{" not in text:
        return _unescape(text)
    decoder, parts, position, found = json.JSONDecoder(strict=False), [], 0, False
    while (start := text.find("{", position)) >= 0:
        value, end = _decode(decoder, text, start)
        if end is None:
            parts.append(text[position : start + 1])
            position = start + 1
            continue
        parts += [text[position:start], "\n", "\n".join(_strings(value)), "\n"]
        position, found = end, True
    parts.append(text[position:])
    out = "".join(parts)
    return out.strip("\n") if found else _unescape(text)


def _decode(decoder: json.JSONDecoder, text: str, start: int) -> tuple[object, int | None]:
    try:
        value, end = decoder.raw_decode(text, start)
        return (value, end) if _holds_text(value) else (None, None)
    except (ValueError, RecursionError):
        pass
    stop = text.find("}", start)
    if text[start + 1 : start + 2] in ("'", '"') and 0 < stop < start + 20_000:  # a Python dict
        try:
            value = ast.literal_eval(text[start : stop + 1])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None, None
        if isinstance(value, dict) and _holds_text(value):
            return value, stop + 1
    return None, None


def _holds_text(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, (str, list, dict)) for item in value.values())


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [_from_repr(value)]
    if isinstance(value, list):
        joined = [item for item in value if isinstance(item, str)]
        if value and len(joined) == len(value):
            return ["".join(joined) if any(item.endswith("\n") for item in joined) else "\n".join(joined)]
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        return _strings_of_dict(value)
    return []


def _strings_of_dict(value: dict[str, object]) -> list[str]:
    """The strings in order; a name and its message become `name: message`, placed after the stack, as in Python."""
    texts = {key: item for key, item in value.items() if isinstance(item, str) and item.strip()}
    names = (texts.get(key, "") for key in ("name", "ename", "type", "exception", "error_type"))
    kind = next((name for name in names if re.fullmatch(r"[\w.]*(?:Error|Exception|Interrupt)", name.strip())), "")
    message = next((texts[key] for key in ("message", "evalue", "msg", "detail", "error") if key in texts), "")
    if kind and message:
        rest = [v for k, v in value.items() if v not in (kind, message) or k in ("stack", "traceback")]
        return [text for item in rest for text in _strings(item)] + [f"{kind}: {message}"]
    named = [(key, item) for key, item in value.items() if isinstance(item, (str, list, dict))]
    if len(named) == 1 and isinstance(named[0][1], str):
        return [named[0][0], *_strings(named[0][1])]
    return [text for _, item in named for text in _strings(item)]


def _from_repr(text: str) -> str:
    """`RuntimeError('message')` as `RuntimeError: message`."""
    match = re.fullmatch(r"\s*(\w+(?:Error|Exception))\((?:'(.*)'|\"(.*)\"),?\)\s*", text, re.DOTALL)
    return f"{match[1]}: {match[2] or match[3]}" if match else text


def _unescape(text: str) -> str:
    """Line breaks that were written out as backslash and n, as in a body that was cut."""
    if text.count("\\n") > max(2, text.count("\n")):
        return text.replace("\\r", "").replace("\\n", "\n").replace("\\t", "    ").replace('\\"', '"')
    return text


# --- boxes and prefixes ---------------------------------------------------------------------------------------


def _open_boxes(lines: list[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        while (side := _BOX_SIDE.match(line)) and len(line.strip()) > 2:
            line = side[1]
        is_edge = _BOX_EDGE.search(line)
        out.append(re.sub(r"[╭╮╰╯─━┏┓┗┛╔╗╚╝═+]|-{3,}", "", line).strip() if is_edge else line)
    return out


def _split_workers(lines: list[str]) -> tuple[tuple[str, ...], ...]:
    streams: dict[str, list[str]] = {}
    prefixed = _prefixes_in_use(lines)
    last = ""
    for line in lines:
        who, rest = _strip_prefixes(line, prefixed)
        last = who if who is not None else ("" if prefixed and line.strip() else last)
        streams.setdefault(last, []).append(rest.rstrip())
    kept = [tuple(stream) for stream in streams.values() if any(line.strip() for line in stream)]
    return tuple(kept) or ((),)


def _prefixes_in_use(lines: list[str]) -> tuple[re.Pattern[str], ...]:
    """The prefix patterns that this text uses; a pattern that hits a single line of many is no prefix."""
    pairs = [(line, _STAMPED.sub("", line)) for line in lines]
    least = 2 if len(lines) > 4 else 1
    hits = ((one, sum(bool(one.match(line) or one.match(bare)) for line, bare in pairs)) for one in _PREFIXES)
    return tuple(pattern for pattern, count in hits if count >= least)


def _strip_prefixes(line: str, patterns: tuple[re.Pattern[str], ...]) -> tuple[str | None, str]:
    who: str | None = None
    for _ in range(4):
        match = next((found for one in patterns if (found := one.match(line)) and found.end()), None)
        if match is None:
            break
        who = match.groupdict().get("who") or who
        line = line[match.end() :]
    return who, line
