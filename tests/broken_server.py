"""An HTTP server on this machine that serves files well or badly, for tests of downloads."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """What is served, and what was asked for.

    Attributes:
        files: Content by path.
        etags: Version by path; without one there is none.
        break_off_after: Bytes of each answer's body after which the connection ends; None: all are sent.
        announced_length: The Content-Length of each answer, whatever it has; None: its length.
        redirect: Where each request is sent on to; None: nowhere.
        reason: What is said where there is no such file.
        announced_surplus: Bytes more than the body has, or, below 0, less, that are announced.
        ignores_range: Whether a range request is answered with the whole file.
        lies_about_range: Whether a range request is answered with another part than the one asked for.
        on_request: Called before each answer.
        requests: Path and Range header of each request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.break_off_after: int | None = None
        self.announced_surplus = 0
        self.announced_length: str | None = None
        self.redirect: str | None = None
        self.reason = "Not Found"
        self.ignores_range = False
        self.lies_about_range = False
        self.on_request: Callable[[], None] = lambda: None
        self.requests: list[tuple[str, str | None]] = []


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serves on a free port until the context is left."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, server)

        def log_message(self, *_: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    wanted = request.headers.get("Range")
    server.requests.append((request.path, wanted))
    server.on_request()
    if server.redirect is not None:
        request.send_response(302)
        request.send_header("Location", server.redirect)
        request.end_headers()
        return
    content = server.files.get(request.path)
    if content is None:
        request.send_error(404, server.reason)
        return
    etag = server.etags.get(request.path)
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
    is_same = etag is not None and request.headers.get("If-Range") == etag
    is_partial = bool(wanted) and is_same and not server.ignores_range
    if is_partial and start >= len(content):
        request.send_error(416)
        return
    body = content[start:] if is_partial else content
    request.send_response(206 if is_partial else 200)
    if is_partial:
        first = 0 if server.lies_about_range else start
        request.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
    if etag is not None:
        request.send_header("ETag", etag)
    length = str(len(body) + server.announced_surplus) if server.announced_length is None else server.announced_length
    request.send_header("Content-Length", length)
    request.end_headers()
    request.wfile.write(body if server.break_off_after is None else body[: server.break_off_after])
    request.close_connection = True
