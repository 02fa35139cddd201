// Inference of 7B as it is served: memory of one sequence, decoding for one and for 32, and 16 sequences with 16 adapters
// beside the base alone.
import { type Device, memory, type Tensor } from "#native";
import { Scheduler } from "../../../packages/engine/generation/scheduler.ts";
import { freeServed, type ServedAdapter, servedOf } from "../../../packages/engine/generation/served-adapter.ts";
import { createAdapter } from "../../../packages/engine/lora.ts";
import { freeModel, linearFootprint } from "../../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../../packages/engine/models/llama.ts";
import { median } from "../../harness/compare.ts";
import { finish, randomModel } from "../random-model.ts";
import { measureRates } from "../rates.ts";
import { gigabytes, type MeasureRow, type Setting } from "../row.ts";
import { configOf } from "../shapes.ts";
import { loraOf } from "../training.ts";

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

interface Decoding {
  device: Device;
  /** One a sequence; null: the base alone. */
  adapters: readonly (ServedAdapter | null)[];
  prompt: number;
  newTokens: number;
}

interface Decoded {
  /** Of each step that decodes a token for every sequence. */
  seconds: number[];
  /** Why steps were not recorded, on a card. */
  note: string[];
}

function decode(model: LlamaModel, { device, adapters, prompt, newTokens }: Decoding): Decoded {
  const count = adapters.length;
  const scheduler = new Scheduler(model, {
    ...{ device, dtype: "bfloat16", sequencesMax: count, waitingMax: count, stepTokensMax: count * prompt },
    cacheTokensMax: count * (Math.ceil((prompt + newTokens) / 16) * 16),
  });
  const errors: unknown[] = [];
  let drawn = 0;
  const listener = { onToken: () => drawn++, onFinish: () => {}, onError: (error: unknown) => errors.push(error) };
  adapters.forEach((adapter, i) => {
    const inputIds = Array.from({ length: prompt }, (_, k) => (k * 7919 + i * 31) % model.config.vocabSize);
    const request = { inputIds, maxNewTokens: newTokens, sampling: greedy, adapter, stopIds: [] };
    scheduler.submit({ ...request, wantLogits: false, wantLogprobs: false }, listener);
  });
  const seconds: number[] = [];
  while (scheduler.hasWork) {
    const before = drawn;
    finish(device);
    const started = performance.now();
    scheduler.step();
    finish(device);
    if (before >= count) seconds.push((performance.now() - started) / 1000);
  }
  const { error } = scheduler.graphStats;
  scheduler.free();
  if (errors.length > 0) throw errors[0];
  return { seconds, note: error === null ? [] : [`Steps ran plainly, as recording failed: ${error}`] };
}

const bases = (count: number): null[] => Array<null>(count).fill(null);
const sizesOf = (setting: Setting) =>
  setting.shape === "full" ? { prompt: 128, newTokens: 64 } : { prompt: 8, newTokens: 6 };

function openModel({ device, shape }: Setting): LlamaModel {
  memory.trim(device);
  memory.resetPeak(device);
  return randomModel(configOf("7b", shape), { device, positions: 2048 });
}

export const measureInference: MeasureRow = async (setting) => {
  const { device, shape } = setting;
  const full = shape === "full";
  const goal = 4.5e9;
  if (full) memory.setLimit(goal, device);
  const model = openModel(setting);
  const sizes = full ? { prompt: 448, newTokens: 64 } : sizesOf(setting);
  const { note } = decode(model, { device, adapters: bases(1), ...sizes });
  const { peakTotal, atPeak } = memory.report(device);
  freeModel(model);
  memory.setLimit(0, device);
  return {
    what: `7b: inference of one sequence of ${sizes.prompt + sizes.newTokens} tokens`,
    figures: {
      "tensors at their peak": gigabytes(peakTotal),
      weights: gigabytes(atPeak.weights),
      "cache and activations": gigabytes(atPeak.activations),
    },
    goals: [{ text: "< 4.5 GB", value: peakTotal, needed: goal, atMost: true }],
    notes: [...note, ...(full ? [`The allocation cap was ${goal / 1e9} GB.`] : [])],
  };
};

/** Bytes that a step of one sequence reads: 4-bit layers, head, keys and values of `tokens`. */
function bytesOfStep(model: LlamaModel, tokens: number): number {
  const { vocabSize, hiddenSize, layerCount, kvHeadCount, headDim } = model.config;
  return linearFootprint(model).bytes + 2 * vocabSize * hiddenSize + 4 * layerCount * kvHeadCount * headDim * tokens;
}

export const measureDecode: MeasureRow = async (setting) => {
  const { device } = setting;
  const model = openModel(setting);
  const sizes = sizesOf(setting);
  const [ofOne, ofMany] = [1, 32].map((count) => decode(model, { device, adapters: bases(count), ...sizes })) as [
    Decoded,
    Decoded,
  ];
  const [one, many] = [1 / median(ofOne.seconds), 32 / median(ofMany.seconds)];
  const bytes = bytesOfStep(model, sizes.prompt + sizes.newTokens / 2);
  freeModel(model);
  const rates = measureRates(setting);
  const bound = rates.copy / bytes;
  return {
    what: `7b: decoding ${sizes.newTokens} tokens after ${sizes.prompt}`,
    figures: {
      "one sequence": { value: one, unit: "tokens/s" },
      "32 sequences": { value: many, unit: "tokens/s" },
      "bytes of a step of one": gigabytes(bytes),
      "a copy": { value: rates.copy / 1e9, unit: "GB/s" },
      "its bytes at a copy's rate": { value: bound, unit: "tokens/s" },
    },
    goals: [
      { text: "≥ 70 % of the bandwidth's bound", value: one / bound, needed: 0.7, atMost: false },
      { text: "32 sequences ≥ 10 × one", value: many / one, needed: 10, atMost: false },
    ],
    notes: [...ofOne.note, ...ofMany.note, ...rates.notes],
  };
};

/** An adapter whose B is not zero, as one that was trained. */
function adapterOf(model: LlamaModel, device: Device, seed: number): ServedAdapter {
  const adapter = createAdapter(loraOf(16), model.config, device, seed);
  const ones = (t: Tensor) => t.write(new Uint8Array(new Float32Array(t.count).fill(1e-3).buffer));
  for (const { b } of adapter.layers.values()) ones(b);
  return servedOf(adapter);
}

export const measureAdapters: MeasureRow = async (setting) => {
  const { device } = setting;
  const model = openModel(setting);
  const adapters = Array.from({ length: 16 }, (_, i) => adapterOf(model, device, i));
  const sizes = sizesOf(setting);
  const run = (of: readonly (ServedAdapter | null)[]) =>
    16 / median(decode(model, { device, adapters: of, ...sizes }).seconds);
  const rounds = [0, 1, 2].map(() => [run(bases(16)), run(adapters)] as const);
  const alone = median(rounds.map(([base]) => base));
  const together = median(rounds.map(([, adapted]) => adapted));
  for (const adapter of adapters) freeServed(adapter);
  freeModel(model);
  return {
    what: "7b: decoding 16 sequences with 16 adapters of rank 16 on all linear layers, in turn with the base alone",
    figures: {
      "the base alone": { value: alone, unit: "tokens/s" },
      "16 adapters": { value: together, unit: "tokens/s" },
    },
    goals: [{ text: "≤ 10 % slower than the base", value: 1 - together / alone, needed: 0.1, atMost: true }],
    notes: [],
  };
};
