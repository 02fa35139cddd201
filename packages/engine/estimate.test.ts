// What the estimate says against what steps take: the same recipe runs for real on small models, and its peak is
// within 5 % of the estimate's, by kind and in all.
import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import { after, test } from "node:test";
import { chooseIsa, convert, isa, memory, setThreadCount, supportedIsas, Tensor } from "#native";
import type { TrainRecipe } from "#packages/data";
import type { LlamaConfig, LoraConfig } from "#packages/hub";
import type { Example } from "./batch.ts";
import { estimateMemory, type RunShape } from "./estimate.ts";
import { createModel, trainAllParameters } from "./full-parameters.ts";
import { adapterParameters, attachAdapter, createAdapter, freeAdapter } from "./lora.ts";
import { freeModel } from "./model-load.ts";
import type { LlamaModel } from "./models/llama.ts";
import { linearsOf } from "./models/llama.ts";
import { Adamw } from "./optimizer.ts";
import { defaultQuant, quantizeMatrix } from "./quantize-tensor.ts";
import { Trainer } from "./trainer.ts";

setThreadCount(2);
after(() => setThreadCount(availableParallelism()));

const small: LlamaConfig = {
  ...{ architecture: "LlamaForCausalLM", hiddenSize: 256, intermediateSize: 640, layerCount: 4, headCount: 8 },
  ...{ kvHeadCount: 4, headDim: 32, vocabSize: 1536, rmsNormEps: 1e-6, tieWordEmbeddings: true, hiddenAct: "silu" },
  ...{ attentionBias: false, mlpBias: false, maxPositionEmbeddings: 2048, dtype: "float32", quantization: null },
  ...{ bosTokenId: 0, eosTokenIds: [1], padTokenId: null },
  rope: { theta: 10000, scaling: { type: "default" } },
};

const adapterOf = (rank: number, dropout = 0): LoraConfig => ({
  ...{ rank, alpha: 16, dropout, useRslora: false, targetModules: "all-linear", rankPattern: {}, alphaPattern: {} },
  baseModelNameOrPath: "",
});

/** Rows of these lengths, of which the first `untrained` tokens have no label. */
function rowsOf(lengths: readonly number[], untrained: number, vocabulary: number): Example[] {
  return lengths.map((length) => ({
    inputIds: Int32Array.from({ length }, (_, i) => (i * 7 + length) % vocabulary),
    labels: Int32Array.from({ length }, (_, i) => (i < untrained ? -100 : (i * 7 + length) % vocabulary)),
  }));
}

interface Case {
  name: string;
  config?: Partial<LlamaConfig>;
  rank?: number;
  full?: boolean;
  bits?: 4 | 16;
  recipe?: Partial<TrainRecipe>;
  lengths?: number[][];
  untrained?: number;
  dropout?: number;
  stored?: "bfloat16";
  adapter?: "bfloat16";
}

const cases: Case[] = [
  { name: "the quickstart's model" },
  { name: "everything kept", recipe: { gradientCheckpointing: "none" } },
  { name: "everything recomputed", recipe: { gradientCheckpointing: "full" } },
  { name: "everything recomputed, inputs kept elsewhere", recipe: { gradientCheckpointing: "offload" } },
  { name: "bfloat16", recipe: { dtype: "bfloat16" } },
  { name: "bfloat16, recomputed", recipe: { dtype: "bfloat16", gradientCheckpointing: "full" } },
  { name: "rank 64, 8-bit state", rank: 64, recipe: { optimizer: "adamw_8bit" } },
  ...(["none", "selective", "full"] as const).map((gradientCheckpointing): Case => {
    const recipe = { dtype: "bfloat16", optimizer: "paged_adamw_8bit", gradientCheckpointing } as const;
    return { name: `an adapter in bfloat16, ${gradientCheckpointing}`, rank: 64, adapter: "bfloat16", recipe };
  }),
  { name: "rank 128, dropout", rank: 128, dropout: 0.1 },
  { name: "one long row", lengths: [[1500]] },
  { name: "short rows", lengths: [[3], [5, 2]] },
  { name: "packed rows of differing lengths", lengths: [[12, 300, 77], [45, 210, 133, 90], [500]] },
  { name: "a few trained tokens", lengths: [[400, 400]], untrained: 350 },
  { name: "16 bits", bits: 16 },
  { name: "all parameters", full: true },
  { name: "all parameters, 8-bit state", full: true, recipe: { optimizer: "adamw_8bit" } },
  { name: "all parameters, paged state", full: true, recipe: { optimizer: "paged_adamw_32bit" } },
  { name: "a large vocabulary, untied", config: { vocabSize: 50_000, tieWordEmbeddings: false } },
  {
    name: "a wide model",
    config: { hiddenSize: 576, intermediateSize: 1536, headCount: 9, kvHeadCount: 3, headDim: 64 },
  },
  { name: "biases, many heads", config: { attentionBias: true, mlpBias: true, headCount: 16, kvHeadCount: 2 } },
];

/** In the dtype of a folder that stores it so. */
function narrowAll(model: LlamaModel): void {
  const narrow = (t: Tensor) => {
    const half = Tensor.empty("bfloat16", t.shape, { device: "cpu", kind: "weights" });
    convert(t, half);
    t.free();
    return half;
  };
  for (const linear of model.blocks.flatMap(linearsOf)) {
    linear.weight = { ...linear.weight, data: narrow(linear.weight.data) };
  }
  model.embed = narrow(model.embed);
  model.head.weight = { ...model.head.weight, data: model.embed };
}

