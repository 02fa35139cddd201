// Whether a model can be served in the memory that is there, decided before its weights are read: as for a run, the
// engine's own loading, its cache and the largest step are counted on the meta device.
import { type Device, type DType, memory } from "#native";
import { NibbleError } from "#packages/errors";
import type { LlamaConfig } from "#packages/hub";
import { availableNow, type Need, refusalOf } from "./admission.ts";
import { screenOf } from "./generation/head.ts";
import { KvCache, type KvCacheOptions } from "./generation/kv-cache.ts";
import { outputRowsMax, type SchedulerOptions } from "./generation/scheduler.ts";
import { type GenerationRequest, Sequence } from "./generation/sequence.ts";
import { forwardShares } from "./generation/step.ts";
import type { Share } from "./generation/step-rows.ts";
import { freeModel } from "./model-load.ts";
import type { QuantOptions } from "./quantize-tensor.ts";
import { type StoredWeights, shapeModel } from "./shape-model.ts";

export interface ServingShape {
  config: LlamaConfig;
  stored: StoredWeights;
  /** Quantizes a 16-bit folder on load; null keeps it. */
  quant: QuantOptions | null;
  dtype: DType;
  limits: Pick<SchedulerOptions, "sequencesMax" | "stepTokensMax" | "cacheTokensMax" | "headScreening">;
}

const device = "meta";
const listener = { onToken() {}, onFinish() {}, onError() {} };
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

/** A step of as many sequences, tokens and outputs as the limits and the cache allow: one prompt, the others a token each. */
function largestStep(cache: KvCache, { sequencesMax, stepTokensMax }: ServingShape["limits"], positions: number) {
  const count = Math.min(sequencesMax, stepTokensMax, cache.pageCount);
  const tokens = (i: number) => (i > 0 ? 1 : Math.min(stepTokensMax - count + 1, cache.tokensMax, positions));
  return Array.from({ length: count }, (_, i): Share => {
    const inputIds = new Array<number>(tokens(i)).fill(0);
    const request: GenerationRequest = {
      ...{ inputIds, maxNewTokens: 1, sampling, adapter: null, stopIds: [], wantLogits: false },
    };
    // The pages' addresses do not matter, so sequences may share them.
    const pages = Array.from({ length: KvCache.pagesFor(inputIds.length) }, (_, page) => page % cache.pageCount);
    const rows = outputRowsMax(sequencesMax) - count + 1;
    const outputs = i > 0 ? 1 : Math.min(rows, inputIds.length);
    return { sequence: new Sequence(request, listener, pages), count: inputIds.length, outputs, guesses: [] };
  });
}

/** Bytes of weights, cache and the largest step, adapters excluded. Pure. */
export function estimateServing({ config, stored, quant, dtype, limits }: ServingShape): Need {
  memory.trim(device);
  memory.resetPeak(device);
  const positions = config.maxPositionEmbeddings;
  const model = shapeModel(config, { stored, quant, float32: false, positions });
  const place: KvCacheOptions = { device, dtype, tokensMax: limits.cacheTokensMax };
  const cache = new KvCache(config, place);
  const screen = screenOf(model, device, limits.headScreening ?? "large");
  forwardShares(model, cache, largestStep(cache, limits, positions), place).free();
  const { atPeak, peakTotal } = memory.report(device);
  cache.free();
  screen?.free();
  freeModel(model);
  return { atPeak, peakTotal, paged: 0 };
}

/** @throws RESOURCE_EXHAUSTED with the numbers when it cannot fit. */
export function admitServing(shape: ServingShape, on: Device = "cpu"): void {
  const need = estimateServing(shape);
  const help = () => "fewer tokens in the cache, 4 bits or a smaller model would help";
  const refusal = refusalOf("serving the model", need, availableNow(null, on), help);
  if (refusal === null) return;
  throw new NibbleError(refusal.message, { code: "RESOURCE_EXHAUSTED", op: "serve", details: refusal.details });
}
