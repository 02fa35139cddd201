// The next token of a sequence, from its row of logits: the native draw (ops/sampling.h), and around it what only some
// requests ask for: penalties for what the answer has, a constraint's mask, the likeliest tokens.
import { type SampledToken, sample, Tensor } from "#native";
import { int32Tensor } from "../batch.ts";
import type { GeneratedToken, GenerationRequest, Sequence, TokenLogprob, TokenScore } from "./sequence.ts";

/** A row of float32 [rows, V]. */
export interface RowOfLogits {
  logits: Tensor;
  row: number;
}

/** Whether the token is drawn from other logits than the model's, or needs more of them than the largest. */
export function needsAllLogits(request: GenerationRequest): boolean {
  const { topLogprobs = 0, constraint = null, score } = request;
  return topLogprobs > 0 || constraint !== null || score !== undefined || hasPenalty(request);
}

function hasPenalty({ frequencyPenalty = 0, presencePenalty = 0 }: GenerationRequest): boolean {
  return frequencyPenalty !== 0 || presencePenalty !== 0;
}

/** Row `row` of float32 [rows, V]. */
export function readRow(logits: Tensor, row: number): Float32Array {
  const vocab = logits.shape[1] ?? 0;
  return new Float32Array(logits.read(row * vocab * 4, vocab * 4).buffer);
}

/** Natural logarithm of the sum of exp(x), in double precision. */
export function logSumExp(values: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) if (value > max) max = value;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return max + Math.log(sum);
}

/** The k largest, largest first, the lowest id first among equals. */
export function likeliest(values: Float32Array, k: number, logTotal: number): TokenLogprob[] {
  const best: TokenLogprob[] = [];
  let least = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < values.length && k > 0; id++) {
    const value = values[id]!;
    if (best.length === k && value <= least) continue;
    let at = best.length;
    while (at > 0 && value > best[at - 1]!.logprob) at--;
    best.splice(at, 0, { id, logprob: value });
    if (best.length > k) best.pop();
    least = best.at(-1)!.logprob;
  }
  return best.map(({ id, logprob }) => ({ id, logprob: logprob - logTotal }));
}

/** OpenAI's penalties: both on tokens of the answer, one for each time they stand there. */
function penalize(values: Float32Array, answer: readonly number[], request: GenerationRequest): void {
  const { frequencyPenalty = 0, presencePenalty = 0 } = request;
  const counts = new Map<number, number>();
  for (const id of answer) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const [id, count] of counts) values[id]! -= frequencyPenalty * count + presencePenalty;
}

/** A bit for each token: those without one cannot be drawn. Tokens beyond the mask neither. */
function forbid(values: Float32Array, mask: Int32Array): void {
  for (let id = 0; id < values.length; id++) {
    if ((((mask[id >> 5] ?? 0) >> (id & 31)) & 1) === 0) values[id] = Number.NEGATIVE_INFINITY;
  }
}

function draw(logits: Tensor, row: number, sequence: Sequence, wantLogprob: boolean): SampledToken {
  const { sampling } = sequence.request;
  const hasSeen = sampling.repetitionPenalty !== 1;
  const seen = hasSeen ? int32Tensor(Int32Array.from(sequence.ids), logits.device) : null;
  try {
    return sample(logits, row, sampling, seen, sequence.newTokens, wantLogprob);
  } finally {
    seen?.free();
  }
}

/** How likely a given token is. */
export function scoreOf({ logits, row }: RowOfLogits, id: number, { topLogprobs = 0 }: GenerationRequest): TokenScore {
  const raw = readRow(logits, row);
  const logTotal = logSumExp(raw);
  const isGreedy = likeliest(raw, 1, 0)[0]?.id === id;
  return { id, logprob: raw[id]! - logTotal, isGreedy, top: likeliest(raw, topLogprobs, logTotal) };
}

/** Log-probabilities are the model's own: before penalties, constraints and temperature. */
export function pick({ logits, row }: RowOfLogits, sequence: Sequence): GeneratedToken {
  const { request } = sequence;
  const { wantLogits, wantLogprobs = true, topLogprobs = 0 } = request;
  const mask = request.constraint?.mask ?? null;
  if (!needsAllLogits(request)) {
    const { token: id, logprob } = draw(logits, row, sequence, wantLogits || wantLogprobs);
    return { id, logprob, logits: wantLogits ? readRow(logits, row) : null, top: [] };
  }
  const raw = readRow(logits, row);
  const logTotal = wantLogprobs || topLogprobs > 0 ? logSumExp(raw) : Number.NaN;
  const changed = raw.slice();
  if (hasPenalty(request)) penalize(changed, sequence.ids.slice(request.inputIds.length), request);
  if (mask) forbid(changed, mask);
  const bytes = new Uint8Array(changed.buffer);
  const own = Tensor.fromBytes(bytes, "float32", [1, raw.length], { device: logits.device, kind: "activations" });
  try {
    const { token: id } = draw(own, 0, sequence, false);
    const top = likeliest(raw, topLogprobs, logTotal);
    return { id, logprob: raw[id]! - logTotal, logits: wantLogits ? raw : null, top };
  } finally {
    own.free();
  }
}
