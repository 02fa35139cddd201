import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../../test/support/folders.ts";
import { RowReader, readDataset } from "./dataset.ts";
import { alpacaPrompt } from "./prompts.ts";

function fileOf(t: TestContext, content: string | Uint8Array): string {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, content);
  return file;
}

const user = { role: "user", content: "a" };
const assistant = { role: "assistant", content: "b" };

test("every format is told by its columns, and becomes what is trained", async (t) => {
  const completion = (prompt: string, answer: string) => ({ kind: "completion", prompt, completion: answer });
  const dialogue = (...messages: object[]) => ({ kind: "messages", messages, tools: [] });
  const cases: [string, unknown[]][] = [
    [
      '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": null}]}',
      [dialogue(user, assistant)],
    ],
    [
      '{"id": 7, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]}',
      [dialogue(user, { ...assistant, untrained: true })],
    ],
    [
      '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}',
      [dialogue({ role: "system", content: "s" }, user, assistant)],
    ],
    ['{"completion": "d", "prompt": "c"}\r', [completion("c", "d")]],
    [
      '{"instruction": "Add.", "input": "1 2", "output": "3", "text": "all of it"}',
      [completion(alpacaPrompt("Add.", "1 2"), "3")],
    ],
    ['{"instruction": "Say hi.", "input": null, "output": "hi"}', [completion(alpacaPrompt("Say hi.", ""), "hi")]],
    ['{"input": "### Human: a### Assistant:", "output": "b"}', [completion("### Human: a### Assistant:", "b")]],
    ['{"inputs": "a", "targets": "b", "task": "niv2"}', [completion("a", "b")]],
    [
      '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "c"}',
      [{ kind: "text", text: "\n\nHuman: a\n\nAssistant: b" }],
    ],
    [
      '{"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "4"}]}',
      [completion(alpacaPrompt("Add.", "1 2"), "3"), completion(alpacaPrompt("Add.", ""), "4")],
    ],
    [
      '{"instruction": "Add.", "instances": [{"instruction_with_input": "Add 1 and 2.", "input": "1 2", "output": "3"}]}',
      [completion("Add 1 and 2.", "3")],
    ],
    ['{"text": "Zürich 🙂"}', [{ kind: "text", text: "Zürich 🙂" }]],
    ['{"input_ids": [0, 5, 1], "labels": [-100, 5, 1]}', [{ kind: "ids", inputIds: [0, 5, 1], labels: [-100, 5, 1] }]],
    [
      '{"input_ids": [0, 5, 1, 9], "attention_mask": [1, 1, 1, 0]}',
      [{ kind: "ids", inputIds: [0, 5, 1], labels: [0, 5, 1] }],
    ],
  ];
  for (const [line, expected] of cases) {
    const rows = await readDataset(fileOf(t, `\n${line}\n`));
    assert.deepEqual(
      rows.map(({ row }) => row),
      expected,
    );
    assert.ok(rows.every((r) => r.line === 2 && r.weight === 1));
  }
});

test("Alpaca's prompts, word for word", () => {
  assert.equal(
    alpacaPrompt("Add.", "1 2"),
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response: ",
  );
  assert.equal(
    alpacaPrompt("Say hi.", ""),
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSay hi.\n\n### Response: ",
  );
});

test("a format by name, where columns do not tell it", async (t) => {
  const file = fileOf(t, '{"text": "<human>: a\\nb\\n<bot>: c\\n<human>: d\\n<bot>: e"}');
  const row = { kind: "completion", prompt: "a\nb", completion: "c\n<human>: d" };
  for (const format of ["chip2"]) assert.deepEqual((await readDataset(file, format))[0]?.row, row);
  await assert.rejects(
    readDataset(file, "alpaca"),
    /:1: expected the columns of alpaca \{instruction, output, input\?\}, as dataset_format says; got \{text\}/,
  );
  await assert.rejects(readDataset(file, "alpacca"), /dataset_format: expected one of auto, messages, .*got alpacca/);
});

test("columns that are not looked at are remembered; weights are read", async (t) => {
  const file = fileOf(
    t,
    '{"prompt": "a", "completion": "b", "id": 1, "weight": 0.5}\n{"prompt": "a", "completion": "b", "lang": "de"}',
  );
  const reader = new RowReader({ name: "set", files: [file], format: null });
  const weights: number[] = [];
  for await (const { weight } of reader.rows()) weights.push(weight);
  assert.deepEqual([weights, [...reader.unused], reader.formatName], [[0.5, 1], ["id", "lang"], "prompt-completion"]);
});

