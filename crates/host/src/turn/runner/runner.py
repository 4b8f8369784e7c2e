# Calls a function of the agent's package with (message, context) for every turn.
#
# Descriptor 5 brings what the host says, 4 takes what the agent says: one JSON object a line. Standard output and error are the
# agent's log. The function may be plain, a generator, a coroutine or an asynchronous generator.
import asyncio
import importlib
import inspect
import json
import os
import queue
import sys
import threading
import traceback

TEXT_PART = 1_000_000
DETAIL = 4000

for descriptor in (4, 5):
    os.set_inheritable(descriptor, False)
to_host = os.fdopen(4, "w", encoding="utf-8", errors="replace", newline="\n")
from_host = os.fdopen(5, "r", encoding="utf-8", newline="\n")
speaking = threading.Lock()


def tell(**line):
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    with speaking:
        to_host.write(text + "\n")
        to_host.flush()


def as_blocks(content):
    """A string, a block or a list of both as the list of blocks that it stands for."""
    if isinstance(content, (str, dict)):
        content = [content]
    blocks = []
    for block in content:
        if isinstance(block, str):
            block = {"type": "text", "text": block}
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise TypeError(f"{block!r} is no content block: a block is a string or a dict with a 'type'")
        blocks.append(block)
    return blocks


class Message(dict):
    """The user's message: text, content (blocks), seq, turn; as items and as attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self):
        return self["text"]


class History(list):
    """Earlier messages. May be awaited, for functions that await everything."""

    def __await__(self):
        return self
        yield




class Context:
    """What a function may ask and say besides what it returns."""

    def __init__(self, hello, turn):
        self.agent = hello.get("agent")
        self.session = hello.get("session")
        self.instructions = hello.get("instructions")
        self.agents = hello.get("agents", [])
        self.package = sys.argv[2]
        self.turn = turn
        self._stop = threading.Event()
        self._replies = queue.Queue()
        self._task = None
        self._usage = None
        self._next = None

    @property
    def cancelled(self):
        """Whether the turn shall end. A function that does not within two seconds is killed."""
        return self._stop.is_set()

    def history(self):
        """The messages before this one: dicts of seq, role, agent, content and text, oldest first."""
        tell(type="history")
        messages = self._replies.get()
        for message in messages:
            message["text"] = text_of(message["content"])
            message.setdefault("agent", None)
        return History(Message(m) for m in messages)

    def text(self, text):
        """A part of the reply, shown at once."""
        text = str(text)
        for at in range(0, len(text), TEXT_PART):
            tell(type="text", text=text[at : at + TEXT_PART])

    def say(self, content):
        """A whole message: a string, a block or a list of them."""
        tell(type="message", content=as_blocks(content))

    def emit(self, name, data=None):
        """An event for whoever watches: progress, a tool call."""
        tell(type="event", name=str(name), data=data)

    def usage(self, input_tokens=0, output_tokens=0, cached_tokens=0, model=None, cost_usd=None):
        """Adds to what the turn used."""
        known = self._usage or {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0}
        known["input_tokens"] += input_tokens
        known["output_tokens"] += output_tokens
        known["cached_tokens"] += cached_tokens
        if model is not None:
            known["model"] = model
        if cost_usd is not None:
            known["cost_usd"] = known.get("cost_usd", 0.0) + cost_usd
        self._usage = known

    def hand_over(self, to, content=None):
        """Ends this agent's part: the named agent of the session goes on, with this content or with the user's message."""
        self._next = {"to": str(to)}
        if content is not None:
            self._next["content"] = as_blocks(content)


def text_of(content):
    return "\n".join(b["text"] for b in content if b.get("type") == "text")


def give(context, item):
    """One thing a function returned or yielded."""
    if item is None:
        return
    if isinstance(item, str):
        context.text(item)
    elif isinstance(item, dict):
        kind = item.get("type")
        if kind == "text" and isinstance(item.get("text"), str):
            context.text(item["text"])
        elif kind == "message":
            context.say(item.get("content", []))
        elif kind == "event":
            context.emit(item.get("name"), item.get("data"))
        else:
            context.say(item)
    elif isinstance(item, (list, tuple)):
        context.say(item)
    elif isinstance(getattr(item, "content", None), (str, list)):
        # Messages of the usual libraries.
        give(context, item.content)
    else:
        raise TypeError(f"an agent says text, blocks or events; {type(item).__name__} is none of them")


async def drain(context, result):
    if hasattr(result, "__aiter__"):
        async for item in result:
            give(context, item)
    else:
        give(context, await result)


def answer(loop, function, message, context):
    result = function(message, context)
    if hasattr(result, "__aiter__") or inspect.isawaitable(result):
        context._task = loop.create_task(drain(context, result))
        if context.cancelled:
            context._task.cancel()
        loop.run_until_complete(context._task)
    elif inspect.isgenerator(result):
        last = yield_all(context, result)
        give(context, last)
    else:
        give(context, result)


def yield_all(context, result):
    while not context.cancelled:
        try:
            item = next(result)
        except StopIteration as end:
            return end.value
        give(context, item)
    result.close()
    return None


def load(target):
    module, _, function = target.partition(":")
    importlib.invalidate_caches()
    found = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{target} is a {type(found).__name__}, and cannot be called")
    return found


def explain(error):
    """The error in a line, with where in the agent's own code it came from. The whole goes to the log."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != "wharf-runner"]
    frames = [f for f in frames if not f.filename.startswith("<frozen")]
    own = [f for f in frames if f.filename.startswith(sys.argv[2]) and ".venv" not in f.filename]
    at = (own or frames)[-1:]
    where = "".join(f" ({os.path.basename(f.filename)}:{f.lineno} in {f.name})" for f in at)
    return f"{type(error).__name__}: {error}"[:DETAIL] + where


class Runner:
    def __init__(self, target):
        self.target = target
        self.messages = queue.Queue()
        self.current = None
        self.changing = threading.Lock()
        self.loop = asyncio.new_event_loop()

    def listen(self):
        for line in from_host:
            said = json.loads(line)
            kind = said.get("type")
            if kind in ("hello", "message"):
                self.messages.put(said)
            elif kind == "history":
                with self.changing:
                    if self.current is not None:
                        self.current._replies.put(said["messages"])
            elif kind == "cancel":
                with self.changing:
                    if self.current is not None and self.current.turn == said["turn"]:
                        self.stop(self.current)
        self.messages.put(None)

    def stop(self, context):
        context._stop.set()
        if context._task is not None:
            self.loop.call_soon_threadsafe(context._task.cancel)

    def run(self):
        asyncio.set_event_loop(self.loop)
        threading.Thread(target=self.listen, daemon=True).start()
        hello = self.messages.get()
        function = None
        while hello is not None:
            said = self.messages.get()
            if said is None:
                return
            context = Context(hello, said["turn"])
            message = Message(
                text=text_of(said["content"]), content=said["content"], seq=said["seq"], turn=said["turn"]
            )
            with self.changing:
                self.current = context
            last = {}
            try:
                if function is None:
                    function = load(self.target)
                answer(self.loop, function, message, context)
                last = {"type": "done"}
                if context._next is not None:
                    last = {"type": "handover", **context._next}
            except BaseException as error:
                traceback.print_exc()
                last = {"type": "error", "detail": explain(error)}
            with self.changing:
                self.current = None
            if context._usage is not None:
                last["usage"] = context._usage
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError):
                    pass
            tell(**last)


sys.path[0] = sys.argv[2]
Runner(sys.argv[1]).run()
