"""What a page would fetch or run; a report must fetch nothing."""

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects everything on a page that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, name, attributes):
        self.found += [name] if name in ("script", "iframe", "link", "object", "embed", "base", "form") else []
        self.found += [key for key, _ in attributes if key.startswith("on")]
        self.found += [value for key, value in attributes if key in ("src", "srcset") and not value.startswith("data:")]
        self.found += [value for key, value in attributes if key == "style" and "url(" in value]

    def handle_data(self, data):
        self.found += re.findall(r"@import.*|url\(.*", data) if self.lasttag == "style" else []


def outside_resources(html: str) -> list[str]:
    reader = Reader()
    reader.feed(html)
    return reader.found
