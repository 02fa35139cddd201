// The PEFT runs: 20 losses and gradient norms, first gradients, first parameters, final adapter and logits;
// the same bits with gradient checkpointing. Tolerances are those of the golden files' makers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { openAdapterFolder } from "#packages/hub";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { allLogits, type GradientCheckpointing, lossAndGradients } from "../../packages/engine/forward.ts";
import { type Adapter, adapterParameters, attachAdapter, freeAdapter, loadAdapter } from "../../packages/engine/lora.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import { Adamw } from "../../packages/engine/optimizer.ts";
import { Trainer } from "../../packages/engine/trainer.ts";
import {
  examplesOf,
  floatsOf,
  goldenPath,
  goldenTensors,
  loadGoldenModel,
  maxDifference,
  relativeDifference,
  rowsOf,
} from "../support/golden-model.ts";

interface Run {
  base: string;
  loss: number[];
  grad_norm: number[];
}

const { hparams, runs }: { hparams: Record<string, number>; runs: Record<string, Run> } = JSON.parse(
  readFileSync(goldenPath("train/train.json"), "utf8"),
);
const data = goldenTensors("train/train_data.safetensors");
const [ids, labels] = [rowsOf(data("batches")), rowsOf(data("labels"))];
const step = (i: number) => examplesOf(ids.slice(2 * i, 2 * i + 2), labels.slice(2 * i, 2 * i + 2));
const adamw = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, maxGradNorm: 1, optimizer: "adamw_32bit", pagingDir: "." } as const;
const nextTurn = () => Promise.resolve();

function initAdapter(base: string, path = "train/init_adapter") {
  const model = loadGoldenModel(base, "cpu");
  using folder = openAdapterFolder(goldenPath(path), { config: model.config });
  const adapter = loadAdapter(folder, "cpu", true);
  attachAdapter(model, adapter);
  return { model, adapter };
}

async function train(base: string, gradientCheckpointing: GradientCheckpointing, split: boolean) {
  const { model, adapter } = initAdapter(base);
  const optimizer = new Adamw(adapterParameters(adapter), adamw);
  const schedule = { kind: "constant", lr: hparams["lr"] ?? 0, warmupSteps: 0, steps: 20 } as const;
  const options = { device: "cpu", dtype: "float32", gradientCheckpointing, schedule, seed: 0 } as const;
  const trainer = new Trainer(model, optimizer, options);
  const losses: number[] = [];
  const norms: number[] = [];
  for (let i = 0; i < 20; i++) {
    const microBatches = split ? step(i).map((example) => [example]) : [step(i)];
    const { loss, gradNorm } = await trainer.step(microBatches, nextTurn);
    losses.push(loss);
    norms.push(gradNorm);
  }
  return { losses, norms, model, adapter, optimizer };
}

function close(actual: readonly number[], expected: readonly number[], tolerance: (i: number) => number, what: string) {
  expected.forEach((want, i) => {
    const off = Math.abs((actual[i] ?? Number.NaN) - want) / want;
    assert.ok(off <= tolerance(i), `${what} of step ${i}: ${actual[i]}, expected ${want}, off by ${off}`);
  });
}

function snapshot(adapter: Adapter): Map<string, Float32Array> {
  return new Map(adapterParameters(adapter).map((p) => [p.name, p.value.toFloat32()]));
}

for (const [name, golden] of [
  ["qlora", runs["qlora"]!],
  ["lora_fp32", runs["lora_fp32"]!],
] as const) {
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
      for (const run of [checkpointed, selective]) {
        assert.deepEqual(run.losses, whole.losses);
        assert.deepEqual(snapshot(run.adapter), snapshot(whole.adapter));
      }
      const batch = uploadBatch(packExamples(step(0)), "cpu");
      const pass = { device: "cpu", dtype: "float32", gradientCheckpointing: "none", dropoutSeed: null } as const;
      const logits = allLogits(whole.model, batch, pass);
      const worst = relativeDifference(logits.toFloat32(), floatsOf(data(`logits_batch0.${name}_final`)));
      assert.ok(worst < 1e-3, `final logits differ by ${worst}`);
      logits.free();
      freeBatch(batch);
      for (const { model, adapter, optimizer } of [whole, split, checkpointed, selective]) {
        optimizer.free();
        freeAdapter(adapter);
        freeModel(model);
      }
    });
  });
}

test("qlora: gradients before the first step and parameters after it", async () => {
  const { model, adapter } = initAdapter("llama_untied_nf4_dq");
  const packed = packExamples(step(0));
  const batch = uploadBatch(packed, "cpu");
  const pass = { device: "cpu", dtype: "float32", gradientCheckpointing: "none", dropoutSeed: null } as const;
  lossAndGradients(model, batch, pass, 1 / packed.trainedTokens);
  const [grads, params] = [goldenTensors("train/qlora.grads_step0.safetensors"), goldenTensors("train/qlora.params_after_step0.safetensors")];
  const theirs = (name: string) => name.replace(/\.weight$/, ".default.weight");
  for (const { name, grad } of adapterParameters(adapter)) {
    const want = floatsOf(grads(theirs(name)));
    const top = want.reduce((m, g) => Math.max(m, Math.abs(g)), 0);
    const worst = maxDifference(grad.toFloat32(), want);
    assert.ok(worst <= 1e-4 * top, `${name}: gradient differs by ${worst}, largest ${top}`);
  }
  const optimizer = new Adamw(adapterParameters(adapter), adamw);
  optimizer.update(hparams["lr"] ?? 0);
  for (const { name, value } of adapterParameters(adapter)) {
    const off = relativeDifference(value.toFloat32(), floatsOf(params(theirs(name))));
    assert.ok(off < 1e-3, `${name}: differs by ${off} after the first step`);
  }
  optimizer.free();
  freeBatch(batch);
  freeAdapter(adapter);
  freeModel(model);
});
