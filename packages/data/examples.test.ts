import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { copyOfGolden, goldenPath } from "../../test/support/folders.ts";
import { readDataset } from "./dataset.ts";
import { type Example, ExampleBuilder, type ExampleOptions } from "./examples.ts";
import { detectFormat, readAs } from "./formats.ts";
import { findingText, Lint } from "./lint.ts";
import { previewMask, printMask } from "./masking.ts";
import { loadTokenizer } from "./tokenizer.ts";

const tokenizer = loadTokenizer(goldenPath("llama_tied"));
const place = { file: "rows.jsonl", line: 7 };

function buildAll(value: object, options: Partial<ExampleOptions> = {}, from = tokenizer): Example[] {
  const row = readAs(detectFormat(value, place), value, place, "")[0];
  assert.ok(row);
  return new ExampleBuilder(from, { maxLength: 200, ...options }).build({ ...place, row, weight: 1 });
}
function build(...args: Parameters<typeof buildAll>): Example {
  const [example, ...more] = buildAll(...args);
  assert.ok(example && more.length === 0);
  return example;
}
function lint(examples: readonly Example[]) {
  const found = new Lint();
  const kept = examples.filter((example) => found.see(example));
  return { kept, texts: found.report().map(findingText) };
}
const masked = (value: object, options: Partial<ExampleOptions> = {}, from = tokenizer) =>
  printMask(previewMask(build(value, options, from), from));

test("a completion is trained with its end, its prompt is not", () => {
  assert.equal(masked({ prompt: "Q: hi\n", completion: "yes" }), "<s>Q: hi\n⟦yes</s>⟧");
  assert.equal(masked({ prompt: "Q: hi\n", completion: "yes" }, { trainOnSource: true }), "<s>⟦Q: hi\nyes</s>⟧");
  const example = build({ prompt: "a", completion: "b" });
  assert.deepEqual([...example.inputIds], [0, 67, 68, 1]);
  assert.deepEqual([...example.labels], [-100, -100, 68, 1]);
  assert.deepEqual([example.trainedCount, example.cutCount, example.trainsEos], [2, 0, true]);
  assert.deepEqual([example.file, example.line], ["rows.jsonl", 7]);
});

test("BOS and EOS come once, whether or not the row brings them", () => {
  assert.deepEqual([...build({ prompt: "<s>a", completion: "b</s>" }).inputIds], [0, 67, 68, 1]);
  assert.deepEqual([...build({ prompt: "", completion: "b" }).inputIds], [0, 68, 1]);
  assert.deepEqual([...build({ text: "<s>b</s>" }).inputIds], [0, 68, 1]);
});

test("text and Alpaca rows", () => {
  assert.equal(masked({ text: "once upon" }), "<s>⟦once upon</s>⟧");
  const alpaca = masked({ instruction: "Say hi.", input: "", output: "hi" });
  assert.match(alpaca, /^<s>Below is .*### Response: ⟦hi<\/s>⟧$/s);
});

test("ids are taken as they are, and checked", () => {
  const example = build({ input_ids: [5, 6, 7], labels: [5, -100, 7] }, { trainOnSource: true });
  assert.deepEqual([...example.labels], [-100, -100, 7]);
  assert.equal(example.trainsEos, false);
  assert.throws(
    () => build({ input_ids: [5, 512], labels: [5, 6] }),
    /rows\.jsonl:7: .*expected ids below 512, got 512/,
  );
});

const chat = {
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "One?" },
    { role: "assistant", content: "Two." },
    { role: "user", content: "And?" },
    { role: "assistant", content: "Three." },
  ],
};

test("of a dialogue the assistant's turns are trained, with their end and nothing after", () => {
  assert.equal(
    masked(chat),
    "<s>system: Be brief.</s>\n<s>user: One?</s>\n<s>assistant: ⟦Two.</s>⟧\n<s>user: And?</s>\n<s>assistant: ⟦Three.</s>⟧\n",
  );
  const open = { messages: chat.messages.slice(0, 4) };
  assert.equal(
    masked(open),
    "<s>system: Be brief.</s>\n<s>user: One?</s>\n<s>assistant: ⟦Two.</s>⟧\n<s>user: And?</s>\n",
  );
});

test("the ids before an answer are those that serving asks with", () => {
  const { inputIds, labels } = build(chat);
  const prompt = tokenizer.chatTemplate!.render(chat.messages.slice(0, 2), { addGenerationPrompt: true });
  const ids = tokenizer.encode(prompt, { addSpecialTokens: false });
  assert.deepEqual([...inputIds.subarray(0, ids.length)], ids);
  assert.deepEqual([labels[ids.length - 1], labels[ids.length]], [-100, inputIds[ids.length]]);
});

