import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { findingText } from "./lint.ts";
import { type DataRequest, type PrepareOptions, prepareData } from "./prepare.ts";
import { loadTokenizer } from "./tokenizer.ts";

const tokenizer = loadTokenizer(goldenPath("llama_tied"));
const { signal } = new AbortController();
const never = () => assert.fail("nothing should be fetched");

function prepare(data: string, options: Partial<PrepareOptions & DataRequest & { maxLength: number }> = {}) {
  const { format = "auto", maxLength = 4096, ...rest } = options;
  return prepareData(
    { data, format, tokenizer, examples: { maxLength }, fetch: never },
    { keep: "memory", signal, ...rest },
  );
}

function fileOf(t: TestContext, lines: readonly string[]): string {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, lines.join("\n"));
  return file;
}

const sample = (name: string) => fileURLToPath(new URL(`../../test/data/samples/${name}`, import.meta.url));

test("samples of real sets, each in its form: every row is read, nothing is odd", async () => {
  const cases: [string, string, number, string[]][] = [
    ["sharegpt.json", "sharegpt", 8, ["id"]],
    ["openassistant.jsonl", "input-output", 8, ["lang", "message_id", "parent_id"]],
  ];
  for (const [name, format, rows, unused] of cases) {
    const { store, report } = await prepare(sample(name));
    assert.deepEqual([report.format, store.count, report.findings], [format, rows, []], name);
    assert.ok(store.trainedTokens > 0 && store.trainedTokens < store.tokens);
    for (const column of unused) assert.ok(report.unusedColumns.includes(column), `${name}: ${report.unusedColumns}`);
  }
});

test("rows that train nothing are left out and counted; where none is left it is an error", async (t) => {
  const fine = '{"prompt": "a", "completion": "b"}';
  const long = JSON.stringify({ prompt: "word ".repeat(30), completion: "x" });
  const { store, report } = await prepare(
    fileOf(t, [long, fine, fine, '{"prompt": "c", "completion": "d", "weight": 0}']),
    { maxLength: 20 },
  );
  assert.equal(store.count, 2);
  assert.deepEqual(
    report.findings.map(({ problem, count, first }) => [problem, count, first.map(({ line }) => line)]),
    [
      ["untrained", 2, [1, 4]],
      ["cut", 1, [1]],
      ["duplicate", 1, [3]],
    ],
  );
  assert.match(report.findings[0]?.first[1]?.text ?? "", /its weight is 0/);
  const file = fileOf(t, [long]);
  await assert.rejects(prepare(file, { maxLength: 20 }), {
    code: "INVALID_ARGUMENT",
    message:
      /rows\.jsonl: expected a row to train on, got none: 1 row trains nothing .*rows\.jsonl:1 \(the first trained token is number \d+, beyond max_length 20\)/,
    details: { file, line: "1" },
  });
});

test("wrong rows end a job's reading; a preview lists them all", async (t) => {
  const file = fileOf(t, ['{"text": "a"}', '{"text": ', '{"txt": "b"}', '{"text": 4}', '{"text": "b"}']);
  await assert.rejects(prepare(file), { code: "INVALID_ARGUMENT", message: /rows\.jsonl:2:10: / });
  const { store, report } = await prepare(file, { toleratesBad: true });
  assert.equal(store.count, 2);
  const [bad] = report.findings;
  assert.ok(bad);
  assert.deepEqual([bad.problem, bad.count, bad.first.map(({ line }) => line)], ["bad", 3, [2, 3, 4]]);
  assert.match(findingText(bad), /^3 rows cannot be read, the first at .*rows\.jsonl:2/);
});

test("a preview goes on after what ends a file early, and says where that was", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "a.json"), '[{"text": "a"},\n {"text": "b"},\n {"text": "c"');
  writeFileSync(join(folder, "b.jsonl"), '{"text": "d"}\n');
  const { store, report } = await prepare(folder, { toleratesBad: true });
  assert.equal(store.count, 3);
  const [bad] = report.findings;
  assert.deepEqual([bad?.problem, bad?.first[0]?.file, bad?.first[0]?.line], ["bad", join(folder, "a.json"), 3]);
  await assert.rejects(prepare(folder), { code: "INVALID_ARGUMENT", message: /a\.json:3:14: expected JSON/ });
});

test("an abort ends the reading", async (t) => {
  const file = fileOf(t, Array(600).fill('{"text": "a"}'));
  const controller = new AbortController();
  let seen = 0;
  const onExample = () => {
    if (++seen === 300) controller.abort();
  };
  await assert.rejects(prepare(file, { signal: controller.signal, onExample }), { code: "CANCELLED" });
  assert.equal(seen, 300);
});
