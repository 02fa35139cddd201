// The gradient of the whole tape against finite differences, in double precision activations' stead the
// reference backend: every kind of parameter, with an adapter, grouped heads and two documents.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Device } from "#native";
import type { LlamaConfig } from "#packages/hub";
import { freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { type GradientCheckpointing, lossAndGradients } from "./forward.ts";
import { createModel, trainAllParameters } from "./full-parameters.ts";
import { adapterParameters, attachAdapter, createAdapter } from "./lora.ts";
import type { LlamaModel } from "./models/llama.ts";
import type { Parameter } from "./parameters.ts";

const config: LlamaConfig = {
  architecture: "LlamaForCausalLM",
  hiddenSize: 12,
  intermediateSize: 20,
  layerCount: 2,
  headCount: 4,
  kvHeadCount: 2,
  headDim: 4,
  vocabSize: 17,
  rmsNormEps: 1e-6,
  rope: { theta: 10000, scaling: { type: "default" } },
  tieWordEmbeddings: true,
  attentionBias: false,
  mlpBias: false,
  maxPositionEmbeddings: 16,
  hiddenAct: "silu",
  bosTokenId: null,
  eosTokenIds: [],
  padTokenId: null,
  dtype: "float32",
  quantization: null,
};

const examples = [
  [3, 1, 4, 1, 5, 9],
  [2, 6, 5],
].map((ids) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(ids) }));
const device: Device = "cpu";

function lossOf(
  model: LlamaModel,
  scale: number | null,
  gradientCheckpointing: GradientCheckpointing = "full",
): number {
  const packed = packExamples(examples);
  const batch = uploadBatch(packed, device);
  const pass = { device, dtype: "float32", gradientCheckpointing, dropoutSeed: 7 } as const;
  const { lossSum } = lossAndGradients(model, batch, pass, scale === null ? null : scale / packed.trainedTokens);
  freeBatch(batch);
  return lossSum / packed.trainedTokens;
}

/** Central difference at one element. */
function slope(model: LlamaModel, { value }: Parameter, index: number, by: number): number {
  const values = value.toFloat32();
  const at = (x: number) => {
    const changed = values.slice();
    changed[index] = x;
    value.write(new Uint8Array(changed.buffer));
    return lossOf(model, null);
  };
  const start = values[index] ?? 0;
  const difference = (at(start + by) - at(start - by)) / (2 * by);
  value.write(new Uint8Array(values.buffer));
  return difference;
}

function check(model: LlamaModel, parameters: readonly Parameter[]): void {
  for (const p of parameters) p.grad.zero();
  lossOf(model, 1);
  for (const p of parameters) {
    const grad = p.grad.toFloat32();
    const top = grad.reduce((best, g, i) => (Math.abs(g) > Math.abs(grad[best] ?? 0) ? i : best), 0);
    for (const index of new Set([top, 0, grad.length >> 1])) {
      const want = slope(model, p, index, 4e-3);
      const got = grad[index] ?? Number.NaN;
      const allowed = 2e-3 * Math.max(0.05, Math.abs(want)) + 2e-4;
      assert.ok(Math.abs(got - want) <= allowed, `${p.name}[${index}]: gradient ${got}, slope ${want}`);
    }
  }
}

describe("gradients against finite differences", () => {
  test("all parameters of a tied model", () => {
    const model = createModel(config, { seed: 3, std: 0.3 });
    check(model, trainAllParameters(model));
  });

  test("an adapter on every linear layer", () => {
    const model = createModel(config, { seed: 4, std: 0.3 });
    const lora = {
      rank: 3,
      alpha: 6,
      dropout: 0,
      useRslora: true,
      targetModules: "all-linear",
      rankPattern: {},
      alphaPattern: {},
      baseModelNameOrPath: "",
    } as const;
    const adapter = createAdapter(lora, config, device, 5);
    // B starts at zero, where A has no gradient yet.
    for (const [name, { a, b }] of adapter.layers) {
      const values = new Float32Array(b.count).map((_, i) => Math.sin(i + name.length + a.count) * 0.2);
      b.write(new Uint8Array(values.buffer));
    }
    attachAdapter(model, adapter);
    const parameters = adapterParameters(adapter);
    check(model, parameters);
    // What is kept and what is made again changes no bit.
    const gradients = (mode: GradientCheckpointing) => {
      for (const p of parameters) p.grad.zero();
      return [lossOf(model, 1, mode), ...parameters.map((p) => p.grad.toFloat32())];
    };
    const expected = gradients("none");
    for (const mode of ["selective", "full"] as const) assert.deepEqual(gradients(mode), expected, mode);
  });
});
