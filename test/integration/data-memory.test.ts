// Rows are read, tokenized and looked at in the same memory whatever the file's size: the most that a process takes for
// a file and for one ten times as large, the engine's thread included. A row's tokens and labels that stayed would be 60 MB
// of the larger file, a row's object as much again. What the size of V8's young generation saves is less than two runs may
// differ by: `npm run bench:data` shows it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { temporaryFolder } from "../support/folders.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Questions and answers of real rows, no two alike. */
function writeRows(file: string, megabytes: number): void {
  const lines = readFileSync(join(root, "test", "data", "samples", "openassistant.jsonl"), "utf8")
    .trim()
    .split("\n");
  const texts = lines.map((line) => (JSON.parse(line) as { output: string }).output);
  const fd = openSync(file, "w");
  for (let i = 0, bytes = 0; bytes < megabytes << 20; i++) {
    bytes += writeSync(fd, `${JSON.stringify({ prompt: `${i}`, completion: texts[i % texts.length] })}\n`);
  }
  closeSync(fd);
}

const script = `
  const { Engine } = await import("#packages/engine");
  const { readRecipe } = await import("#packages/data");
  const engine = new Engine({ threads: 1 });
  const recipe = readRecipe({ flags: { model: "models/quickstart", data: process.argv[1], out: "none" } });
  const { rows } = await engine.preview({ recipe, rows: 0 });
  console.log(JSON.stringify({ rows, bytes: process.resourceUsage().maxRSS * 1024 }));
  await engine.close();`;

async function measure(file: string): Promise<{ rows: number; bytes: number }> {
  const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", script, file];
  const { stdout } = await promisify(execFile)(process.execPath, flags, { cwd: root });
  return JSON.parse(stdout);
}

test("memory is that of a file a tenth as large", async (t) => {
  const folder = temporaryFolder(t);
  const [small, large] = [join(folder, "small.jsonl"), join(folder, "large.jsonl")];
  writeRows(small, 3);
  writeRows(large, 30);
  const before = await measure(small);
  let after = await measure(large);
  assert.ok(after.rows > 9 * before.rows, `${after.rows} rows`);
  // How much garbage V8 lets lie differs by as much as 40 MB from run to run; rows that stay are there in every run.
  if (after.bytes >= before.bytes + 70e6) after = await measure(large);
  // V8's heap comes to its plateau, 20 to 50 MB higher, within the first 20 MB of rows.
  assert.ok(after.bytes < before.bytes + 70e6, `${after.bytes} bytes beside ${before.bytes}`);
});
