// nibble quantize on a golden model: the folder it writes, its report, and refusals.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

test("--json is one object, and the folder says how it is quantized", async (t) => {
  const out = join(temporaryFolder(t), "q");
  const run = await nibble(["quantize", goldenPath("llama_untied"), "--out", out, "--json"]);
  assert.deepEqual([run.code, run.stderr], [0, ""]);
  const report = JSON.parse(run.stdout);
  assert.match(report.digest, /^sha256:[0-9a-f]{64}$/);
  assert.ok(report.bitsPerParameter > 4 && report.bitsPerParameter < 4.5, `${report.bitsPerParameter}`);
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  assert.equal(config.quantization_config.bnb_4bit_quant_type, "nf4");
  assert.equal(config.quantization_config.bnb_4bit_use_double_quant, true);
});

test("--type, --block-size and --no-double-quant reach the checkpoint", async (t) => {
  const out = join(temporaryFolder(t), "q");
  const flags = ["--type", "fp4", "--block-size", "128", "--no-double-quant"];
  const run = await nibble(["quantize", goldenPath("llama_untied"), "--out", out, ...flags]);
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stdout, /in 4\.250 bits each/);
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  assert.equal(config.quantization_config.bnb_4bit_quant_type, "fp4");
  assert.equal(config.quantization_config.bnb_4bit_use_double_quant, false);
});

test("a model that is quantized already is refused and nothing is written", async (t) => {
  const out = join(temporaryFolder(t), "q");
  const run = await nibble(["quantize", goldenPath("llama_untied_nf4"), "--out", out]);
  assert.equal(run.code, 2);
  assert.match(run.stderr, /^error: \[quantize\] .*quantized already\n$/);
  assert.equal(existsSync(out), false);
});
