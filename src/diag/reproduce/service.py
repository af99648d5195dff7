"""A small HTTP service that loads by DEVICE_MAP and QUANTIZE and can make the known mistakes. Loopback only.

It shows the reported error where it happened: the owner of a service sees a 500 from uvicorn and its body, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diag.errors import DiagError, SpecError
from diag.values.spec import LoadSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# `hooks-lost` and `calls-at-once` give the reported text; `inputs-to-model-device`, blamed first, gives another one.
MISTAKES = {
    "none": "it answers correctly",
    "inputs-to-model-device": "inputs go to model.device, which is meta where the embedding is offloaded",
    "hooks-lost": "the hooks that bring offloaded weights in are taken off after loading",
    "calls-at-once": "requests are not queued, so that overlapping calls share one offloaded model's hooks",
}
_NEW_TOKENS = 4
_MOST_BYTES = 65_536  # of a request's body

Message = dict[str, Any]  # as ASGI has it
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Response:
    """What the service answered: status and JSON body; `text` is the body as it came over the socket."""

    status: int
    body: Mapping[str, object]
    text: str


class Service:
    """An ASGI application: `GET /health`, `POST /generate` with `{"ids": [1, 2]}`.

    The model is loaded once, in the background, when the server starts; until it is loaded every request gets 503.
    `mistake` is one of `MISTAKES`; `values` are further fields of the LoadSpec. Raises SpecError for a DEVICE_MAP,
    QUANTIZE or mistake that does not exist.
    """

    def __init__(
        self, model: str = "tiny", environ: Mapping[str, str] = os.environ, mistake: str = "none", **values: object
    ) -> None:
        if mistake not in MISTAKES:
            raise SpecError(f"mistake={mistake!r} is not valid.", next_step=f"use one of: {', '.join(MISTAKES)}.")
        self.spec = LoadSpec.from_env(model, environ, **values)
        self.mistake = mistake
        self.model: PreTrainedModel | None = None
        self.problem: BaseException | None = None
        self._started = threading.Event()
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Loads the model; a second call does nothing."""
        with self._one_at_a_time:
            if self._started.is_set():
                return
            try:
                self.model = self._load()
            except Exception as error:
                self.problem = error
            self._started.set()

    def _load(self) -> PreTrainedModel:
        from diag.loading.recipe import load

        outcome = load(self.spec)
        if outcome.error is not None:
            raise outcome.error
        if self.mistake == "hooks-lost":
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(outcome.model, recurse=True)
        return outcome.model

    @property
    def status(self) -> str:
        if not self._started.is_set():
            return "loading"
        return "failed" if self.problem is not None else "ready"

    def generate(self, ids: Sequence[int]) -> list[int]:
        """The next token ids, greedily."""
        import torch

        from diag.models.devices import input_device

        assert self.model is not None, "requests are refused until the model is loaded"
        device = self.model.device if self.mistake == "inputs-to-model-device" else input_device(self.model)
        inputs = torch.tensor([list(ids)]).to(device)
        alone = contextlib.nullcontext() if self.mistake == "calls-at-once" else self._one_at_a_time
        with alone, torch.no_grad():
            greedily = {"max_new_tokens": _NEW_TOKENS, "do_sample": False, "attention_mask": inputs != -1}
            out = self.model.generate(inputs, **greedily)  # type: ignore[operator]
        return out[0, len(ids) :].tolist()

    async def __call__(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            status, body = await self._respond(scope, receive)
            data = json.dumps(body).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
            headers += [(b"retry-after", b"1")] if status == 503 else []
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": data})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                threading.Thread(target=self.start, daemon=True).start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: Mapping[str, object], receive: Receive) -> tuple[int, Message]:
        if scope["path"] == "/health":
            settings = {"device_map": self.spec.device_map_text, "quantize": self.spec.quantization}
            return 200, {"status": self.status, **settings}
        if scope["path"] != "/generate" or scope["method"] != "POST":
            return 404, {"error": "this service has GET /health and POST /generate"}
        if self.status == "loading":
            return 503, {"error": "the model is still loading; try again in a moment"}
        if self.problem is not None:
            return 503, {"error": f"the model could not be loaded: {self.problem}"}
        ids = _ids(await _body(receive))
        if ids is None:
            return 422, {"error": 'send {"ids": [1, 2, 3]}: 1 to 128 whole numbers from 0 to 499'}
        return await asyncio.to_thread(self._answer, ids)

    def _answer(self, ids: Sequence[int]) -> tuple[int, Message]:
        from diag.diagnosis.mending.fixes import explain_exception

        try:
            return 200, {"ids": self.generate(ids)}
        except Exception as error:  # as many services do: the client gets the text, the log gets the cause
            explain_exception(error, self.model)
            return 500, {"error": str(error)}


async def _body(receive: Receive) -> bytes:
    data = b""
    while True:
        message = await receive()
        part = message.get("body")
        data += part if isinstance(part, bytes) else b""
        if not message.get("more_body") or len(data) > _MOST_BYTES:
            return data[:_MOST_BYTES]


def _ids(data: bytes) -> list[int] | None:
    try:
        ids = json.loads(data)["ids"]
    except (ValueError, KeyError, TypeError):
        return None
    is_valid = isinstance(ids, list) and 0 < len(ids) <= 128 and all(type(i) is int and 0 <= i < 500 for i in ids)
    return ids if is_valid else None


@contextlib.contextmanager
def serving(service: Service, *, port: int = 0) -> Iterator[str]:
    """Runs the service on 127.0.0.1 in a thread and yields its address; stops it at the end.

    `port` 0 takes a free one; requests get 503 until loading is over. Raises DiagError without uvicorn, or when the
    server does not come up.
    """
    try:
        import uvicorn
    except ImportError as e:
        raise DiagError("the service needs uvicorn.", why=str(e), next_step="pip install uvicorn.") from e
    server = uvicorn.Server(uvicorn.Config(service, host="127.0.0.1", port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise DiagError("the server did not come up.", next_step="choose another port, or port=0 for a free one.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def ask(url: str, ids: Sequence[int] = (5, 17, 42), *, patience: float = 120) -> Response:
    """POSTs to `/generate`; while the answer is 503 it tries again for `patience` seconds (0: once)."""
    deadline = time.monotonic() + patience
    while True:
        answer = _post(f"{url}/generate", {"ids": list(ids)})
        if answer.status != 503 or time.monotonic() >= deadline:
            return answer
        time.sleep(0.05)


def _post(url: str, value: object) -> Response:
    request = urllib.request.Request(url, json.dumps(value).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    return Response(status, json.loads(text), text)


def run_service(model: str, *, port: int, mistake: str) -> None:
    """Serves on 127.0.0.1 until it is interrupted, and says where. Raises DiagError as `Service` and `serving` do."""
    with contextlib.suppress(KeyboardInterrupt), serving(Service(model, mistake=mistake), port=port) as url:
        print(f'Serving on {url}: GET /health, POST /generate with {{"ids": [5, 17, 42]}}. Ctrl-C ends it.', flush=True)
        threading.Event().wait()
