// The last layer of a step. Where only the largest logits matter, most of a large head is read in 8 bits: the tokens
// are those of the whole head (ops/screened_head.h). Log-probabilities need all of it.
import { type Device, elementBytes, HeadScreen, linearForward, screenColumnsMax, screenedHead, Tensor } from "#native";
import { denseWeight, linearFootprint } from "../model-load.ts";
import type { LlamaModel } from "../models/llama.ts";
import { needsAllLogits } from "./pick.ts";
import type { GenerationRequest } from "./sequence.ts";

/**
 * Which heads are kept in 8 bits as well, a byte a weight: large ones are a quarter of what a step reads, or more, as those of
 * small models with many tokens are.
 */
export type HeadScreening = "large" | "always" | "never";

const elementsOfLarge = 1 << 22;
const shareOfLarge = 1 / 4;
/** Largest logits that are found one by one. */
const keepMax = 256;
/** Of a step: what was measured; 8 bits take half the products' time where these take longer than memory. */
const screenedRowsMax = 32;

function isLarge(model: LlamaModel): boolean {
  const { out, in: columns, data } = model.head.weight;
  const bytes = out * columns * elementBytes[data.dtype];
  return out * columns >= elementsOfLarge && bytes >= shareOfLarge * (bytes + linearFootprint(model).bytes);
}

/** Null where the head is read as it is. The caller frees it. */
export function screenOf(model: LlamaModel, device: Device, which: HeadScreening): HeadScreen | null {
  const { weight } = model.head;
  if (which === "never" || (which === "large" && !isLarge(model))) return null;
  const isAble = weight.quant === null && weight.in <= screenColumnsMax && (device === "cpu" || device === "meta");
  return isAble ? new HeadScreen(weight, { device, kind: "weights" }) : null;
}

/** How many of the largest logits decide what a request is answered; 0: all of them. */
function keepOf(request: GenerationRequest): number {
  const { sampling, wantLogits, wantLogprobs = true } = request;
  const { temperature, topK, repetitionPenalty } = sampling;
  if (needsAllLogits(request)) return 0;
  if (wantLogits || wantLogprobs || repetitionPenalty !== 1) return 0;
  const keep = temperature === 0 ? 1 : topK;
  return keep <= keepMax ? keep : 0;
}

/** The same for requests of one step. */
export function keepOfAll(requests: readonly GenerationRequest[]): number {
  const keeps = requests.map(keepOf);
  return keeps.includes(0) || keeps.length > screenedRowsMax ? 0 : Math.max(...keeps);
}

/** Logits float32 [N, V] of x float32 [N, C]; with a screen, those that are not among the `keep` largest are less than these. */
export function headLogits(head: Tensor, x: Tensor, screen: HeadScreen | null, keep: number): Tensor {
  const weight = denseWeight(head);
  const y = Tensor.empty("float32", [x.shape[0] ?? 0, weight.out], { device: x.device, kind: "activations" });
  if (screen !== null && keep > 0) screenedHead({ x, w: weight, screen, keep, y });
  else linearForward({ x, w: weight, bias: null, lora: null, h: null, y });
  return y;
}
