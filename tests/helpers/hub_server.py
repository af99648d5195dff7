"""A real server on this machine that plays the hub for one repository, `team/model`."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as the repository `team/model`; `says` overrides with a status and headers."""

    daemon_threads = True

    def __init__(self, folder=None, says=None):
        self.folder, self.says, self.asked, self.sent = folder, says, [], 0
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        self.server.asked.append(self.path)
        if self.server.says is not None:
            status, headers = self.server.says
            return self._send(status, b'{"error": "no"}', headers, body)
        if self.path.startswith("/api/models/team/model"):
            files = [{"rfilename": p.name, "size": p.stat().st_size} for p in sorted(self.server.folder.iterdir())]
            files += [{"rfilename": name, "size": 9} for name in ("README.md", "onnx/model.bin")]  # not asked for
            info = {"id": "team/model", "sha": SHA, "siblings": files, "private": False, "tags": [], "downloads": 0}
            tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": f["rfilename"]} for f in files]
            return self._send(200, json.dumps(tree if "/tree/" in self.path else info).encode(), {}, body)
        file = self.server.folder / self.path.rsplit("/", 1)[-1]
        if "/resolve/" in self.path and file.is_file():
            return self._send_file(file, {"ETag": f'"{file.name}"', "X-Repo-Commit": SHA}, body)
        return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)

    def _send_file(self, file, headers, body):
        data, wanted = file.read_bytes(), self.headers.get("Range")
        if wanted is None:
            return self._send(200, data, headers, body)
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end or len(data)) + 1]
        self.server.sent += len(part)
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
        return self._send(206, part, headers, body)

    def _send(self, status, data, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
