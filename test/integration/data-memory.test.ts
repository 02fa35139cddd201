// Rows are read, tokenized and looked at in the same memory whatever the file's size: the most that a process takes for
// a file and for one ten times as large, the engine's thread included.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { temporaryFolder } from "../support/folders.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Questions and answers of real rows with long texts beside them, as sets have them that nobody trains on. */
function writeRows(file: string, megabytes: number): void {
  const lines = readFileSync(join(root, "test", "data", "samples", "openassistant.jsonl"), "utf8")
    .trim()
    .split("\n");
  const texts = lines.map((line) => (JSON.parse(line) as { output: string }).output);
  const fd = openSync(file, "w");
  for (let i = 0, bytes = 0; bytes < megabytes << 20; i++) {
    const text = texts[i % texts.length] ?? "";
    const row = { prompt: `${i}`, completion: text.slice(0, 200), note: `${i}${text}`.repeat(12) };
    bytes += writeSync(fd, `${JSON.stringify(row)}\n`);
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
  writeRows(small, 8);
  writeRows(large, 80);
  const [before, after] = [await measure(small), await measure(large)];
  assert.ok(after.rows > 9 * before.rows, `${after.rows} rows`);
  // V8's heap comes to its plateau, some 20 MB higher, within the first 50 MB of rows.
  assert.ok(after.bytes < 1.25 * before.bytes, `${after.bytes} bytes beside ${before.bytes}`);
});
