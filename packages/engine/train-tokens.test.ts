// Training on top of adapters that have an embedding or a head of their own: tokens were added or trained with them.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { memory } from "#native";
import { parseRecipe } from "#packages/data";
import { openAdapterFolder, readModelConfig } from "#packages/hub";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { adapterWithTokens } from "../../test/support/models.ts";
import { mergeAdapter } from "./merge.ts";
import { runTrainJob } from "./train-job.ts";
import type { TrainEvent } from "./train-run.ts";

async function train(t: TestContext, rows: readonly object[], flags: Record<string, unknown>) {
  const folder = temporaryFolder(t);
  const data = join(folder, "rows.jsonl");
  writeFileSync(data, rows.map((row) => JSON.stringify(row)).join("\n"));
  const fixed = { data, out: join(folder, "out"), bits: 16, dtype: "float32", steps: 4, batchSize: 4, lr: 5e-3 };
  const job = {
    recipe: parseRecipe({ flags: { ...fixed, ...flags } }),
    evalFile: data,
    evalSteps: 0,
    device: "cpu",
  } as const;
  const events: TrainEvent[] = [];
  const onEvent = (event: TrainEvent) => events.push(event);
  const report = await runTrainJob(job, { signal: new AbortController().signal, onEvent });
  const before = events.find((event) => event.kind === "eval");
  assert.ok(before?.kind === "eval" && report.evalLoss !== null);
  return { report, lossBefore: before.loss, evalLoss: report.evalLoss, events };
}

/** Rows of ids, the last of the vocabulary among them. */
const idsBelow = (vocabSize: number) =>
  Array.from({ length: 8 }, (_, i) => ({
    input_ids: Array.from({ length: 12 }, (_, k) =>
      k % 3 === 0 ? vocabSize - 1 - (i % 3) : (i * 31 + k * 7) % vocabSize,
    ),
  }));

const cases = [
  ["resized", "llama_untied", 515],
  ["tokens_tied", "llama_tied", 512],
  ["mod_tied", "llama_tied", 512],
] as const;

for (const [name, base, vocabSize] of cases) {
  test(`${name}: trains from what the adapter says, and keeps its embeddings`, async (t) => {
    const left = memory.report().current;
    const [modelDir, adapterDir] = [goldenPath(base), goldenPath("peft", name)];
    const merged = join(temporaryFolder(t), "merged");
    const job = { modelDir, adapterDir, outDir: merged, quant: null, requantize: null, dtype: null };
    await mergeAdapter({ ...job, into: "trained" });
    const rows = idsBelow(vocabSize);
    const { report, lossBefore, evalLoss, events } = await train(t, rows, { model: modelDir, initAdapter: adapterDir });
    const alone = await train(t, rows, { model: merged, steps: 1 });
    // The merged weights are rounded to the base's 16 bits where LoRA is added to them.
    assert.ok(Math.abs(lossBefore - alone.lossBefore) < 2e-3, `${lossBefore} and ${alone.lossBefore}`);
    assert.ok(evalLoss < lossBefore - 0.01, `${lossBefore} to ${evalLoss}`);
    assert.ok(events.some((event) => event.kind === "log" && event.text.includes("embedding and head stay")));
    const off = report.estimate.peakTotal / report.memory.peakTotal - 1;
    assert.ok(Math.abs(off) < 0.05, `the quote is off by ${(off * 100).toFixed(1)} %`);

    const { config } = readModelConfig(modelDir);
    using before = openAdapterFolder(adapterDir);
    using after = openAdapterFolder(report.outDir, { config, digest: report.baseDigest });
    assert.deepEqual(after.extras, before.extras);
    const { modulesToSave, trainableTokens } = before.config;
    assert.deepEqual([after.config.modulesToSave, after.config.trainableTokens], [modulesToSave, trainableTokens]);
    for (const key of after.file.tensors.keys()) {
      const same = Buffer.compare(after.file.read(key), before.file.read(key)) === 0;
      assert.equal(same, !key.includes("lora_"), key);
    }
    // The next run begins where this one ended.
    const again = await train(t, rows, { model: modelDir, initAdapter: report.outDir, steps: 1 });
    assert.ok(Math.abs(again.lossBefore - evalLoss) < 1e-5);
    const { weights, adapter } = memory.report().current;
    assert.deepEqual([weights, adapter], [left.weights, left.adapter], "nothing stays");
  });
}

test("rows are read with the texts of the tokens that were added, and the result has them", async (t) => {
  const adapterDir = adapterWithTokens(t);
  const flags = { model: goldenPath("llama_untied"), initAdapter: adapterDir };
  const rows = [{ prompt: "a<one>", completion: "<two>b" }];
  const { report } = await train(t, rows, { ...flags, steps: 1 });
  const facts = JSON.parse(readFileSync(join(report.outDir, "data.json"), "utf8"));
  assert.equal(facts.tokens, 1 + 2 + 2 + 1); // BOS, a <one>, <two> b, EOS
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
    assert.equal(readFileSync(join(report.outDir, file), "utf8"), readFileSync(join(adapterDir, file), "utf8"));
  }
  assert.ok(!existsSync(join(report.outDir, "added_tokens.json")));
});

test("DoRA's magnitudes are not trained further", async (t) => {
  const flags = { model: goldenPath("llama_untied"), initAdapter: goldenPath("peft", "dora") };
  const refused = {
    code: "FAILED_PRECONDITION",
    message: /expected an adapter without DoRA .* got use_dora; merge it/,
  };
  await assert.rejects(train(t, idsBelow(512), flags), refused);
  // Before a row is read.
  await assert.rejects(train(t, [], flags), refused);
});
