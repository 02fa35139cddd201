// Python's openai package against a gateway, unchanged: what it is told is OPENAI_BASE_URL. Runs where a Python with it
// is found (NIBBLE_PYTHON, else python3); elsewhere it says that it was skipped.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startAll } from "../../services/gateway/test/support.ts";
import { temporaryFolder } from "../support/folders.ts";
import { modelWithTools } from "../support/models.ts";
import { skipWithout, startPython } from "../support/python.ts";

const script = fileURLToPath(new URL("openai_client.py", import.meta.url));

test("chat, streams, JSON schemas, completions, files and fine-tuning", { skip: skipWithout("openai") }, async (t) => {
  const { url } = await startAll(t, modelWithTools(t));
  const rows = join(temporaryFolder(t), "rows.jsonl");
  const row = {
    messages: [
      { role: "user", content: "Who is X?" },
      { role: "assistant", content: "Y Z" },
    ],
  };
  writeFileSync(rows, `${JSON.stringify(row)}\n`.repeat(8));
  const { code, stdout, stderr } = await startPython([script, rows], { OPENAI_BASE_URL: `${url}/v1` }).ended;
  assert.equal(code, 0, stderr);
  const { whole, streamed, shaped, completions, ...rest } = JSON.parse(stdout) as {
    whole: string;
    streamed: string;
    shaped: string;
    completions: string[];
  };
  assert.equal(streamed, whole);
  assert.match((JSON.parse(shaped) as { n: string }).n, /^(one|two)$/);
  assert.equal(completions.length, 4);
  assert.deepEqual(rest, {
    models: ["base", "py"],
    usage: 4,
    refused: "model_not_found",
    called: ["count", true],
    checkpoints: [40, 36, 32, 28, 24, 20, 16, 12, 8, 4],
    early: true,
    job: ["succeeded", "py@1"],
    pages: true,
    newest: "The job has succeeded",
    checkpoint: "py@1",
    tuned: " Y Z",
  });
});
