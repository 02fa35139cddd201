// nibble merge and nibble export on golden models and the quickstart: what they write, what they say, refusals.
import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

const adapter = goldenPath("train/qlora_adapter");
const base = goldenPath("llama_untied_nf4_dq");

async function answer(model: string, more: string[]): Promise<number[]> {
  const run = await nibble([
    "generate",
    "--model",
    model,
    "--input-ids",
    "5,77,130,9",
    "--json",
    "--ignore-eos",
    ...more,
  ]);
  assert.equal(run.code, 0, run.stderr);
  return (JSON.parse(run.stdout) as { token_ids: number[] }).token_ids;
}

test("a merged folder answers as base and adapter do", async (t) => {
  const out = join(temporaryFolder(t), "merged");
  const run = await nibble(["merge", "--model", base, "--adapter", adapter, "--out", out]);
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stdout, /^wrote .*\n {2}14 layers merged into the values trained on, float32, /);
  assert.match(run.stdout, /the adapter names no base\n/);
  assert.match(run.stdout, /logits within \S+ of \S+, mean divergence \S+ nats, same most likely token 100\.0 %\n$/);
  const flags = ["--max-new-tokens", "12"];
  assert.deepEqual(await answer(out, flags), await answer(base, [...flags, "--adapter", adapter]));
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  assert.equal(config.quantization_config, undefined);
});

test("--requantize writes 4 bits and says how far that moved", async (t) => {
  const out = join(temporaryFolder(t), "merged");
  const run = await nibble(["merge", "--model", base, "--adapter", adapter, "--out", out, "--requantize", "--json"]);
  assert.equal(run.code, 0, run.stderr);
  const { drift } = JSON.parse(run.stdout);
  assert.ok(drift.meanDivergence > 0 && drift.maxDifference > 0.01, run.stdout);
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  assert.equal(config.quantization_config.load_in_4bit, true);
});

test("an original that is not there is refused and nothing is written", async (t) => {
  const out = join(temporaryFolder(t), "merged");
  const run = await nibble(["merge", "--model", base, "--adapter", adapter, "--out", out, "--into", "original"]);
  assert.equal(run.code, 2);
  assert.match(run.stderr, /^error: \[merge\] .*expected a 16-bit folder .*got one in 4 bits\n$/);
  assert.equal(existsSync(out), false);
});

test("export writes a GGUF file with the tokenizer, and refuses a model without one", async (t) => {
  const out = join(temporaryFolder(t), "made", "quickstart.gguf");
  const run = await nibble(["export", "--model", "models/quickstart", "--out", out, "--format", "q8_0"]);
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stdout, /^wrote .*\n {2}38 tensors, q8_0, 3\.4 MB, /);
  const head = readFileSync(out).subarray(0, 100_000).toString("latin1");
  assert.ok(head.startsWith("GGUF") && head.includes("tokenizer.chat_template"));
  const bareModel = join(temporaryFolder(t), "bare");
  cpSync(base, bareModel, { recursive: true, filter: (path) => !path.endsWith("tokenizer.json") });
  const bare = await nibble(["export", "--model", bareModel, "--out", `${out}.2`]);
  assert.equal(bare.code, 2);
  assert.match(bare.stderr, /tokenizer\.json: expected one in .*, got none\n$/);
  assert.equal(existsSync(`${out}.2`), false);
  const aFolder = await nibble(["export", "--model", "models/quickstart", "--out", bareModel]);
  assert.match(aFolder.stderr, /^error: \[output\] \S+bare: expected a file, got a folder\n$/);
  assert.equal(aFolder.code, 2);
});
