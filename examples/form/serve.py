"""Serves the form, and keeps what it sends in sent.json. A file `opened` is there once somebody has fetched it."""

import http.server
import pathlib

HERE = pathlib.Path(__file__).resolve().parent


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/"
        self.send_response(200 if known else 404)
        self.send_header("content-type", "text/html")
        self.end_headers()
        if known:
            (HERE / "opened").touch()
            self.wfile.write((HERE / "page.html").read_bytes())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        (HERE / "sent.json").write_bytes(body)
        self.send_response(204)
        self.end_headers()


http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
