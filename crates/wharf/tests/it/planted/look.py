"""Which processes hold which words: in memory, environment and arguments, and in files only they see.

Reads {"pids": [...], "words": [...], "below": [...]} from stdin, answers {word: [where, ...]}. The words come by stdin and are
searched for in other processes only.
"""
import json, os, sys

asked = json.load(sys.stdin)
words = {word: word.encode() for word in asked["words"]}
found = {word: [] for word in words}
PIECE = 8 << 20
longest = max(map(len, words.values()))


def look(data, where):
    for word, needle in words.items():
        if needle in data and where not in found[word]:
            found[word].append(where)


def memory(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            at, end = (int(part, 16) for part in span.split("-"))
            while at < end:
                try:
                    data = os.pread(mem.fileno(), min(PIECE, end - at), at)
                except OSError:
                    break
                if not data:
                    break
                look(data, f"memory of {pid}")
                # A word may lie across two pieces.
                at += len(data) - (longest if len(data) == PIECE else 0)


for pid in asked["pids"]:
    try:
        memory(pid)
        for name in ["environ", "cmdline"]:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                look(file.read(), f"{name} of {pid}")
    except (FileNotFoundError, ProcessLookupError):
        continue
    for below in asked["below"]:
        for place, _, names in os.walk(f"/proc/{pid}/root{below}"):
            for path in (os.path.join(place, name) for name in names):
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        look(file.read(), path)
print(json.dumps(found))
