// The PEFT runs: 20 losses and gradient norms, first gradients, first parameters, final adapter and logits;
// the same bits with gradient checkpointing. Tolerances are those of the golden files' makers.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { allLogits, type GradientCheckpointing, lossAndGradients } from "../../packages/engine/forward.ts";
import { adapterParameters, freeAdapter } from "../../packages/engine/lora.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import { Adamw } from "../../packages/engine/optimizer.ts";
import { plainPass } from "../support/golden-logits.ts";
import { floatsOf, goldenTensors, maxDifference, relativeDifference } from "../support/golden-model.ts";
import {
  goldenAdamw,
  goldenData,
  goldenLr,
  goldenRuns,
  goldenStart,
  goldenStep,
  snapshotOf,
  trainGolden,
} from "../support/golden-train.ts";

const train = (base: string, gradientCheckpointing: GradientCheckpointing, split: boolean) =>
  trainGolden(base, { device: "cpu", dtype: "float32", optimizer: "adamw_32bit", gradientCheckpointing, split });

function close(actual: readonly number[], expected: readonly number[], tolerance: (i: number) => number, what: string) {
  expected.forEach((want, i) => {
    const off = Math.abs((actual[i] ?? Number.NaN) - want) / want;
    assert.ok(off <= tolerance(i), `${what} of step ${i}: ${actual[i]}, expected ${want}, off by ${off}`);
  });
}

for (const [name, golden] of goldenRuns) {
  describe(name, () => {
    test("20 losses and gradient norms, with one batch, with accumulation, with checkpointing", async () => {
      const whole = await train(golden.base, "none", false);
      // 1e-5 at the start, 1e-4 at the end: rounding grows with the steps.
      close(whole.losses, golden.loss, (i) => 1e-5 * 10 ** (i / 19), "loss");
      close(whole.norms, golden.grad_norm, () => 1e-4, "gradient norm");
      const split = await train(golden.base, "none", true);
      close(split.losses, golden.loss, (i) => 1e-5 * 10 ** (i / 19), "loss with accumulation");
      const checkpointed = await train(golden.base, "full", false);
      const selective = await train(golden.base, "selective", false);
      const offloaded = await train(golden.base, "offload", false);
      for (const run of [checkpointed, selective, offloaded]) {
        assert.deepEqual(run.losses, whole.losses);
        assert.deepEqual(snapshotOf(run.adapter), snapshotOf(whole.adapter));
      }
      const batch = uploadBatch(packExamples(goldenStep(0)), "cpu");
          const logits = allLogits(whole.model, batch, plainPass("cpu", "float32"));
      const worst = relativeDifference(logits.toFloat32(), floatsOf(goldenData(`logits_batch0.${name}_final`)));
      assert.ok(worst < 1e-3, `final logits differ by ${worst}`);
      logits.free();
      freeBatch(batch);
      for (const run of [whole, split, checkpointed, selective, offloaded]) run.free();
    });
  });
}

test("qlora: gradients before the first step and parameters after it", async () => {
  const { model, adapter } = goldenStart("llama_untied_nf4_dq", "cpu");
  const packed = packExamples(goldenStep(0));
  const batch = uploadBatch(packed, "cpu");
  lossAndGradients(model, batch, plainPass("cpu", "float32"), 1 / packed.trainedTokens);
  const [grads, params] = [goldenTensors("train/qlora.grads_step0.safetensors"), goldenTensors("train/qlora.params_after_step0.safetensors")];
  const theirs = (name: string) => name.replace(/\.weight$/, ".default.weight");
  for (const { name, grad } of adapterParameters(adapter)) {
    const want = floatsOf(grads(theirs(name)));
    const top = want.reduce((m, g) => Math.max(m, Math.abs(g)), 0);
    const worst = maxDifference(grad.toFloat32(), want);
    assert.ok(worst <= 1e-4 * top, `${name}: gradient differs by ${worst}, largest ${top}`);
  }
  const optimizer = new Adamw(adapterParameters(adapter), goldenAdamw);
  optimizer.update(goldenLr);
  for (const { name, value } of adapterParameters(adapter)) {
    const off = relativeDifference(value.toFloat32(), floatsOf(params(theirs(name))));
    assert.ok(off < 1e-3, `${name}: differs by ${off} after the first step`);
  }
  optimizer.free();
  freeBatch(batch);
  freeAdapter(adapter);
  freeModel(model);
});
