"""Finds exceptions, their frames and the log around them in plain lines. Standard library only.

Understands Python's own traceback, old and new IPython and VS Code frames, rich, pytest, and a bare message.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_STD = re.compile(r'^\s*File ["\'](?P<file>.+?)["\'], line (?P<line>\d+)(?:, in (?P<func>.+?))?\s*$')
_IPYTHON = re.compile(r"^\s*File (?P<file>\S.*?):(?P<line>\d+)(?:, in (?P<func>[^(]+?)(?:\(.*)?)?\s*$")
_IPYTHON_OLD = re.compile(
    r"^\s*(?P<file>(?:[A-Za-z]:[\\/]|~|/|\./|<)[^\s:]*(?:\.py\w?|>)|[\w./\\-]+\.py)"
    r" in (?P<func><[^>]+>|[\w.]+)(?:\(.*)?\s*$"
)
_CELL = re.compile(r"^\s*(?:Cell |Input )?(?P<file>In ?\[\d+\])(?:, line (?P<line>\d+))?(?:, in (?P<func>.+?))?\s*$")
_RICH = re.compile(r"^\s*(?P<file>(?:[A-Za-z]:[\\/]|~|/|<)[^\s:]*):(?P<line>\d+) in (?P<func>[\w<>.]+)\s*$")
_RICH_OLD = re.compile(r"^\s*(?P<file>(?:[A-Za-z]:[\\/]|~|/)[^\s:]*\.py):(?P<func>[\w<>]+):(?P<line>\d+)\s*$")
_PYTEST = re.compile(
    r"^(?P<file>[\w./\\-]+\.py):(?P<line>\d+):(?: in (?P<func>\w+)| [A-Z]\w*(?:Error|Exception)?)?\s*$"
)
_FRAMES = (_STD, _IPYTHON, _CELL, _IPYTHON_OLD, _RICH, _RICH_OLD, _PYTEST)
_ARROW = re.compile(r"^\s*(?:-+>\s*\d*|❱\s*\d+|>)[\s│|]*(?P<code>.*)$")
_NUMBERED = re.compile(r"^\s*\d+\s*[│|]?\s?.*$")
_RAISED = re.compile(
    r"^(?:E\s+)?(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Unsupported|Exit|Iteration|Assert))"
    r"\s*:\s?(?P<message>.*)$"
)
_RAISED_BARE = re.compile(r"^(?:E\s+)?(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt))\s*$")
# An exception named in the middle of a log line.
_INLINE = re.compile(r"(?P<kind>\b[A-Z]\w*(?:Error|Exception))\s*(?::\s|\(['\"])(?P<message>.+)$")
_HEADER = re.compile(r"Traceback \((?:most recent call last|innermost last)\)")
_CHAIN = re.compile(r"The above exception was the direct cause|During handling of the above exception")
_RULE = re.compile(r"^\s*[-=_*^~]{3,}\s*$")


@dataclass(frozen=True)
class Frame:
    """One call of a traceback. `file` with forward slashes, `line` 0 when unknown, `code` the line that ran."""

    file: str
    line: int = 0
    function: str = ""
    code: str = ""

    @property
    def name(self) -> str:
        """The function without its class."""
        return self.function.rpartition(".")[2]

    def inside(self, *ends: str) -> bool:
        """Whether the file is one of these, named by the end of its path."""
        return any(self.file.endswith(end) for end in ends)


@dataclass(frozen=True)
class Raised:
    """An exception as text: its class name, message and frames, outermost first."""

    kind: str
    message: str
    frames: tuple[Frame, ...] = ()

    @property
    def name(self) -> str:
        return self.kind.rpartition(".")[2]


@dataclass(frozen=True)
class Report:
    """What one stream holds: exceptions in the order printed (the last is what ended it), and all its text."""

    raised: tuple[Raised, ...]
    text: str

    @property
    def last(self) -> Raised | None:
        return self.raised[-1] if self.raised else None

    @property
    def frames(self) -> tuple[Frame, ...]:
        return tuple(frame for item in self.raised for frame in item.frames)


def read_report(lines: Sequence[str]) -> Report:
    """Reads one stream of plain lines."""
    raised: list[Raised] = []
    frames: list[Frame] = []
    index, marked = 0, ""
    joined = _join_wrapped_frames(lines)
    while index < len(joined):
        line = joined[index]
        frame = _frame(line)
        if frame is not None and _PYTEST.match(line) and raised and not frames:
            raised[-1] = replace(raised[-1], frames=(*raised[-1].frames, replace(frame, code=marked)))
        elif frame is not None:
            frames.append(frame)
        elif _HEADER.search(line):
            frames = []
        elif (match := _raised(line, is_first=index == 0)) is not None:
            message, index = _message(joined, index, match.groupdict().get("message") or "")
            raised.append(Raised(match["kind"], message, tuple(frames)))
            frames = []
        elif frames:
            frames[-1] = _with_code(frames[-1], line)
        elif line.startswith(">") and (arrow := _ARROW.match(line)):
            marked = arrow["code"].strip()
        index += 1
    if not raised and (inline := next(filter(None, map(_INLINE.search, reversed(joined))), None)):
        message = inline["message"].strip().rstrip("'\")")
        raised = [Raised(inline["kind"], message, tuple(frames))]
    return Report(tuple(_without_repeats(raised)), "\n".join(joined))


def _frame(line: str) -> Frame | None:
    for pattern in _FRAMES:
        if match := pattern.match(line):
            values = match.groupdict()
            file = re.sub(r"\\+", "/", values["file"]).replace(" ", "")
            return Frame(file, int(values.get("line") or 0), (values.get("func") or "").strip())
    return None


def _raised(line: str, is_first: bool) -> re.Match[str] | None:
    stripped = line if line.startswith("    ") else line.strip()
    return _RAISED.match(stripped) or (None if is_first else _RAISED_BARE.match(stripped))


def _with_code(frame: Frame, line: str) -> Frame:
    """Adds the line of code: the marked one in IPython and rich, the first one after the frame in Python's own."""
    if arrow := _ARROW.match(line):
        return replace(frame, code=re.sub(r"^\d+\s+", "", arrow["code"]).strip())
    if frame.code or not line.strip() or _NUMBERED.match(line) or set(line.strip()) <= set("^~ "):
        return frame
    return replace(frame, code=line.strip()) if line.startswith("    ") else frame


