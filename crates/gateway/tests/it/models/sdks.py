"""The vendors' own libraries, as a program inside a session uses them: a base URL, a dummy key, and the proxy of the
environment. Prints `ok NAME` for each story; any other end is a failure."""

import sys

import anthropic
import openai


def claude(provider, **options):
    return anthropic.Anthropic(base_url=f"http://gateway/{provider}", api_key="dummy", **options)


def gpt(provider, **options):
    return openai.OpenAI(base_url=f"http://gateway/{provider}/v1", api_key="dummy", **options)


HI = [{"role": "user", "content": "Hi"}]
TOOL = {
    "name": "bash",
    "description": "runs a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
}
FUNCTION = {
    "type": "function",
    "function": {"name": "bash", "description": "runs a command", "parameters": TOOL["input_schema"]},
}


def anthropic_whole():
    message = claude("anthropic").messages.create(model="claude-x", max_tokens=50, messages=HI)
    assert message.content[0].text == "Hello, you there", message
    assert message.usage.output_tokens == 15, message.usage


def anthropic_stream():
    with claude("anthropic").messages.stream(model="claude-x", max_tokens=50, messages=HI) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "Hello, you there", text
    assert final.stop_reason == "end_turn" and final.usage.cache_read_input_tokens == 100, final


def anthropic_error():
    try:
        claude("anthropic").messages.create(model="refused", max_tokens=50, messages=HI)
    except anthropic.BadRequestError as e:
        assert "no such model" in str(e), e
    else:
        raise AssertionError("no error")


def anthropic_budget():
    try:
        claude("spent").messages.create(model="claude-x", max_tokens=50, messages=HI)
    except anthropic.RateLimitError as e:
        assert "tokens_per_day" in str(e) and e.response.headers["retry-after"], e
    else:
        raise AssertionError("no error")


def openai_whole():
    said = gpt("openai").chat.completions.create(model="gpt-x", messages=HI)
    assert said.choices[0].message.content == "Hi yourself", said
    assert said.usage.prompt_tokens == 30, said.usage


def openai_stream():
    text = ""
    for chunk in gpt("openai").chat.completions.create(model="gpt-x", messages=HI, stream=True):
        assert chunk.choices, "a piece that was not asked for"
        text += chunk.choices[0].delta.content or ""
    assert text == "Hi yourself", text
    options = {"include_usage": True}
    chunks = list(gpt("openai").chat.completions.create(model="gpt-x", messages=HI, stream=True, stream_options=options))
    assert chunks[-1].usage.completion_tokens == 5, chunks[-1]


def openai_budget():
    try:
        gpt("spent").responses.create(model="gpt-x", input="Hi")
    except openai.RateLimitError as e:
        assert e.code == "budget_exceeded" and "tokens_per_day" in str(e), e
    else:
        raise AssertionError("no error")


def no_provider():
    try:
        gpt("nowhere", max_retries=0).models.list()
    except openai.NotFoundError as e:
        assert "wharf provider create nowhere" in str(e), e
    else:
        raise AssertionError("no error")


def broken_stream():
    try:
        with claude("broken", max_retries=0).messages.stream(model="claude-x", max_tokens=9, messages=HI) as stream:
            for _ in stream.text_stream:
                pass
    except Exception as e:  # which one is the library's affair, that there is one is ours
        assert not isinstance(e, AssertionError), e
    else:
        raise AssertionError("a broken answer looked whole")


def scripted_messages():
    client = claude("demo")
    messages = [{"role": "user", "content": "Which files are there?"}]
    with client.messages.stream(model="any", max_tokens=50, messages=messages, tools=[TOOL]) as stream:
        first = stream.get_final_message()
    assert first.model == "scripted" and first.stop_reason == "tool_use", first
    call = next(b for b in first.content if b.type == "tool_use")
    assert call.name == "bash" and call.input == {"command": "ls"}, call
    assert any(b.type == "thinking" for b in first.content), first
    messages.append({"role": "assistant", "content": first.content})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "notes.txt"}
    messages.append({"role": "user", "content": [result]})
    second = client.messages.create(model="any", max_tokens=50, messages=messages, tools=[TOOL])
    assert second.content[0].text == "There is one file.", second
    counted = client.messages.count_tokens(model="any", messages=messages)
    assert counted.input_tokens > 10, counted


def scripted_chat():
    client = gpt("demo")
    messages = [{"role": "user", "content": "Which files are there?"}]
    name, arguments, text, call_id = "", "", "", ""
    stream = client.chat.completions.create(model="any", messages=messages, tools=[FUNCTION], stream=True)
    for chunk in stream:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or []:
            call_id = call.id or call_id
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments) == ("bash", '{"command":"ls"}'), (name, arguments)
    function = {"name": name, "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    messages.append({"role": "assistant", "content": text, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": call_id, "content": "notes.txt"})
    second = client.chat.completions.create(model="any", messages=messages, tools=[FUNCTION])
    assert second.choices[0].message.content == "There is one file.", second
    assert [m.id for m in client.models.list()] == ["scripted"]


def scripted_responses():
    client = gpt("demo")
    tool = {"type": "function", **FUNCTION["function"], "strict": False}
    events = list(client.responses.create(model="any", input="Which files are there?", tools=[tool], stream=True))
    first = events[-1].response
    assert events[-1].type == "response.completed" and first.model == "scripted", first
    call = next(i for i in first.output if i.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "notes.txt"}
    second = client.responses.create(model="any", input=[output], previous_response_id=first.id, tools=[tool])
    assert second.output_text == "There is one file.", second


for name in sys.argv[1:]:
    globals()[name]()
    print("ok", name, flush=True)
