// What transformers said of the golden models, and what the engine says on a device.
import type { Device, DType } from "#native";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { floatsOf as elementsOf } from "../../packages/engine/dense.ts";
import { allLogits, lossAndGradients } from "../../packages/engine/forward.ts";
import { Scheduler } from "../../packages/engine/generation/scheduler.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../packages/engine/models/llama.ts";
import { examplesOf, floatsOf, goldenTensors, loadGoldenModel, rowsOf } from "./golden-model.ts";

const golden = goldenTensors("model_golden.safetensors");
export const goldenIds = rowsOf(golden("input_ids"));

const named = (name: string, kind: string) => ({
  folder: kind === "fp32" ? name : `${name}_${kind}`,
  want: {
    logits: floatsOf(golden(`logits.${name}.${kind}`)),
    loss: floatsOf(golden(`loss.${name}.${kind}`))[0] ?? Number.NaN,
    /** A prompt of 8 tokens and its answer. */
    greedy: [...(rowsOf(golden(`greedy.${name}.${kind}`))[0] ?? [])],
  },
});

export const goldenModels = [
  named("llama_untied", "fp32"),
  named("llama_tied", "fp32"),
  named("llama_untied_i192", "fp32"),
  named("llama_untied", "nf4"),
  named("llama_untied", "nf4_dq"),
  named("llama_untied", "fp4_dq"),
  named("llama_tied", "nf4_dq"),
  named("llama_untied_i192", "nf4_dq"),
];

export const plainPass = (device: Device, dtype: DType) =>
  ({ device, dtype, gradientCheckpointing: "none", dropoutSeed: null }) as const;

/** Logits of all rows, and the mean loss of the golden file's tokens. */
export function logitsOf(folder: string, device: Device, dtype: DType): { logits: Float32Array; loss: number } {
  const model = loadGoldenModel(folder, device);
  const batch = uploadBatch(packExamples(examplesOf(goldenIds, goldenIds)), device);
  const all = allLogits(model, batch, plainPass(device, dtype));
  const logits = elementsOf(all);
  const { lossSum } = lossAndGradients(model, batch, plainPass(device, dtype), null);
  all.free();
  freeBatch(batch);
  freeModel(model);
  return { logits, loss: lossSum / (goldenIds.length * ((goldenIds[0]?.length ?? 0) - 1)) };
}

function greedy(model: LlamaModel, device: Device, prompt: readonly number[], count: number): Promise<number[]> {
  const options = { sequencesMax: 4, stepTokensMax: 5, cacheTokensMax: 64, waitingMax: 4 } as const;
  const scheduler = new Scheduler(model, { ...options, device, dtype: "float32" });
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

/** The tokens after the prompt, the first 8 of `expected`, which goes through the paged cache in pieces of 5. */
export async function greedyOf(folder: string, device: Device, expected: readonly number[]): Promise<number[]> {
  const model = loadGoldenModel(folder, device);
  try {
    return await greedy(model, device, expected.slice(0, 8), expected.length - 8);
  } finally {
    freeModel(model);
  }
}