def _message(lines: Sequence[str], index: int, first: str) -> tuple[str, int]:
    """The message with the lines that continue it; stops at a blank line, a frame or another exception."""
    parts = [first]
    while index + 1 < len(lines):
        line = lines[index + 1]
        text = re.sub(r"^E\s+", "", line)
        if not text.strip() or _frame(line) or _HEADER.search(line) or _CHAIN.search(line) or _RULE.match(line):
            if not text.strip() and not parts[-1].strip() and len(parts) == 1 and index + 2 < len(lines):
                index += 1
                continue
            break
        if _RAISED.match(text):
            break
        parts.append(text.strip())
        index += 1
        if len(parts) > 400:
            break
    return "\n".join(parts).strip(), index


def _without_repeats(raised: Sequence[Raised]) -> list[Raised]:
    """pytest and HTTP bodies print the last line twice; the one with frames is kept."""
    kept: dict[tuple[str, str], Raised] = {}
    for item in raised:
        before = kept.get((item.kind, item.message))
        if before is None or (item.frames and not before.frames):
            kept[item.kind, item.message] = item
    return list(kept.values())


def _join_wrapped_frames(lines: Sequence[str]) -> list[str]:
    """Joins a frame whose path was broken by a narrow terminal or box."""
    out: list[str] = []
    for line in lines:
        before = out[-1] if out else ""
        if out and _is_open_frame(before) and line.strip() and not _frame(line):
            glued, spaced = f"{before.rstrip()}{line.strip()}", f"{before.rstrip()} {line.strip()}"
            if _frame(glued) or _frame(spaced) or _is_open_frame(glued):
                out[-1] = spaced if _frame(spaced) and not _frame(glued) else glued
                continue
        out.append(line)
    return out


def _is_open_frame(line: str) -> bool:
    text = line.strip()
    if len(text) > 600 or _frame(line):
        return bool(re.match(r'^File "[^"]+", line \d+, in$', text))
    if re.match(r'^File "', text):
        return True
    is_path = re.match(r"^(?:~|/|[A-Za-z]:[\\/])[^\s:]+(?::\d*)?(?: i?n?)?$", text)
    return bool(is_path) and ("/" in text or "\\" in text)
