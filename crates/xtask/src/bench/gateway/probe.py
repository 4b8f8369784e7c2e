"""Measures one thing a number of times; the same program asks directly and through the gateway.

usage: probe.py get|kept|bytes|stream URL PROXY|direct TIMES; prints a JSON list: milliseconds, or MiB a second for bytes.
"""
import http.client, json, socket, sys, time, urllib.parse

kind, url, proxy, times = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
parts = urllib.parse.urlsplit(url)
direct = proxy == "direct"


def connect():
    link = http.client.HTTPConnection(parts.netloc if direct else proxy, timeout=60)
    link.connect()
    link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def ask(link, suffix="", body=None):
    target = url if not direct else parts.path
    headers = {"Content-Type": "application/json", "Host": parts.netloc}
    link.request("POST" if body else "GET", target + suffix, body=body, headers=headers)
    answer = link.getresponse()
    if answer.status != 200:
        sys.exit(f"{answer.status}: {answer.read(2000)}")
    return answer


def milliseconds(since):
    return (time.monotonic_ns() - since) / 1e6


found = []
if kind == "get":
    for _ in range(times):
        since = time.monotonic_ns()
        link = connect()
        ask(link).read()
        found.append(milliseconds(since))
        link.close()
elif kind == "kept":
    link = connect()
    ask(link).read()
    for _ in range(times):
        since = time.monotonic_ns()
        ask(link).read()
        found.append(milliseconds(since))
elif kind == "bytes":
    link, block = connect(), bytearray(1 << 20)
    for _ in range(times):
        since, many = time.monotonic_ns(), 0
        answer = ask(link, "?mib=128")
        while got := answer.readinto(block):
            many += got
        found.append(many / (1 << 20) / (milliseconds(since) / 1e3))
elif kind == "stream":
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    for _ in range(times):
        for line in ask(connect(), body=body):
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and "content" in choices[0]["delta"]:
                    found.append(milliseconds(int(choices[0]["delta"]["content"])))
print(json.dumps(found))
