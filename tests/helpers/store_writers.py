"""Programs for test_store: a writer that saves until it is stopped, run in processes of their own."""

import sys
import time

from diag.sweep.results.store import Store


def save_forever(path: str, name: str, pause: str = "0") -> None:
    """Save row after row, print each key once it is saved, and rest for `pause` seconds between two."""
    with Store(path) as store:
        number = 0
        while True:
            key = f"{name}-{number}"
            store.save(key, {"writer": name, "number": number}, {"status": "ok", "text": "x" * 20_000}, None, {})
            print(key, flush=True)
            number += 1
            time.sleep(float(pause))


def save_some(path: str, name: str, count: str) -> None:
    with Store(path) as store:
        for number in range(int(count)):
            store.save(f"{name}-{number}", {"writer": name, "number": number}, {"status": "ok"}, None, {})


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
