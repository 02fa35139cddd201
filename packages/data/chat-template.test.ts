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
