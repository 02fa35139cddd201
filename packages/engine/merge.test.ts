// Base and adapter in one folder: its logits are those of both apart, whatever the base's bits.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { memory, normalFill } from "#native";
import { parseRecipe } from "#packages/data";
import { digestOfModel, openModelFolder } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { createAdapter, freeAdapter, saveAdapter } from "./lora.ts";
import { type MergeOptions, mergeAdapter } from "./merge.ts";
import { defaultQuant } from "./quantize-tensor.ts";
import { runTrainJob } from "./train-job.ts";

const folder = mkdtempSync(join(tmpdir(), "nibble-merge-"));
after(() => rmSync(folder, { recursive: true }));

function writeAdapter(name: string, base: string, baseDigest: string | null): string {
  using model = openModelFolder(base);
  const config = { rank: 4, alpha: 8, dropout: 0, useRslora: true, rankPattern: {}, alphaPattern: {} };
  const targets = { targetModules: ["q_proj", "down_proj"], baseModelNameOrPath: "" };
  const adapter = createAdapter({ ...config, ...targets }, model.config, "cpu", 1);
  let stream = 0;
  for (const { b } of adapter.layers.values()) normalFill(b, { mean: 0, std: 0.05, seed: 2, stream: stream++ });
  const path = join(folder, name);
  saveAdapter(path, adapter, { base: model.config, baseDigest, card: { title: name, summary: "", figures: [] } });
  freeAdapter(adapter);
  return path;
}

function digestOf(dir: string): string {
  using model = openModelFolder(dir);
  return digestOfModel(model);
}

function options(base: string, changes: Partial<MergeOptions> = {}): MergeOptions {
  const modelDir = goldenPath(base);
  const outDir = join(folder, "merged");
  rmSync(outDir, { recursive: true, force: true });
  const adapterDir = changes.adapterDir ?? writeAdapter("adapter", modelDir, null);
  return { modelDir, adapterDir, outDir, quant: null, into: "trained", requantize: null, dtype: null, ...changes };
}

for (const base of ["llama_untied", "llama_untied_nf4_dq", "llama_untied_fp4_dq", "llama_tied_nf4_dq"]) {
  test(`into ${base}, in the base's own type: logits within rounding`, async () => {
    const before = memory.report().current;
    const report = await mergeAdapter(options(base));
    const { maxDifference, maxLogit, meanDivergence, sameTop } = report.drift;
    assert.ok(maxLogit > 0.1 && maxDifference < 1e-4 * maxLogit, `${maxDifference} of ${maxLogit}`);
    assert.ok(Math.abs(meanDivergence) < 1e-7 && sameTop === 1);
    using merged = openModelFolder(report.outDir);
    assert.equal(merged.isQuantized, false);
    assert.equal(report.adaptedLayers, 2 * merged.config.layerCount);
    assert.deepEqual(memory.report().current, before, "nothing stays");
  });
}

test("the drift is that of the folder, not of the arithmetic: without the adapter's share it is large", async () => {
  const report = await mergeAdapter(options("llama_untied_nf4_dq"));
  const none = await mergeAdapter({ ...options("llama_untied"), quant: defaultQuant, into: "original" });
  assert.ok(none.drift.maxDifference > 100 * report.drift.maxDifference, "the original is another base");
});

test("quantized again, it moves and says how far", async () => {
  const report = await mergeAdapter(options("llama_untied_nf4_dq", { requantize: defaultQuant, dtype: "bfloat16" }));
  const { drift } = report;
  assert.ok(drift.maxDifference > 1e-4 && drift.meanDivergence > 0, JSON.stringify(drift));
  using merged = openModelFolder(report.outDir);
  assert.equal(merged.isQuantized, true);
  const readme = readFileSync(join(report.outDir, "README.md"), "utf8");
  assert.match(readme, /quantized again/);
  assert.match(readme, /largest difference of a logit at \d+ positions/);
});

test("what a short training adds to the codes' grid is not lost when it is quantized again", async () => {
  const [model, out] = ["models/quickstart", join(folder, "short")];
  const flags = { model, out, data: `${model}/data/train.jsonl`, steps: 12, batchSize: 16, gradAccum: 1, lr: 0.002 };
  const recipe = parseRecipe({ flags: { ...flags, maxLength: 256, alpha: 32 } });
  const job = { recipe, evalFile: null, evalSteps: 0, device: "cpu" } as const;
  await runTrainJob(job, { onEvent: () => {}, signal: new AbortController().signal });
  const into = { ...options("llama_untied"), modelDir: model, adapterDir: out, quant: defaultQuant };
  const { rounding, drift, driftWithout } = await mergeAdapter({ ...into, requantize: defaultQuant });
  assert.equal(rounding, "chance");
  assert.ok(driftWithout && drift.meanDivergence < 0.1 * driftWithout.meanDivergence, JSON.stringify(drift));
  const plain = await mergeAdapter(into);
  assert.deepEqual([plain.rounding, plain.driftWithout], [null, null]);
});

test("an adapter says which base it was trained on", async () => {
  const modelDir = goldenPath("llama_untied_nf4_dq");
  const adapterDir = writeAdapter("pinned", modelDir, digestOf(modelDir));
  const report = await mergeAdapter(options("llama_untied_nf4_dq", { adapterDir }));
  assert.equal(report.trainedOnBase, true);
  assert.equal(report.baseDigest, digestOf(modelDir));
  const other = options("llama_untied_nf4", { adapterDir });
  await assert.rejects(mergeAdapter(other), { code: "FAILED_PRECONDITION", message: /trained on another base/ });
  assert.ok(!existsSync(other.outDir));
});

test("the original of a folder in 4 bits is not there", async () => {
  const wrong = options("llama_untied_nf4_dq", { into: "original" });
  await assert.rejects(mergeAdapter(wrong), { code: "FAILED_PRECONDITION", message: /expected a 16-bit folder/ });
});

test("a cancelled merge leaves nothing", async () => {
  const controller = new AbortController();
  const before = memory.report().current;
  const wrong = options("llama_untied", { signal: controller.signal, onProgress: () => controller.abort() });
  await assert.rejects(mergeAdapter(wrong));
  assert.ok(!existsSync(wrong.outDir));
  assert.deepEqual(memory.report().current, before);
});
