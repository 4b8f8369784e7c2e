"""What sessions of the tests reach: files, git over HTTP, an echo of requests and a WebSocket echo, in the clear and over TLS.

usage: beyond.py DIRECTORY CERTIFICATE KEY [PASSWORD [ADDRESS]]; prints its two ports. PASSWORD is robot's for /git/private.git.
At ADDRESS it listens as public registries do, on 80 and 443.

What says who asks is never sent back as it was, but as its SHA-256: /digest, and what the model at /model says.
"""
import base64, hashlib, http.server, json, os, ssl, subprocess, sys, threading

directory, certificate, key = sys.argv[1:4]
password = (sys.argv[4:] or ["let-me-in"])[0]


class Beyond(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args):
        super().__init__(*args, directory=directory)

    def log_message(self, *args):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, body, kind="text/plain", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/git/"):
            return self.git()
        if self.path.startswith("/echo"):
            seen = {"method": self.command, "path": self.path, "headers": dict(self.headers), "length": len(self.body())}
            return self.answer(200, json.dumps(seen).encode(), "application/json")
        if self.path == "/digest":
            return self.answer(200, self.digest().encode())
        if self.path == "/model/v1/chat/completions":
            self.body()
            message = {"role": "assistant", "content": self.digest()}
            said = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
                {"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}}
            return self.answer(200, json.dumps(said).encode(), "application/json")
        if self.path == "/ws":
            return self.websocket()
        return super().do_GET()

    do_POST = do_PUT = do_GET

    def digest(self):
        return hashlib.sha256(self.headers.get("Authorization", "").encode()).hexdigest()

    def git(self):
        expected = "Basic " + base64.b64encode(f"robot:{password}".encode()).decode()
        if self.path.startswith("/git/private.git") and self.headers.get("Authorization") != expected:
            return self.answer(401, b"who are you?", headers=[("WWW-Authenticate", 'Basic realm="git"')])
        path, _, query = self.path[len("/git"):].partition("?")
        body = self.body()
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": directory + "/git", "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1", "REMOTE_USER": "robot",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        out = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE, check=False).stdout
        head, _, content = out.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(fields.pop("Status", "200").split()[0])
        kind = fields.pop("Content-Type", "text/plain")
        self.answer(status, content, kind, fields.items())

    def websocket(self):
        told = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(told.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while len(head := self.rfile.read(2)) == 2:
            length = head[1] & 127
            mask, payload = self.rfile.read(4), self.rfile.read(length)
            said = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
            if head[0] & 15 == 8:
                return
            self.wfile.write(bytes([head[0], length]) + said)
            self.wfile.flush()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


def listen(address, port, is_secure):
    server = Server((address, port), Beyond)
    if is_secure:
        # The handshake is each connection's own thread's work.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


plain, secure = listen("127.0.0.1", 0, False), listen("127.0.0.1", 0, True)
registries = [listen(address, port, port == 443) for address in sys.argv[5:] for port in (80, 443)]
for server in [plain, *registries]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(plain.server_address[1], secure.server_address[1], flush=True)
secure.serve_forever()
