import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readChatTemplate } from "#packages/hub";
import { copyOfGolden, goldenPath } from "../../test/support/folders.ts";
import { ChatTemplate } from "./chat-template.ts";
import { loadTokenizer } from "./tokenizer.ts";

const messages = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Hello" },
];

test("the folder's template, with and without the opening of a turn", () => {
  const template = loadTokenizer(goldenPath("llama_tied")).chatTemplate;
  assert.equal(template?.render(messages), "<s>user: Hi</s>\n<s>assistant: Hello</s>\n");
  assert.equal(
    template?.render(messages.slice(0, 1), { addGenerationPrompt: true }),
    "<s>user: Hi</s>\n<s>assistant: ",
  );
});

test("ChatML and special tokens by name; blocks are trimmed as transformers does", () => {
  const source =
    "{{ bos_token }}{% for message in messages %}\n    {% if message.role == 'system' %}\n{{ message.content | trim }}\n    {% else %}\n" +
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n    {% endif %}\n{% endfor %}\n";
  const template = new ChatTemplate(source, { bos_token: "<s>", eos_token: null });
  const rendered = template.render([{ role: "system", content: " S " }, ...messages]);
  assert.equal(rendered, "<s>S\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n");
});

test("the older places of a template", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  rmSync(join(folder, "chat_template.jinja"));
  assert.equal(loadTokenizer(folder).chatTemplate, null);
  assert.equal(readChatTemplate(folder, { chat_template: "a" }), "a");
  const named = [
    { name: "tool_use", template: "x" },
    { name: "default", template: "b" },
  ];
  assert.equal(readChatTemplate(folder, { chat_template: named }), "b");
  writeFileSync(join(folder, "chat_template.jinja"), "{% if %}");
  assert.throws(() => loadTokenizer(folder), { code: "INVALID_ARGUMENT", message: /cannot be parsed/ });
});

test("a template that refuses says so", () => {
  const template = new ChatTemplate("{{ raise_exception('roles must alternate') }}");
  assert.throws(() => template.render(messages), { code: "INVALID_ARGUMENT", message: /roles must alternate/ });
  assert.throws(() => template.render([]), /expected at least one/);
});

const callOf = (name: string, city: string) => ({
  type: "function" as const,
  function: { name, arguments: { city } },
});
const asked = { role: "user", content: "Warm?" };
const answered = { role: "tool", content: "21" };

/** As DeepSeek-R1's: calls only where the content is none, arguments as text. */
const onlyWithoutWords = `{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}
{%- for call in m.tool_calls %}<call>{{ call.function.name + ' ' + call.function.arguments }}</call>{% endfor %}
{%- else %}<{{ m.role[0] }}>{{ m.content.split('</think>')[-1] }}{% endif %}{% endfor %}`;

test("calls of a history are shown in the form that the template shows them in", () => {
  const calls = [callOf("at", "Rome"), callOf("in", "Oslo")];
  const history = (content: string) => [asked, { role: "assistant", content, tool_calls: calls }, answered];
  const template = new ChatTemplate(onlyWithoutWords);
  const shown = '<call>at {"city":"Rome"}</call><call>in {"city":"Oslo"}</call>';
  assert.equal(template.render(history("")), `<u>Warm?${shown}<t>21`);
  assert.equal(template.render(history("I ask.")), `<u>Warm?<a>I ask.${shown}<t>21`);
  const plain = new ChatTemplate(
    "{% for m in messages %}{{ m.role[0] + m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}",
  );
  assert.equal(
    plain.render(history("So")),
    'uWarm?aSo{"name": "at", "arguments": {"city": "Rome"}}{"name": "in", "arguments": {"city": "Oslo"}}t21',
  );
});

test("a template that names calls and never shows them is refused a history with calls", () => {
  const template = new ChatTemplate(
    "{% for m in messages %}{% if not m.tool_calls %}{{ m.content }}{% endif %}{% endfor %}",
  );
  assert.equal(template.render([asked]), "Warm?");
  assert.throws(
    () => template.render([asked, { role: "assistant", content: "", tool_calls: [callOf("at", "Rome")] }]),
    {
      code: "FAILED_PRECONDITION",
      message: /messages\[1\]\.tool_calls: expected none, since the chat template shows no calls of tools/,
    },
  );
});
