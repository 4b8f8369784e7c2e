const seen = new Map();

export async function* answer(message, context) {
  const words = message.text.toLowerCase().match(/\p{L}+/gu) ?? [];
  context.emit('tool_use', { id: `count-${message.seq}`, name: 'count', input: { words: words.length } });
  for (const word of words) seen.set(word, (seen.get(word) ?? 0) + 1);
  yield `${words.length} words. `;
  if (context.cancelled) return;
  const common = [...seen].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 3);
  yield `Most said so far: ${common.map(([word, n]) => `${word} (${n})`).join(', ')}.`;
}
