import re

from graph import END, Graph

graph = Graph()
BERTHS = {"barge": 2, "tanker": 5, "ferry": 1}


@graph.node("read", then="sort")
def read(state):
    words = re.findall(r"[a-z]+", state["text"].lower())
    return {"words": words, "ship": next((w for w in words if w in BERTHS), None)}


@graph.node("sort", then=lambda state: state["kind"])
def sort(state):
    urgent = {"fire", "leak", "sinking"} & set(state["words"])
    return {"kind": "alarm" if urgent else "berth" if state["ship"] else "ask"}


@graph.node("alarm", then=END)
def alarm(state):
    return {"reply": "Alarm: help is on its way."}


@graph.node("berth", then=END)
def berth(state):
    return {"reply": f"The {state['ship']} goes to berth {BERTHS[state['ship']]}."}


@graph.node("ask", then=END)
def ask(state):
    before = f" You said {len(state['before'])} things before." if state["before"] else ""
    return {"reply": f"Which ship is it: {', '.join(BERTHS)}?{before}"}


def answer(message, context):
    before = [m for m in context.history() if m.role == "user"]
    for step, state in graph.run("read", {"text": message.text, "before": before}):
        context.emit("step", {"name": step})
    return state["reply"]
