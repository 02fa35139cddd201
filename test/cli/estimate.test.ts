// nibble estimate: what it says is what train then takes; no weights are needed.
import assert from "node:assert/strict";
import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

const model = goldenPath("llama_untied");

async function json(args: readonly string[]): Promise<Record<string, never>> {
  const run = await nibble([...args, "--json"]);
  assert.equal(run.code, 0, run.stderr);
  return JSON.parse(run.stdout);
}

function rows(folder: string): string {
  const file = join(folder, "rows.jsonl");
  const row = (i: number) => JSON.stringify({ prompt: `The number ${i}`, completion: ` is ${"very ".repeat(i)}large` });
  writeFileSync(file, Array.from({ length: 9 }, (_, i) => row(i)).join("\n"));
  return file;
}

test("an estimate and the run after it", async (t) => {
  const folder = temporaryFolder(t);
  const args = ["--model", model, "--data", rows(folder), "--rank", "8", "--batch-size", "2", "--grad-accum", "2"];
  const quote = await json(["estimate", ...args]);
  const run = await json(["train", ...args, "--out", join(folder, "out")]);
  assert.deepEqual(
    [quote["steps"], quote["tokens"], quote["trainedParameters"], quote["fits"]],
    [run["steps"], run["tokens"], run["trainedParameters"], true],
  );
  const off = Number(run["memoryPeakBytes"]) / Number(quote["memoryPeakBytes"]) - 1;
  assert.ok(Math.abs(off) < 0.05, `${100 * off} %`);
  const sum = Object.values<number>(quote["memoryBytes"]!).reduce((a, b) => a + b, 0);
  assert.equal(sum, quote["memoryPeakBytes"]);
});

test("config.json is enough, and a card is another device", async (t) => {
  const folder = temporaryFolder(t);
  copyFileSync(join(model, "config.json"), join(folder, "config.json"));
  const args = ["--max-length", "64", "--steps", "10", "--optimizer", "paged_adamw_32bit", "--rank", "64"];
  const whole = await json(["estimate", "--model", model, ...args]);
  const bare = await json(["estimate", "--model", join(folder, "config.json"), ...args]);
  assert.deepEqual(bare["memoryBytes"], whole["memoryBytes"]);
  assert.ok(Number(bare["pagedBytes"]) > 0);
  const card = await json(["estimate", "--model", folder, ...args, "--device", "cuda"]);
  const wide = await json(["estimate", "--model", folder, ...args, "--dtype", "float32"]);
  assert.ok(Number(bare["memoryPeakBytes"]) < Number(wide["memoryPeakBytes"]), "bfloat16, the default, takes less");
  assert.deepEqual([card["fits"], card["seconds"], card["tokens"]], [null, null, bare["tokens"]]);
  const run = await nibble(["estimate", "--model", folder, ...args, "--memory-limit", "1MB"]);
  assert.match(run.stdout, /memory_limit leaves 0 B: it does not fit/);
  assert.match(run.stdout, /^ {2}in a spill file, besides +[\d.]+ [KM]B$/m);
});

test("the paper's models", async () => {
  const run = await nibble(["estimate", "--paper"]);
  for (const name of ["LLaMA 7B", "LLaMA 13B", "LLaMA 33B", "LLaMA 65B"]) assert.ok(run.stdout.includes(name), name);
  const { rows: models } = (await json(["estimate", "--paper"])) as unknown as {
    rows: { paper: { base: number }; ours: { peakTotal: number; atPeak: { weights: number } } }[];
  };
  // The paper's point: 65B on a card of 48 GB.
  assert.ok(models[3]!.ours.peakTotal <= 40e9);
  for (const { paper, ours } of models) assert.ok(ours.atPeak.weights < 1.05e6 * paper.base);
});
