// nibble data preview: what it prints of good and of bad rows, and how it ends.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { adapterWithTokens } from "../support/models.ts";

const model = goldenPath("llama_tied");

test("rows token by token, and what is odd about all of them", async (t) => {
  const file = join(temporaryFolder(t), "rows.csv");
  writeFileSync(file, "prompt,completion,id,weight\nQ: hi,yes,1,\nQ: hi,yes,2,0.5\n");
  const args = ["data", "preview", "--model", model, "--data", file];
  const run = await nibble([...args, "--rows", "1"]);
  assert.equal(run.code, 0, run.stderr);
  assert.equal(
    run.stdout,
    [
      `${file}:2  9 tokens`,
      "<s>Q: hi⟦yes</s>⟧",
      "",
      "2 rows to train on, format prompt-completion: 18 tokens, 8 of them trained, 9 in the longest",
      "columns not used: id",
      `duplicate: 1 row repeats an earlier row, token for token, the first at ${file}:3`,
      "",
    ].join("\n"),
  );
  const { preview, findings, rows } = JSON.parse((await nibble([...args, "--json"])).stdout);
  assert.deepEqual([rows, preview.length, preview[1].weight, findings[0].problem], [2, 2, 0.5, "duplicate"]);
  assert.deepEqual(preview[0].tokens.at(-1), { id: 1, text: "</s>", trained: true });
});

test("rows that cannot be read are listed, and end it with exit code 2", async (t) => {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, '{"text": "a"}\n{"text": \n{"words": "b"}\n');
  const run = await nibble(["data", "preview", "--model", model, "--data", file, "--rows", "0"]);
  assert.equal(run.code, 2);
  assert.match(
    run.stdout,
    /^bad: 2 rows cannot be read, the first at .*rows\.jsonl:2 \(column 10: expected JSON: expected a value, got the end\)$/m,
  );
  assert.match(
    run.stdout,
    /^ {2}.*rows\.jsonl:3 {2}expected the columns of text \{text\}, as .*:1 has; got \{words\}$/m,
  );
  assert.match(run.stderr, /^error: \[data preview\] 2 rows cannot be read/);
});

test("tokens that an adapter added are read as training on top of it reads them", async (t) => {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, '{"prompt": "a<one>", "completion": "<two>b"}\n');
  const args = ["data", "preview", "--model", goldenPath("llama_untied"), "--data", file, "--json"];
  const tokensOf = async (...more: string[]) => {
    const run = await nibble([...args, ...more]);
    assert.equal(run.code, 0, run.stderr);
    return JSON.parse(run.stdout).preview[0].tokens as { id: number; text: string; trained: boolean }[];
  };
  const added = (await tokensOf("--init-adapter", adapterWithTokens(t))).filter(({ id }) => id >= 512);
  assert.deepEqual(added, [
    { id: 512, text: "<one>", trained: false },
    { id: 513, text: "<two>", trained: true },
  ]);
  assert.ok((await tokensOf()).every(({ id }) => id < 512));
});
