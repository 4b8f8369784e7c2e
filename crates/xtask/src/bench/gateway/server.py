"""What is measured against, with the gateway in between and without: small answers, large ones, and a model's stream.

Prints its port.
"""
import http.server, json, time

BLOCK = bytes(1 << 20)


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args):
        pass

    def do_GET(self):
        mib = int(self.path.rpartition("=")[2]) if self.path.startswith("/blob") else 0
        self.send_response(200)
        self.send_header("Content-Length", str(mib << 20 or 1024))
        self.end_headers()
        for _ in range(mib):
            self.wfile.write(BLOCK)
        if not mib:
            self.wfile.write(BLOCK[:1024])
        self.wfile.flush()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for n in range(100):
            time.sleep(0.005)
            choice = {"index": 0, "delta": {"content": str(time.monotonic_ns())}, "finish_reason": None}
            self.piece({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}
        self.piece({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [end]})
        self.piece({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def piece(self, value):
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Server)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
