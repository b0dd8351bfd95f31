"""The built site on 127.0.0.1, for a browser on the same machine."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.errors import UserError

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files of the site, nothing else: no listings, no log lines, nothing kept by the browser."""

    def list_directory(self, path: object) -> None:
        """Answer a folder without an index as not found."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """A rebuilt site shows at once."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


def make_server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of ``site`` on 127.0.0.1, not yet answering; port 0 takes a free one. ``UserError`` when it is taken."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port: expected 0 to 65535, got {port}")
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(site)))
    except OSError as error:
        raise UserError(f"port {port} on {HOST}: {error.strerror or error}; choose another with --port") from None