function quantizeAll(model: LlamaModel): void {
  for (const linear of model.blocks.flatMap(linearsOf)) {
    linear.weight = quantizeMatrix(linear.weight.data, linear.name, defaultQuant, "cpu");
  }
}

async function measured(run: RunShape, steps: number) {
  const { config, lora, quant, recipe } = run;
  const model = createModel(config, { seed: 1, std: 0.02 });
  if (run.stored.dtype === "bfloat16") narrowAll(model);
  if (quant) quantizeAll(model);
  memory.trim();
  memory.resetPeak();
  const adapter = lora && createAdapter(lora, config, "cpu", 0, run.adapterDtype);
  if (adapter) attachAdapter(model, adapter);
  const parameters = adapter ? adapterParameters(adapter) : trainAllParameters(model);
  const options = { beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, maxGradNorm: 0.3, pagingDir: "." };
  const optimizer = new Adamw(parameters, { ...options, ...recipe });
  const schedule = { kind: "constant", lr: 1e-3, warmupSteps: 0, steps: 9 } as const;
  const trainer = new Trainer(model, optimizer, { ...recipe, device: "cpu", schedule, seed: 0 });
  for (let i = 0; i < steps; i++) await trainer.step(run.trained, () => Promise.resolve());
  const report = memory.report();
  optimizer.free();
  if (adapter) freeAdapter(adapter);
  else for (const p of parameters) p.grad.free();
  freeModel(model);
  return report;
}

function runOf(c: Case): RunShape {
  const config = { ...small, ...c.config };
  const { rank = 16, full = false, bits = full ? 16 : 4, lengths = [[128, 100, 90, 200]], untrained = 4 } = c;
  return {
    config,
    stored: { dtype: c.stored ?? "float32", quant: null },
    quant: bits === 4 ? defaultQuant : null,
    lora: full ? null : adapterOf(rank, c.dropout),
    adapterDtype: c.adapter ?? "float32",
    recipe: {
      ...{ optimizer: "adamw_32bit", dtype: "float32", gradientCheckpointing: "selective" },
      ...c.recipe,
    } as RunShape["recipe"],
    trained: lengths.map((l) => rowsOf(l, Math.min(untrained, Math.min(...l) - 2), config.vocabSize)),
    evaluated: [],
  };
}

// Instruction sets differ in what they pack: a bfloat16 base on all of them, the rest on the best.
const halves: Case[] = (["none", "selective", "full"] as const).map((gradientCheckpointing) => ({
  name: `a bfloat16 base, ${gradientCheckpointing}`,
  stored: "bfloat16",
  recipe: { dtype: "bfloat16", gradientCheckpointing },
  lengths: [[200, 300, 4]],
}));
const best = isa();
const all = [
  ...cases.map((c) => ({ c, set: best })),
  ...supportedIsas().flatMap((set) => halves.map((c) => ({ c, set }))),
];

for (const { c, set } of all) {
  test(`${c.name} (${set})`, async () => {
    chooseIsa(set);
    const run = runOf(c);
    const quote = estimateMemory(run);
    const got = await measured(run, 2);
    const off = quote.peakTotal / got.peakTotal - 1;
    const figures = `said ${JSON.stringify(quote)}, took ${got.peakTotal} ${JSON.stringify(got.atPeak)}`;
    assert.equal(quote.paged, got.pagedPeak);
    assert.ok(Math.abs(off) < 0.05, `off by ${(off * 100).toFixed(1)} %: ${figures}`);
  });
}

test("nothing of an estimate stays, and it says the same again", () => {
  const run = runOf(cases[0]!);
  const first = estimateMemory(run);
  assert.deepEqual(estimateMemory(run), first);
  assert.equal(
    Object.values(memory.report("meta").current).reduce((a, b) => a + b, 0),
    0,
  );
});

test("LLaMA 65B is counted without its memory", () => {
  const config = {
    ...small,
    ...{ hiddenSize: 8192, intermediateSize: 22016, layerCount: 80, headCount: 64, kvHeadCount: 64, headDim: 128 },
    ...{ vocabSize: 32_000, tieWordEmbeddings: false },
  };
  const recipe = { optimizer: "paged_adamw_32bit", dtype: "bfloat16", gradientCheckpointing: "full" } as const;
  const trained = [rowsOf([512], 0, 32_000)];
  const stored = { dtype: "bfloat16", quant: defaultQuant } as const;
  const adapterDtype = "bfloat16" as const;
  const run = { config, stored, quant: null, lora: adapterOf(64), adapterDtype, recipe, trained, evaluated: [] };
  const { atPeak, peakTotal, paged, trainedParameters } = estimateMemory(run);
  // On a card of 48 GB, with room for what the driver takes.
  assert.ok(peakTotal <= 40e9, `${peakTotal}`);
  const linear = 80 * (4 * 8192 * 8192 + 3 * 8192 * 22016);
  const dense = 2 * 2 * 32_000 * 8192;
  // QLoRA section 3: 4 bits and 0.127 bits of constants a parameter.
  assert.ok(Math.abs(atPeak.weights / (linear * (4.127 / 8) + dense) - 1) < 0.02, `${atPeak.weights}`);
  assert.equal(trainedParameters, 80 * 64 * (4 * (8192 + 8192) + 3 * (8192 + 22016)));
  assert.ok(paged >= 12 * trainedParameters && atPeak.optimizer === 0);
});