test("rows of different formats in one set are an error that names both", async (t) => {
  const file = fileOf(t, '{"prompt": "a", "completion": "b"}\n\n{"instruction": "a", "output": "b"}');
  await assert.rejects(readDataset(file), (error: Error) => {
    assert.ok(
      error.message.includes(
        `${file}:3: expected the columns of prompt-completion {prompt, completion}, as ${file}:1 has; got {instruction, output}`,
      ),
      error.message,
    );
    return true;
  });
});

test("what is wrong with a row is said with file and line", async (t) => {
  const cases: [string, RegExp, string?][] = [
    ['{"prompt": "a", "completion": "b", "weight": -2}', /weight: expected a number >= 0, got -2/],
    ['{"prompt": "a"}', /expected the columns of one of messages \{messages, tools\?\}, .*got \{prompt\}/],
    ['{"question": "a", "answer": "b"}', /got \{question, answer\}/],
    ['{"text": 3}', /text: expected a string, got 3/],
    ['{"prompt": "a", "completion": null}', /completion: expected a string, got null/],
    ['{"messages": []}', /messages: expected a list with at least one/],
    ['{"messages": [{"from": "human", "value": "a"}]}', /messages\[0\]: expected \{role, content\}/],
    [
      '{"messages": [{"role": "user", "content": "a", "name": "x"}]}',
      /messages\[0\].name: expected a string, of a tool.s message, got "x"/,
    ],
    ['{"messages": [null]}', /messages\[0\]: expected \{role, content\}/],
    [
      '{"messages": [{"role": "user", "content": "a", "weight": 0.5}]}',
      /messages\[0\].weight: expected 0 or 1, got 0.5/,
    ],
    [
      '{"conversations": [{"from": "alien", "value": "a"}]}',
      /conversations\[0\].from: expected one of human, .*got "alien"/,
    ],
    ['{"instruction": "a", "instances": [3]}', /instances\[0\]: expected an object, got 3/],
    ['{"input_ids": [1, 2], "labels": [1]}', /labels: expected as many as input_ids \(2\), got 1/],
    ['{"input_ids": [1, 2.5], "labels": [1, 2]}', /input_ids: expected token ids, got 2.5/],
    ['{"input_ids": [1], "labels": [-1]}', /labels: expected token ids or -100, got -1/],
    ['{"text": "a"', /:3:13: expected JSON: expected "," or "}", got the end/, "13"],
    ['{"text": "a",}', /:3:14: expected JSON: expected a key in quotes, got "}"/, "14"],
    ["  text", /:3:3: expected JSON: expected a value, got "text"/, "3"],
  ];
  for (const [line, message, column] of cases) {
    const file = fileOf(t, `\n\n${line}\n`);
    await assert.rejects(readDataset(file), (error: { code: string; message: string; details: object }) => {
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, message);
      assert.ok(error.message.includes(`${file}:3:`), error.message);
      assert.deepEqual(error.details, { file, line: "3", ...(column === undefined ? {} : { column }) });
      return true;
    });
  }
  await assert.rejects(
    readDataset(fileOf(t, '{"text": "a"}\n[{"text": "a"}]')),
    /:2: .*a JSON array is not JSON lines/,
  );
  const bytes = Buffer.concat([Buffer.from('{"text": "'), Buffer.from([0xff]), Buffer.from('"}')]);
  await assert.rejects(readDataset(fileOf(t, bytes)), /:1: expected UTF-8/);
});

test("rows before an error are given, and with a listener those after it", async (t) => {
  const file = fileOf(t, '{"text": "a"}\nnonsense\n{"text": 3}\n{"text": "b"}');
  const reader = () => new RowReader({ name: file, files: [file], format: null });
  const lines: number[] = [];
  await assert.rejects(async () => {
    for await (const { line } of reader().rows()) lines.push(line);
  }, /:2:1: /);
  assert.deepEqual(lines, [1]);
  const errors: string[] = [];
  for await (const { line } of reader().rows((error) => errors.push(error.details["line"] ?? ""))) lines.push(line);
  assert.deepEqual(
    [lines, errors],
    [
      [1, 1, 4],
      ["2", "3"],
    ],
  );
});

test("real dialogues", async () => {
  const file = fileURLToPath(new URL("../../test/data/dialogues.jsonl", import.meta.url));
  const rows = await readDataset(file);
  assert.equal(rows.length, 40);
  assert.ok(rows.every(({ row }) => row.kind === "messages" && row.messages.length >= 2));
});
