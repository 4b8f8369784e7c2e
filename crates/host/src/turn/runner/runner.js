// Calls a function of the agent's package with (message, context) for every turn.
//
// Descriptor 5 brings what the host says, 4 takes what the agent says: one JSON object a line. Standard output and error are the
// agent's log. The function may be plain or asynchronous, a generator of either sort, and return what any of them yields.
const { writeSync } = await load('node:fs');
const { Socket } = await load('node:net');
const path = await load('node:path');
const { pathToFileURL } = await load('node:url');
const { createInterface } = await load('node:readline');

const [target, root] = process.argv.slice(-2);
const TEXT_PART = 1_000_000;
const DETAIL = 4000;

function tell(line) {
  let bytes = Buffer.from(JSON.stringify(line).replace(/\\ud[89a-f][0-9a-f]{2}/gi, '\ufffd') + '\n');
  while (bytes.length > 0) bytes = bytes.subarray(writeSync(4, bytes));
}

function blocksOf(content) {
  const list = Array.isArray(content) ? content : [content];
  return list.map((block) => {
    if (typeof block === 'string') return { type: 'text', text: block };
    if (block === null || typeof block !== 'object' || typeof block.type !== 'string') {
      throw new TypeError(`${JSON.stringify(block)} is no content block: a block is a string or an object with a type`);
    }
    return block;
  });
}

const textOf = (content) => content.filter((b) => b.type === 'text').map((b) => b.text).join('\n');

class Context {
  #abort = new AbortController();
  #waiting = [];
  #usage = null;
  #next = null;

  constructor(hello, turn) {
    this.agent = hello.agent;
    this.session = hello.session ?? null;
    this.instructions = hello.instructions ?? null;
    this.agents = hello.agents ?? [];
    this.package = root;
    this.turn = turn;
    /** Aborted when the turn shall end; a function that does not within two seconds is killed. */
    this.signal = this.#abort.signal;
  }

  get cancelled() {
    return this.signal.aborted;
  }

  /** The messages before this one, oldest first. */
  history() {
    tell({ type: 'history' });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** A part of the reply, shown at once. */
  text(text) {
    const all = String(text);
    for (let at = 0; at < all.length; at += TEXT_PART) tell({ type: 'text', text: all.slice(at, at + TEXT_PART) });
  }

  /** A whole message: a string, a block or a list of them. */
  say(content) {
    tell({ type: 'message', content: blocksOf(content) });
  }

  /** An event for whoever watches: progress, a tool call. */
  emit(name, data = null) {
    tell({ type: 'event', name: String(name), data });
  }

  /** Adds to what the turn used. */
  usage({ input_tokens = 0, output_tokens = 0, cached_tokens = 0, model, cost_usd } = {}) {
    const known = (this.#usage ??= { input_tokens: 0, output_tokens: 0, cached_tokens: 0 });
    known.input_tokens += input_tokens;
    known.output_tokens += output_tokens;
    known.cached_tokens += cached_tokens;
    if (model !== undefined) known.model = model;
    if (cost_usd !== undefined) known.cost_usd = (known.cost_usd ?? 0) + cost_usd;
  }

  /** Ends this agent's part: the named agent goes on, with this content or with the user's message. */
  handOver(to, content) {
    this.#next = { to: String(to), ...(content === undefined ? {} : { content: blocksOf(content) }) };
  }

  static heard(context, messages) {
    for (const message of messages) {
      message.text = textOf(message.content);
      message.agent ??= null;
    }
    context.#waiting.shift()?.(messages);
  }

  static stop(context) {
    context.#abort.abort(new Error('the turn was cancelled'));
  }

  static last(context) {
    const usage = context.#usage === null ? {} : { usage: context.#usage };
    return context.#next === null ? { type: 'done', ...usage } : { type: 'handover', ...context.#next, ...usage };
  }

  static usage(context) {
    return context.#usage === null ? {} : { usage: context.#usage };
  }
}

function give(context, item) {
  if (item === undefined || item === null) return;
  if (typeof item === 'string') return context.text(item);
  if (Array.isArray(item)) return context.say(item);
  if (typeof item === 'object') {
    if (item.type === 'text' && typeof item.text === 'string') return context.text(item.text);
    if (item.type === 'message') return context.say(item.content ?? []);
    if (item.type === 'event') return context.emit(item.name, item.data);
    if (typeof item.type === 'string') return context.say(item);
    if (typeof item.content === 'string' || Array.isArray(item.content)) return give(context, item.content);
  }
  throw new TypeError(`an agent says text, blocks or events; ${typeof item} is none of them`);
}

async function answer(called, message, context) {
  const result = await called(message, context);
  const isList = result !== null && typeof result === 'object' && !Array.isArray(result);
  const walk = isList ? result[Symbol.asyncIterator] ?? (typeof result.next === 'function' && result[Symbol.iterator]) : false;
  if (!walk) return give(context, result);
  const items = walk.call(result);
  for (;;) {
    const { done, value } = await items.next();
    give(context, value);
    if (done) return;
    if (context.cancelled) return void (await items.return?.());
  }
}

let failures = 0;
async function find() {
  const [file, name = 'default'] = target.split('#');
  const url = pathToFileURL(path.resolve(root, file)).href;
  // A module that failed is kept as failed; another address is another try.
  const module = await load(failures === 0 ? url : `${url}?again=${failures}`).catch((error) => {
    failures += 1;
    throw error;
  });
  const found = module[name] ?? module.default?.[name];
  if (typeof found !== 'function') {
    const exports = Object.keys(module).join(', ') || 'nothing';
    throw new TypeError(`${file} exports no function ${name}; it exports ${exports}`);
  }
  return found;
}

function explain(error) {
  if (!(error instanceof Error)) return String(error).slice(0, DETAIL);
  const frame = (error.stack ?? '').split('\n').find((line) => line.includes(root) && !line.includes('node_modules'));
  const place = frame?.match(/([^/\\(\s]+:\d+):\d+\)?$/)?.[1];
  const named = frame?.match(/at (?:async )?([\w.$<>]+) \(/)?.[1];
  const where = place === undefined ? '' : ` (${place}${named === undefined ? '' : ` in ${named}`})`;
  return `${error.name}: ${error.message}`.slice(0, DETAIL) + where;
}

let hello = null;
let called = null;
let current = null;

async function turn(said) {
  const context = new Context(hello, said.turn);
  current = context;
  const message = { text: textOf(said.content), content: said.content, seq: said.seq, turn: said.turn };
  let last;
  try {
    called ??= await find();
    await answer(called, message, context);
    last = Context.last(context);
  } catch (error) {
    console.error(error);
    last = { type: 'error', detail: explain(error), ...Context.usage(context) };
  }
  current = null;
  tell(last);
}

const lines = createInterface({ input: new Socket({ fd: 5, readable: true, writable: false }), crlfDelay: Infinity });
lines.on('line', (line) => {
  const said = JSON.parse(line);
  if (said.type === 'hello') hello = said;
  else if (said.type === 'message') void turn(said);
  else if (said.type === 'history' && current) Context.heard(current, said.messages);
  else if (said.type === 'cancel' && current?.turn === said.turn) Context.stop(current);
});
lines.on('close', () => process.exit(0));
