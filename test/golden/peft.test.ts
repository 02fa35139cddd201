// PEFT adapters that are more than LoRA: DoRA, saved embeddings, added tokens, trained tokens. Merged into their base they
// give PEFT's logits.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { memory } from "#native";
import { openModelFolder } from "#packages/hub";
import { packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { allLogits } from "../../packages/engine/forward.ts";
import { mergeAdapter } from "../../packages/engine/merge.ts";
import { freeModel, loadModel } from "../../packages/engine/model-load.ts";
import { ServedModel } from "../../packages/engine/served-model.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

const prompt = Int32Array.from([5, 77, 130, 9, 300, 41]);

/** After the last token of the prompt. */
function logitsOf(dir: string): Float32Array {
  using folder = openModelFolder(dir);
  const model = loadModel(folder, { device: "cpu", quant: null });
  const batch = uploadBatch(packExamples([{ inputIds: prompt, labels: null }]), "cpu");
  const options = { device: "cpu", dtype: "float32", gradientCheckpointing: "none", dropoutSeed: null } as const;
  const logits = allLogits(model, batch, options);
  const values = logits.toFloat32().subarray((prompt.length - 1) * model.config.vocabSize);
  logits.free();
  freeModel(model);
  return values;
}

/** After the prompt, by a served base with the adapter beside it. */
async function servedLogits(base: string, adapterDir: string): Promise<Float32Array> {
  const limits = { sequencesMax: 2, stepTokensMax: 64, cacheTokensMax: 128, waitingMax: 2 };
  const options = { modelDir: goldenPath(base), device: "cpu", dtype: "float32", quant: null, ...limits } as const;
  const model = ServedModel.open(options);
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const request = { inputIds: [...prompt], maxNewTokens: 1, sampling, ignoreEos: true, wantLogits: true };
  const { signal } = new AbortController();
  let logits: Float32Array | null = null;
  try {
    await model.loadAdapter("peft", adapterDir);
    const onToken = (token: { logits: Float32Array | null }) => {
      logits = token.logits;
    };
    // The base's answers run in the same batch and do not see the adapter.
    const alone = model.generate({ ...request, adapterId: null }, () => {}, signal);
    await Promise.all([alone, model.generate({ ...request, adapterId: "peft" }, onToken, signal)]);
  } finally {
    model.free();
  }
  return logits ?? assert.fail("no logits came");
}

const wanted = (adapterDir: string) => JSON.parse(readFileSync(join(adapterDir, "logits.json"), "utf8")) as number[];

function close(got: Float32Array, want: readonly number[]): void {
  assert.equal(got.length, want.length);
  for (const [i, w] of want.entries()) assert.ok(Math.abs(w - got[i]!) < 2e-5, `${i}: ${w} ${got[i]}`);
}

const cases = [
  ["dora", "llama_untied", 512],
  ["resized", "llama_untied", 515],
  ["tokens_tied", "llama_tied", 512],
  ["mod_tied", "llama_tied", 512],
] as const;

for (const [name, base, vocabSize] of cases) {
  test(`${name}: merged, it gives PEFT's logits`, async (t) => {
    const before = memory.report().current;
    const outDir = join(temporaryFolder(t), "merged");
    const adapterDir = goldenPath("peft", name);
    const job = { modelDir: goldenPath(base), adapterDir, outDir, quant: null, requantize: null, dtype: null };
    const report = await mergeAdapter({ ...job, into: "trained" });
    assert.ok(report.drift.maxDifference < 1e-4, JSON.stringify(report.drift));
    assert.deepEqual(memory.report().current, before, "nothing stays");
    const got = logitsOf(outDir);
    assert.equal(got.length, vocabSize);
    close(got, wanted(adapterDir));
  });
}

for (const [name, base] of cases) {
  test(`${name}: served beside the base, it gives PEFT's logits`, async () => {
    const adapterDir = goldenPath("peft", name);
    const before = memory.report().current;
    close(await servedLogits(base, adapterDir), wanted(adapterDir));
    const { weights, adapter } = memory.report().current;
    assert.deepEqual([weights, adapter], [before.weights, before.adapter], "nothing stays");
  });
}

test("a token that an adapter added is the adapter's alone", async () => {
  const options = { modelDir: goldenPath("llama_untied"), device: "cpu", dtype: "float32", quant: null } as const;
  const limits = { sequencesMax: 1, stepTokensMax: 8, cacheTokensMax: 64, waitingMax: 2 };
  const model = ServedModel.open({ ...options, ...limits });
  await model.loadAdapter("grown", goldenPath("peft", "resized"));
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const request = { inputIds: [5, 514], maxNewTokens: 2, sampling, ignoreEos: true, wantLogits: false };
  const ask = (adapterId: string | null) =>
    model.generate({ ...request, adapterId }, () => {}, new AbortController().signal);
  return assert
    .rejects(ask(null), /input_ids: expected ids in 0\.\.511, got 514/)
    .then(() => ask("grown"))
    .then(({ timing }) => assert.equal(timing.newTokens, 2))
    .finally(() => model.free());
});
