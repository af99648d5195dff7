"""Takes secrets and home paths out of text and settings before they reach a file. Standard library only.

A secret is known by its shape (`hf_…`, `ghp_…`, a JSON web token), by the name beside it (`password=…`,
`"api_key": "…"`), or because this process's environment holds it. Names that only sound like one stay:
`token_ids`, `eos_token`, `past_key_values`, `tokenizer=…`, `token=None`, `token=self.token`.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

T = TypeVar("T")

REDACTED = "[redacted]"

_SHAPES = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
  | (?:(?<![A-Za-z0-9])|(?<=[0-9;\[]m))(?:              # also right after a colour code
        hf_(?=[A-Za-z]*[A-Z0-9])[A-Za-z0-9]{8,}(?![A-Za-z0-9_])     # hf_device_map and hf_quantizer stay
      | hf_[A-Za-z0-9]{16,}(?![A-Za-z0-9_]) | api_org_[A-Za-z0-9]{16,}
      | sk-(?=[A-Za-z0-9_-]{0,200}[0-9])[A-Za-z0-9_-]{12,}
      | gh[opsur]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[A-Za-z0-9_-]{16,}
      | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])
      | AIza[A-Za-z0-9_-]{30,} | ya29\.[A-Za-z0-9_-]{16,}
      | xox[abeoprs]-[A-Za-z0-9-]{10,} | npm_[A-Za-z0-9]{30,} | pypi-[A-Za-z0-9_-]{32,} | dckr_pat_[A-Za-z0-9_-]{16,}
      | (?:nvapi|gsk|r8|wandb_v1|lsv2_pt|pplx|tvly)[-_][A-Za-z0-9_-]{20,}
      | eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_URL = re.compile(r"(?<![A-Za-z0-9+.\-])([A-Za-z][A-Za-z0-9+.\-]{1,20}://)(?!git@)[^\s/'\"<>\\]{1,500}@")
_BEARER = re.compile(r"\b(Bearer\s+)(?=[^\s'\",]{0,200}[0-9]|[^\s'\",]{20})[A-Za-z0-9._~+/=\-]{6,}", re.IGNORECASE)
_HEADER = re.compile(
    r"""\b( (?:Proxy-)?Authorization\s*[:=]\s*
            (?=(?:Basic|Bearer|Token|Digest|Negotiate|ApiKey|AWS4\S*)\s+\w|\S*\d|\S{16})
          | (?:Set-)?Cookie\s*[:=]\s*(?=[^\s=;]{1,100}=) )
        [^\s"'\\][^\r\n"'\\}]*""",
    re.VERBOSE | re.IGNORECASE,
)
_OPTION = re.compile(r"(?<![\w\-])(--?[A-Za-z][\w\-]*)([ \t]+)(?![-=])([^\s'\"]+|\"[^\"]*\"|'[^']*')")
_QUOTE = r"""(?:\\?["']|&quot;|&\#(?:34|39|x22|x27);)"""
_NAME = re.compile(
    rf"""
    (?:(?<![\w.\-])|(?<=[0-9;\[]m))
    (-?-?[A-Za-z_][\w.\-]*)                    # the name, once from its start: a long blob is scanned once
    ({_QUOTE}?\]?[ \t]*(?:=>|:=|=|:)\s*)       # its sign, after a quote (escaped in JSON within JSON, or in HTML)
    """,
    re.VERBOSE,
)
_AFTER = re.compile(
    rf"""
    (?P<open>[bruf]?{_QUOTE})(?P<quoted>(?:(?!{_QUOTE})[^\r\n\\]|\\(?!["'])[^\r\n]){{0,20000}})
  | (?P<bare>[^\s&,;'"<>|\\\x1b]{{1,20000}})
    """,
    re.VERBOSE,
)

