"""A server on this machine in the place of everybody who publishes files; it fails in every usual way."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` by path with query, text as a web page.

    ``faults`` are taken one for each request: a status such as ``"404"``, the bytes after which the answer ends,
    ``"cut"`` for half of them, or ``"wrong part"``; ``resumable`` False: always the whole file.
    """

    def __init__(self, files: dict[str, bytes | str] | None = None, *, faults=(), resumable: bool = True) -> None:
        self.files = files or {}
        self.faults: list[str | int] = list(faults)
        self.resumable = resumable
        self.asked: list[tuple[str, str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        """The ranges asked for, None for a whole file."""
        return [wanted for _, wanted in self.asked]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        fault = self.faults.pop(0) if self.faults else None
        content = self.files.get(request.path)
        if content is None or (isinstance(fault, str) and fault.isdigit()):
            request.send_error(int(fault or 404))
            return
        page = isinstance(content, str)
        content = content.encode() if isinstance(content, str) else content
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.resumable and not page else 0
        if start and start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            told = start + 1 if fault == "wrong part" else start
            request.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Type", "text/html; charset=utf-8" if page else "application/octet-stream")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        body = content[start:]
        end = fault if isinstance(fault, int) else len(body) // 2 if fault == "cut" else len(body)
        request.wfile.write(body[:end])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