test("no template, or one that changes a question once its answer follows, is an error that says so", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  const template = join(folder, "chat_template.jinja");
  writeFileSync(template, "{% for m in messages %}{% if loop.last %}[last]{% endif %}{{ m.content }}</s>{% endfor %}");
  assert.throws(
    () => build(chat, {}, loadTokenizer(folder)),
    /rows\.jsonl:7: messages\[\d\]: the chat template changes/,
  );
  const bare = loadTokenizer(folder);
  Object.defineProperty(bare, "chatTemplate", { value: null });
  assert.throws(() => build(chat, {}, bare), { code: "FAILED_PRECONDITION", message: /needs a chat template/ });
});

/** Qwen3's way: thoughts stay in the answers that follow the last question only. */
const forgetful = `{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}
{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}
{%- set parts = m.content.split('</think>') %}
{%- if m.role == 'assistant' %}{%- if loop.index0 > ns.last %}
{{- 'a:<think>' + (parts[0] if parts|length > 1 else '').split('<think>')[-1] + '</think>' + parts[-1] + '</s>' }}
{%- else %}{{- 'a:' + parts[-1] + '</s>' }}{%- endif %}
{%- else %}{{- m.role[0] + ':' + m.content + '</s>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- 'a:' }}{%- endif %}`;

function withTemplate(t: TestContext, template: string) {
  const folder = copyOfGolden(t, "llama_tied");
  writeFileSync(join(folder, "chat_template.jinja"), template);
  return loadTokenizer(folder);
}

test("where a template rewrites earlier turns, each answer is trained as serving asks for it", (t) => {
  const from = withTemplate(t, forgetful);
  const turns = [
    { role: "user", content: "One?" },
    { role: "assistant", content: "<think>hm</think>Two." },
    { role: "assistant", content: "<think>or</think>Four." },
    { role: "user", content: "And?" },
    { role: "assistant", content: "Three." },
    { role: "user", content: "Bye" },
  ];
  const texts = (messages: object[], options: Partial<ExampleOptions> = {}) =>
    buildAll({ messages }, options, from).map((example) => printMask(previewMask(example, from)));
  const first = "u:One?</s>a:⟦<think>hm</think>Two.</s>⟧a:⟦<think>or</think>Four.</s>⟧";
  const second = "u:One?</s>a:Two.</s>a:Four.</s>u:And?</s>a:⟦<think></think>Three.</s>⟧";
  assert.deepEqual(texts(turns), [first, second]);
  assert.deepEqual(texts(turns, { trainTurns: "last" }), [second]);
  assert.deepEqual(texts(turns.map((turn, i) => (i === 4 ? { ...turn, weight: 0 } : turn))), [first]);
  const whole = "u⟦:One?</s>a:Two.</s>a:Four.</s>u:And?</s>a:<think></think>Three.</s>⟧";
  assert.deepEqual(texts(turns, { trainOnSource: true }), [whole]);
  const prompt = from.chatTemplate!.render(turns.slice(0, 4), { addGenerationPrompt: true });
  const ids = from.encode(prompt, { addSpecialTokens: false });
  assert.deepEqual([...(buildAll({ messages: turns }, {}, from)[1]?.inputIds.subarray(0, ids.length) ?? [])], ids);
});

test("a template that opens an answer with more than it writes for one: the answer is what is trained", (t) => {
  const opening = "{% if add_generation_prompt %}a:<think>{% endif %}";
  const from = withTemplate(t, `{% for m in messages %}{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}${opening}`);
  const text = (content: string) => {
    const messages = [
      { role: "user", content: "One?" },
      { role: "assistant", content },
    ];
    return printMask(previewMask(build({ messages }, {}, from), from));
  };
  assert.equal(text("Two."), "u:One?</s>a:⟦Two.</s>⟧");
  assert.equal(text("<b>Two"), "u:One?</s>a:⟦<b>Two</s>⟧");
  assert.equal(text("<think>so</think>Two"), "u:One?</s>a:<think>⟦so</think>Two</s>⟧");
});

/** As Qwen's and Hermes' templates write tools: what they answered is a user's turn. */
const toolUsing = `{%- if tools %}{{- 's:' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '</s>' }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'tool' %}{{- 'u:<tool_response>' + m.content + '</tool_response></s>' }}
{%- else %}{{- m.role[0] + ':' + m.content }}{%- for call in m.tool_calls or [] %}
{{- '<tool_call>' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) + '</tool_call>' }}
{%- endfor %}{{- '</s>' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- 'a:' }}{%- endif %}`;

const toolChat = {
  messages: [
    { role: "user", content: [{ type: "text", text: "Warm?" }] },
    { role: "assistant", content: null, tool_calls: [{ function: { name: "at", arguments: '{"city": "Rome"}' } }] },
    { role: "tool", content: "21" },
    { role: "assistant", content: "Yes." },
  ],
  tools: [{ type: "function", function: { name: "at", description: "Degrees" } }],
};

