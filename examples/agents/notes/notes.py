#!/usr/bin/env python3
"""Keeps notes, and reads them back. Speaks the Agent Client Protocol (version 1) on its standard streams."""

import json
import os
import sys
import threading
import uuid

FILE = os.path.expanduser("~/notes.txt")
writing = threading.Lock()
answers, asked = {}, threading.Condition()


def send(**message):
    with writing:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def ask(method, **params):
    """Asks the client and waits for its answer."""
    id = str(uuid.uuid4())
    send(id=id, method=method, params=params)
    with asked:
        asked.wait_for(lambda: id in answers)
        return answers.pop(id)


def update(session, what, **more):
    send(method="session/update", params={"sessionId": session, "update": {"sessionUpdate": what, **more}})


def read(session):
    answer = ask("fs/read_text_file", sessionId=session, path=FILE)
    return answer["result"]["content"] if "result" in answer else ""


def prompt(id, session, blocks):
    text = " ".join(b.get("text", "") for b in blocks if b["type"] == "text").strip()
    if text == "notes":
        reply = read(session) or "No notes yet."
    else:
        call = str(uuid.uuid4())
        update(session, "tool_call", toolCallId=call, title="Write a note", kind="edit", status="pending",
               rawInput={"note": text})
        options = [{"optionId": "yes", "name": "Write it", "kind": "allow_once"},
                   {"optionId": "no", "name": "Leave it", "kind": "reject_once"}]
        chosen = ask("session/request_permission", sessionId=session, toolCall={"toolCallId": call}, options=options)
        if chosen.get("result", {}).get("outcome", {}).get("optionId") == "yes":
            ask("fs/write_text_file", sessionId=session, path=FILE, content=read(session) + f"- {text}\n")
            update(session, "tool_call_update", toolCallId=call, status="completed")
            reply = "Noted."
        else:
            update(session, "tool_call_update", toolCallId=call, status="failed")
            reply = "Not noted."
    update(session, "agent_message_chunk", content={"type": "text", "text": reply})
    send(id=id, result={"stopReason": "end_turn"})


for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if method is None:
        with asked:
            answers[id] = message
            asked.notify_all()
    elif method == "initialize":
        send(id=id, result={"protocolVersion": 1, "agentCapabilities": {"loadSession": True}, "authMethods": []})
    elif method == "session/new":
        send(id=id, result={"sessionId": str(uuid.uuid4())})
    elif method == "session/load":
        # The notes are all that it remembers, and they are in the file.
        send(id=id, result=None)
    elif method == "session/prompt":
        threading.Thread(target=prompt, args=(id, params["sessionId"], params["prompt"]), daemon=True).start()
    elif id is not None:
        send(id=id, error={"code": -32601, "message": f"there is no method {method}"})
