import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../../test/support/folders.ts";
import { readDataset, readRows } from "./dataset.ts";

function fileOf(t: TestContext, content: string | Uint8Array): string {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, content);
  return file;
}

test("every kind of row, told by its keys; blank lines count but are no rows", async (t) => {
  const lines = [
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    "",
    '{"completion": "d", "prompt": "c"}\r',
    '{"instruction": "Add.", "input": "1 2", "output": "3"}',
    '{"instruction": "Say hi.", "output": "hi"}',
    '{"text": "Zürich 🙂"}',
    '{"input_ids": [0, 5, 1], "labels": [-100, 5, 1]}',
  ];
  const rows = await readDataset(fileOf(t, lines.join("\n")));
  assert.deepEqual(
    rows.map((r) => r.line),
    [1, 3, 4, 5, 6, 7],
  );
  assert.deepEqual(
    rows.map((r) => r.row),
    [
      {
        kind: "messages",
        messages: [
          { role: "user", content: "a" },
          { role: "assistant", content: "b" },
        ],
      },
      { kind: "completion", prompt: "c", completion: "d" },
      {
        kind: "completion",
        prompt:
          "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response: ",
        completion: "3",
      },
      {
        kind: "completion",
        prompt:
          "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSay hi.\n\n### Response: ",
        completion: "hi",
      },
      { kind: "text", text: "Zürich 🙂" },
      { kind: "ids", inputIds: [0, 5, 1], labels: [-100, 5, 1] },
    ],
  );
});

test("what is wrong with a row is said with file and line", async (t) => {
  const cases: [string, RegExp][] = [
    ['{"prompt": "a", "completion": "b", "weight": 2}', /unknown key "weight": expected only prompt, completion/],
    ['{"prompt": "a"}', /expected the keys of one of .*got \{prompt\}/],
    ['{"question": "a", "answer": "b"}', /got \{question, answer\}/],
    ['{"text": 3}', /text: expected a string, got 3/],
    ['{"prompt": "a", "completion": null}', /completion: expected a string, got null/],
    ['{"messages": []}', /messages: expected a list with at least one/],
    ['{"messages": [{"from": "human", "value": "a"}]}', /messages\[0\]: expected \{role, content\}/],
    ['{"messages": [{"role": "user", "content": "a", "name": "x"}]}', /messages\[0\]: unknown key "name"/],
    ['{"messages": [null]}', /messages\[0\]: expected \{role, content\}/],
    ['{"input_ids": [1, 2], "labels": [1]}', /labels: expected as many as input_ids \(2\), got 1/],
    ['{"input_ids": [1, 2.5], "labels": [1, 2]}', /input_ids: expected token ids, got 2.5/],
    ['{"input_ids": [1], "labels": [-1]}', /labels: expected token ids or -100, got -1/],
    ['[{"text": "a"}]', /a JSON array is not JSON lines/],
    ['{"text": "a"', /expected one JSON object a line/],
    ["text", /expected one JSON object a line/],
  ];
  for (const [line, message] of cases) {
    const file = fileOf(t, `{"text": "fine"}\n\n${line}\n`);
    await assert.rejects(readDataset(file), (error: { code: string; message: string; details: object }) => {
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, message);
      assert.ok(error.message.includes(`${file}:3: `), error.message);
      assert.deepEqual(error.details, { file, line: "3" });
      return true;
    });
  }
  const bytes = Buffer.concat([Buffer.from('{"text": "'), Buffer.from([0xff]), Buffer.from('"}')]);
  await assert.rejects(readDataset(fileOf(t, bytes)), /:1: expected UTF-8/);
});

test("an empty set and a missing file", async (t) => {
  for (const content of ["", "\n \n"]) {
    await assert.rejects(readDataset(fileOf(t, content)), { message: /expected at least one row, got none/ });
  }
  await assert.rejects(readDataset("/no/such.jsonl"), { code: "NOT_FOUND" });
});

test("rows before an error are given; lines longer than a read arrive whole", async (t) => {
  const long = "x".repeat(300_000);
  const file = fileOf(t, `{"text": "${long}"}\n{"text": "${long}y"}\nnonsense`);
  const lengths: number[] = [];
  await assert.rejects(async () => {
    for await (const { row } of readRows(file)) lengths.push(row.kind === "text" ? row.text.length : 0);
  }, /:3: /);
  assert.deepEqual(lengths, [300_000, 300_001]);
});

test("real dialogues", async () => {
  const file = fileURLToPath(new URL("../../test/data/dialogues.jsonl", import.meta.url));
  const rows = await readDataset(file);
  assert.equal(rows.length, 40);
  assert.ok(rows.every(({ row }) => row.kind === "messages" && row.messages.length >= 2));
});