_ALWAYS = tuple("secret secrets password passwords passwd passphrase pwd credential credentials apikey".split())
_LAST = frozenset({"token", "key", "auth", "authorization", "cookie"})
_MAY_BE_PROSE = _LAST | {"secret", "secrets", "credential", "credentials"}
_KEY_KINDS = frozenset(
    """api access secret private account auth ssh encryption encrypt signing sign master license client app subscription
    service storage deploy hf wandb openai aws azure""".split()
)
_PARTS_OF_TEXT = frozenset(
    """pad eos bos unk sep cls mask image img video audio special start end begin stop next first last new current
    previous prev input output decoder additional boi eoi bot eot eod fim prefix suffix middle unexpected invalid each
    every per one single this that the a max min num top""".split()
)
_ONLY_ABOUT = frozenset("path file ids id type types count limit len length size name url uri endpoint sock".split())
_HARMLESS = frozenset("true false none null yes no on off nan 0 1 str int bool bytes any dict list object".split())
_CODE = re.compile(
    r"""[A-Za-z_][\w.]*[\(\[{].*                                       # a call or a subscript
      | (?:self|cls|os|kwargs|args|config|settings|cfg|environ)\.[\w.]+
      | (?:Optional|Union|Literal|Callable)\b.*
      | (?:\w+\s+)?\{[\w.!:\[\]'"()]*\}+
      | \$\{?[A-Z_][A-Z0-9_]*(?:[:\-].*)?\}? | <[^<>]*> | %\(?\w*\)?s | \[.* | [*.…xX_-]{1,20} | \(.* | =.*
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_BLOB = re.compile(r"[A-Za-z0-9+/=_\-]{16,}")

_SLASH = r"(?:\\\\|\\|/)"
_WINDOWS_HOME = re.compile(
    rf"""(?<![A-Za-z])[A-Za-z]:{_SLASH}Users{_SLASH}
    (?: [^\\/:*?"<>|\r\n]{{1,64}}(?={_SLASH}) | [^\s\\/:*?"'<>|,;)]{{1,64}} )""",
    re.VERBOSE | re.IGNORECASE,
)
_PATH_STARTS = r"(?:(?<=file://)|(?<![\w./\-~]))"
_POSIX_HOME = re.compile(
    rf"""{_PATH_STARTS}(?P<above>(?:/[\w.\-]{{1,64}}){{0,4}}?)/(?P<home>home|Users)/
    (?!<)[^\s/'":,;<>|)\]}}\\]+""",
    re.VERBOSE,
)
_ROOT = re.compile(rf"{_PATH_STARTS}/root(?![\w\-]|\.\w)")


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text without tokens, passwords, keys, credentials in addresses, and the user's home path.

    `environ` (this process's by default) tells which values are secret by the name of their variable. Doing it twice
    changes nothing more.

    >>> redact("GET https://me:pw@host/x?token=abc123 from /home/me/run.py, eos_token=</s>")
    'GET https://[redacted]@host/x?token=[redacted] from ~/run.py, eos_token=</s>'
    """
    for secret in _secrets_among(frozenset((os.environ if environ is None else environ).items())):
        text = text.replace(secret, REDACTED)
    text = _SHAPES.sub(REDACTED, text)
    text = _IN_URL.sub(rf"\1{REDACTED}@", text)
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    text = _OPTION.sub(_option, text)
    text = _hide_named(text)
    return redact_paths(text)


def redact_values(values: T, environ: Mapping[str, str] | None = None) -> T:
    """A copy of settings, nested mappings and sequences included, whose secrets are `[redacted]`; text is redacted.

    >>> redact_values({"HF_TOKEN": "anything", "token_ids": [3, 4], "url": "https://u:p@host"})
    {'HF_TOKEN': '[redacted]', 'token_ids': [3, 4], 'url': 'https://[redacted]@host'}
    """
    return cast(T, _copy(values, environ))


def _copy(values: object, environ: Mapping[str, str] | None) -> object:
    if isinstance(values, str):
        return redact(values, environ)
    if isinstance(values, Mapping):
        return {_copy(key, environ): _named_copy(key, value, environ) for key, value in values.items()}
    if isinstance(values, (list, tuple, set, frozenset)):
        kind = type(values) if type(values) in (list, tuple, set, frozenset) else list  # a named tuple takes no list
        return kind(_copy(value, environ) for value in values)
    return values


def _named_copy(key: object, value: object, environ: Mapping[str, str] | None) -> object:
    """A copy of what stands under `key`; below the name of a secret, everything that may be one is hidden."""
    if not isinstance(key, str) or value is None or isinstance(value, bool):
        return _copy(value, environ)
    if isinstance(value, (str, bytes, int, float)):
        return REDACTED if _hides(key, str(value)) else _copy(value, environ)
    if is_secret_name(key) and isinstance(value, Mapping):
        return {name: _named_copy(key, inner, environ) for name, inner in value.items()}
    if is_secret_name(key) and isinstance(value, (list, tuple, set, frozenset)):
        return [_named_copy(key, inner, environ) for inner in value]
    return _copy(value, environ)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret: `HF_TOKEN` and `apiKey` do, `token_ids` and `eos_token` don't."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(word.endswith(_ALWAYS) for word in words):
        return words[-1] not in _ONLY_ABOUT
    shouted = name.isupper()
    for before, word, after in zip(["", *words], words, [*words[1:], ""]):
        if word not in _LAST or (after and (not shouted or after in _ONLY_ABOUT)):
            continue
        if word == "token" and before in _PARTS_OF_TEXT:
            continue
        if word != "key" or shouted or before in _KEY_KINDS:
            return True
    return False


def redact_paths(text: str) -> str:
    """The text with the home folders of this and of other users written as `~`."""
    for home in _homes(os.path.expanduser("~"), os.environ.get("HOME", ""), os.environ.get("USERPROFILE", "")):
        text = home.sub("~", text)
    text = _WINDOWS_HOME.sub("~", text)
    text = _POSIX_HOME.sub(lambda m: f"{m['above']}/{m['home']}/<user>" if m["above"] else "~", text)
    return _ROOT.sub("~", text)


@lru_cache(maxsize=4)
def _homes(*named: str) -> tuple[re.Pattern[str], ...]:
    """This user's home as it is named, resolved, and written in JSON; the longest first."""
    found = {*named, *(os.path.realpath(home) for home in named if home)}
    found |= {home.replace("\\", "\\\\") for home in found}
    homes = sorted((home.rstrip("/\\") for home in found if len(home.strip("/\\~.")) >= 3), key=len, reverse=True)
    return tuple(re.compile(rf"(?<![\w.\-]){re.escape(home)}(?![\w.\-])") for home in homes)


@lru_cache(maxsize=4)
def _secrets_among(items: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    """Values that the environment itself calls secret, longest first; short and plain words would hit other text. Kept,
    because a page holds thousands of texts and the environment seldom changes between them."""
    found = {value for name, value in items if is_secret_name(name)}
    for name, value in items:
        if name.lower().endswith("_proxy") and "@" in value:
            with suppress(ValueError):
                password = urlsplit(value if "://" in value else f"//{value}").password or ""
                found |= {password, unquote(password)}
    return tuple(sorted((value for value in found if _is_telling(value)), key=len, reverse=True))


def _is_telling(value: str) -> bool:
    mixed = bool(re.search(r"\d", value)) or (value.lower() != value and value.upper() != value)
    return len(value) >= 8 and (mixed or len(value) >= 16) and not value.startswith(("/", "~", "./"))


def _option(match: re.Match[str]) -> str:
    option, gap, value = match.groups()
    inner = value.strip("\"'")
    if not _hides(option, inner) or _is_code(inner, inner == value):
        return match[0]
    return f"{option}{gap}{value.replace(inner, REDACTED)}"


def _hide_named(text: str) -> str:
    """Hides the values beside secret names. A value is looked at again as a name: `error: password=…`."""
    pieces, done = [], 0
    for head in _NAME.finditer(text):
        if head.end() < done or not _may_hide(head[1]) or not (after := _AFTER.match(text, head.end())):
            continue
        bare, name, sign = after["bare"] is not None, head[1], head[2]
        value = after["bare"].rstrip(")]}.`") if bare else after["quoted"]
        named = "=" in sign or sign.lstrip()[:1] != ":"  # name=…, or a quoted name: not prose
        if _hides(name, value) and (named or _stands_out(name, value)) and not _is_code(value, bare):
            start = head.end() + len(after["open"] or "")
            pieces += [text[done:start], REDACTED]
            done = start + len(value)
    return "".join([*pieces, text[done:]])


def _hides(name: str, value: str) -> bool:
    """Whether `value` under this name is a secret; any `…_key` may be one where the value looks random."""
    words = _WORD.findall(name)
    if value.lower() in _HARMLESS or not value or REDACTED in value or re.fullmatch(r"<[^<>]*>|\[[A-Z_]+\]", value):
        return False
    if words and words[-1].lower() == "token" and value.isdigit() and len(value) <= 6:
        return False  # the number of a token in a vocabulary
    looks_random = _BLOB.fullmatch(value) and re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    return is_secret_name(name) or (_may_hide(name) and bool(looks_random))


def _may_hide(name: str) -> bool:
    return is_secret_name(name) or name.lower().endswith("key")


def _stands_out(name: str, value: str) -> bool:
    """Prose has colons too: after a lone `token:` a plain word is a word."""
    lone = len(_WORD.findall(name)) == 1 and name.lower() in _MAY_BE_PROSE
    return not lone or bool(re.search(r"\d", value)) or len(value) >= 20


def _is_code(value: str, bare: bool) -> bool:
    plain = value.strip("${}")
    names_one = bare and plain.replace(".", "").replace("_", "").isalpha() and is_secret_name(plain)
    return names_one or bool(_CODE.fullmatch(value))
