"""A small HTTP server for files, which can cut answers short and refuse ranges."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` by name; the first answers end after ``cut`` bytes; ``ranges`` False: always the whole file."""

    def __init__(self, files, *, cut=(), ranges=True):
        self.ranges = []
        owner, cuts = self, list(cut)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                data = files.get(self.path.lstrip("/"))
                asked = self.headers.get("Range")
                owner.ranges.append(asked)
                if data is None:
                    return self.send_error(404)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges else 0
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start : start + cuts.pop(0)] if cuts else data[start:])

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def url(self, name):
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *args):
        self._server.shutdown()
        self._server.server_close()