test("an assistant's calls of tools are trained; the tools and what they answer are not", (t) => {
  const tool =
    '{"type": "function", "function": {"name": "at", "description": "Degrees", "parameters": {"type": "object", "properties": {}}}}';
  const call = '<tool_call>{"name": "at", "arguments": {"city": "Rome"}}</tool_call>';
  assert.equal(
    masked(toolChat, { maxLength: 500 }, withTemplate(t, toolUsing)),
    `s:${tool}</s>u:Warm?</s>a:⟦${call}</s>⟧u:<tool_response>21</tool_response></s>a:⟦Yes.</s>⟧`,
  );
});

test("a template that does not show tools, or their calls, is not trained with them", (t) => {
  const refused = (value: object, template: string, message: RegExp) =>
    assert.throws(() => build(value, {}, withTemplate(t, template)), { code: "INVALID_ARGUMENT", message });
  const { messages } = toolChat;
  const plain = "{% for m in messages %}{{ m.role }}{{ m.content }}</s>{% endfor %}";
  refused(toolChat, plain, /^\[dataset\] rows\.jsonl:7: tools: expected none, since the chat template knows no tools/);
  refused(
    { messages },
    plain,
    /rows\.jsonl:7: messages\[1\]\.tool_calls: expected none, since the chat template shows no calls/,
  );
  const onlyTheFirst =
    "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0] | tojson }}{% endif %}</s>{% endfor %}";
  const calls = ["at", "near"].map((name) => ({ function: { name, arguments: "{}" } }));
  refused(
    { messages: [messages[0], { role: "assistant", content: null, tool_calls: calls }] },
    onlyTheFirst,
    /messages\[1\]\.tool_calls: expected the chat template to show the call of near, got an answer/,
  );
  refused(chat, "{{ raise_exception('no systems') }}", /rows\.jsonl:7: the chat template refuses .*no systems/);
});

test("an answer without words begins after what serving gives, whatever the template opens it with", (t) => {
  const opening = "{% if add_generation_prompt %}a:<think>{% endif %}";
  const from = withTemplate(t, `{% for m in messages %}{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}${opening}`);
  const messages = [
    { role: "user", content: "One?" },
    { role: "assistant", content: "" },
  ];
  assert.equal(masked({ messages }, {}, from), "u:One?</s>a:⟦</s>⟧");
});

test("of a dialogue only the last answer, or none of those with weight 0", () => {
  assert.match(masked(chat, { trainTurns: "last" }), /assistant: Two\.<\/s>.*⟦Three\.<\/s>⟧\n$/s);
  const messages = chat.messages.map((message, i) => (i === 2 ? { ...message, weight: 0 } : message));
  assert.match(masked({ messages }), /assistant: Two\.<\/s>.*⟦Three\.<\/s>⟧\n$/s);
});

test("rows of which nothing is trained say why", () => {
  const why = (value: object, options: Partial<ExampleOptions> = {}) => build(value, options).untrained;
  assert.match(why({ messages: [{ role: "user", content: "Hello?" }] }) ?? "", /^none of its \d+ tokens is trained$/);
  assert.match(why({ input_ids: [1, 2], labels: [1, -100] }) ?? "", /^none of its 2/);
  const long = { prompt: "word ".repeat(30), completion: "x" };
  assert.match(why(long, { maxLength: 20 }) ?? "", /first trained token is number \d+, beyond max_length 20/);
  assert.match(why({ input_ids: [], labels: [] }) ?? "", /^none of its 0/);
  assert.equal(why({ prompt: "a", completion: "b" }), null);
});

test("the lint counts what teaches nothing good, and names the first", () => {
  const fine = build({ prompt: "a", completion: "b" });
  const cut = build({ prompt: "a", completion: "word ".repeat(30) }, { maxLength: 10 });
  const untrained = build({ messages: [{ role: "user", content: "Hello?" }] });
  const { kept, texts } = lint([fine, cut, untrained, { ...fine, line: 9 }, { ...fine, line: 10 }]);
  assert.equal(kept.length, 4);
  assert.deepEqual(texts, [
    `1 row trains nothing and is left out, the first at rows.jsonl:7 (none of its ${untrained.inputIds.length} tokens is trained)`,
    `1 row is longer than max_length and was cut, the first at rows.jsonl:7 (${cut.cutCount} of ${cut.cutCount + 10} tokens)`,
    "1 row trains no end of sequence: the model may not stop, the first at rows.jsonl:7",
    "2 rows repeat an earlier row, token for token, the first at rows.jsonl:9",
  ]);
});

test("real dialogues: every row builds, trains its ends, and trains less than it reads", async () => {
  const file = fileURLToPath(new URL("../../test/data/dialogues.jsonl", import.meta.url));
  const builder = new ExampleBuilder(tokenizer, { maxLength: 4096 });
  const examples = (await readDataset(file)).flatMap((row) => builder.build(row));
  assert.deepEqual(lint(examples).texts, []);
  assert.ok(examples.every((e) => e.trainedCount > 0 && e.trainedCount < e.inputIds.length));
});
