// Whether a model can be served in the memory that is there, decided before its weights are read: as for a run, the
// engine's own loading, its cache and the largest step are counted on the meta device.
import { countedAs, type DType, memory } from "#native";
import { NibbleError } from "#packages/errors";
import type { LlamaConfig } from "#packages/hub";
import { availableNow, type Need, refusalOf } from "./admission.ts";
import { screenOf } from "./generation/head.ts";
import { KvCache, type KvCacheOptions } from "./generation/kv-cache.ts";
import { outputRowsMax, type SchedulerOptions } from "./generation/scheduler.ts";
import { type GenerationRequest, Sequence } from "./generation/sequence.ts";
import { forwardShares } from "./generation/step.ts";
import { StepGraphs } from "./generation/step-graphs.ts";
import type { Share } from "./generation/step-rows.ts";
import { freeModel } from "./model-load.ts";
import type { QuantOptions } from "./quantize-tensor.ts";
import { type StoredWeights, shapeModel } from "./shape-model.ts";

export interface ServingShape {
  /** Whose kernels' workspace is counted. Default: the CPU's. */
  device?: "cpu" | "cuda";
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
    const rows = outputRowsMax(sequencesMax) - count + 1;
    const pages = KvCache.pagesFor(tokens(i));
    return shareOf(cache, { tokens: tokens(i), outputs: i > 0 ? 1 : Math.min(rows, tokens(i)), pages });
  });
}

function shareOf(
  cache: KvCache,
  { tokens, outputs, pages }: { tokens: number; outputs: number; pages: number },
): Share {
  const inputIds = new Array<number>(tokens).fill(0);
  const request: GenerationRequest = {
    ...{ inputIds, maxNewTokens: 1, sampling, adapter: null, stopIds: [], wantLogits: false },
  };
  // The pages' addresses do not matter, so sequences may share them.
  const held = Array.from({ length: pages }, (_, page) => page % cache.pageCount);
  return { sequence: new Sequence(request, listener, held), count: tokens, outputs, guesses: [] };
}

/** What the memory of recorded steps comes to when all numbers of rows and all widths of tables were met. */
function meetAllSteps(graphs: StepGraphs, cache: KvCache, { sequencesMax }: ServingShape["limits"], positions: number) {
  const pagesMax = Math.min(cache.pageCount, KvCache.pagesFor(positions));
  for (let rows = 1; rows < 2 * sequencesMax; rows *= 2) {
    const count = Math.min(rows, sequencesMax);
    for (let pages = 1; pages < 2 * pagesMax; pages *= 2) {
      graphs.forward(Array.from({ length: count }, () => shareOf(cache, { tokens: 1, outputs: 1, pages })));
    }
  }
}

/** Bytes of weights, cache and the largest step, adapters excluded. Pure. */
export function estimateServing(shape: ServingShape): Need {
  return countedAs(shape.device ?? "cpu", () => counted(shape));
}

function counted({ device: on, config, stored, quant, dtype, limits }: ServingShape): Need {
  memory.trim(device);
  memory.resetPeak(device);
  const positions = config.maxPositionEmbeddings;
  const model = shapeModel(config, { stored, quant, float32: false, positions });
  const place: KvCacheOptions = { device, dtype, tokensMax: limits.cacheTokensMax };
  const cache = new KvCache(config, place);
  const isCard = on === "cuda";
  const screen = isCard ? null : screenOf(model, device, limits.headScreening ?? "large");
  const graphs = isCard ? new StepGraphs(model, cache, place) : null;
  if (graphs) meetAllSteps(graphs, cache, limits, positions);
  forwardShares(model, cache, largestStep(cache, limits, positions), place).free();
  const { atPeak, peakTotal } = memory.report(device);
  graphs?.free();
  cache.free();
  screen?.free();
  freeModel(model);
  return { atPeak, peakTotal, paged: 0 };
}

/** @throws RESOURCE_EXHAUSTED with the numbers when it cannot fit. */
export function admitServing(shape: ServingShape, on: "cpu" | "cuda" = "cpu"): void {
  const need = estimateServing({ ...shape, device: on });
  const help = () => "fewer tokens in the cache, 4 bits or a smaller model would help";
  const refusal = refusalOf("serving the model", need, availableNow(null, on), help);
  if (refusal === null) return;
  throw new NibbleError(refusal.message, { code: "RESOURCE_EXHAUSTED", op: "serve", details: refusal.details });
}
