"""A page of another origin in Chromium, without a window; the page is `browser.html`."""

import os
import subprocess
import sys
import tempfile
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PAGE = Path(__file__).with_name("browser.html").read_bytes()
COMMAND = (
    *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking"),
)


class Page(BaseHTTPRequestHandler):
    """Serves the page, and prints what it says."""

    def do_GET(self) -> None:
        self._answer(200 if self.path.startswith("/?") else 404, PAGE)

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(line, flush=True)
        self._answer(200, b"")
        self.server.over = line != "first"  # type: ignore[attr-defined]

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


task, url, key = sys.argv[1:]
with HTTPServer(("127.0.0.1", 0), Page) as server, tempfile.TemporaryDirectory() as folder:
    server.over = False  # type: ignore[attr-defined]
    query = urllib.parse.urlencode({"task": task, "url": url, "key": key, "bias": os.environ["BIAS"]})
    page = f"http://localhost:{server.server_port}/?{query}"
    quiet = subprocess.DEVNULL
    child = subprocess.Popen((*COMMAND, f"--user-data-dir={folder}", page), stdout=quiet, stderr=quiet)
    try:
        while not server.over:  # type: ignore[attr-defined]
            server.handle_request()
    finally:
        child.terminate()
        child.wait()
