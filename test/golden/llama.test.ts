// Logits, losses and greedy tokens of transformers (with bitsandbytes for the 4-bit folders), in float32.
// Tolerances are those of the golden files' makers: logits 2e-4, loss 1e-5.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Device } from "#native";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { allLogits, lossAndGradients } from "../../packages/engine/forward.ts";
import { Scheduler } from "../../packages/engine/generation/scheduler.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../packages/engine/models/llama.ts";
import { examplesOf, floatsOf, goldenTensors, loadGoldenModel, maxDifference, rowsOf } from "../support/golden-model.ts";

const golden = goldenTensors("model_golden.safetensors");
const ids = rowsOf(golden("input_ids"));
const models = [
  ["llama_untied", "fp32"],
  ["llama_tied", "fp32"],
  ["llama_untied_i192", "fp32"],
  ["llama_untied", "nf4"],
  ["llama_untied", "nf4_dq"],
  ["llama_untied", "fp4_dq"],
  ["llama_tied", "nf4_dq"],
  ["llama_untied_i192", "nf4_dq"],
] as const;

const pass = (device: Device) => ({ device, dtype: "float32", gradientCheckpointing: "none", dropoutSeed: null }) as const;

function greedy(model: LlamaModel, prompt: readonly number[], count: number): Promise<number[]> {
  const options = { sequencesMax: 4, stepTokensMax: 5, cacheTokensMax: 64, waitingMax: 4 } as const;
  const scheduler = new Scheduler(model, { ...options, device: "cpu", dtype: "float32" });
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const request = { inputIds: prompt, maxNewTokens: count, sampling, adapter: null, stopIds: [], wantLogits: false };
  return new Promise((resolve, reject) => {
    const tokens: number[] = [];
    const onFinish = () => resolve(tokens);
    scheduler.submit(request, { onToken: (t) => tokens.push(t.id), onFinish, onError: reject });
    while (scheduler.hasWork) scheduler.step();
    scheduler.free();
  });
}

for (const [name, kind] of models) {
  const folder = kind === "fp32" ? name : `${name}_${kind}`;
  describe(folder, () => {
    for (const device of ["cpu", "reference"] as const) {
      test(`logits and loss on ${device}`, () => {
        const model = loadGoldenModel(folder, device);
        const batch = uploadBatch(packExamples(examplesOf(ids, ids)), device);
        const logits = allLogits(model, batch, pass(device));
        const worst = maxDifference(logits.toFloat32(), floatsOf(golden(`logits.${name}.${kind}`)));
        assert.ok(worst < 2e-4, `logits differ by ${worst}`);
        const { lossSum } = lossAndGradients(model, batch, pass(device), null);
        const loss = lossSum / (ids.length * ((ids[0]?.length ?? 0) - 1));
        const want = floatsOf(golden(`loss.${name}.${kind}`))[0] ?? Number.NaN;
        assert.ok(Math.abs(loss - want) < 1e-5 * want, `loss ${loss}, expected ${want}`);
        logits.free();
        freeBatch(batch);
        freeModel(model);
      });
    }

    test("greedy tokens through the paged cache, the prompt in pieces of 5", async () => {
      const model = loadGoldenModel(folder, "cpu");
      const want = [...(rowsOf(golden(`greedy.${name}.${kind}`))[0] ?? [])];
      assert.deepEqual(await greedy(model, want.slice(0, 8), want.length - 8), want.slice(8));
      freeModel(model);
    });
  });
}

test("a document is not changed by its neighbours", () => {
  const model = loadGoldenModel("llama_untied", "cpu");
  const run = (rows: Int32Array[]) => {
    const batch = uploadBatch(packExamples(examplesOf(rows, null)), "cpu");
    const logits = allLogits(model, batch, pass("cpu"));
    const values = logits.toFloat32();
    logits.free();
    freeBatch(batch);
    return values;
  };
  const [first, second] = [ids[0]!.subarray(0, 7), ids[1]!];
  const together = run([first, second]);
  const alone = run([second]);
  assert.ok(maxDifference(together.subarray(first.length * 512), alone) < 1e-5);
  freeModel(model);
});
