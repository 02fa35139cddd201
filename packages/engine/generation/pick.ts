// The next tokens of sequences, from their rows of logits: one native draw for all of them (ops/sampling.h), and around it
// what only some requests ask for: logits, the likeliest tokens, how likely a given token is.
import { noToken, type SampledToken, type SampleRow, sample, type Tensor } from "#native";
import { NibbleError } from "#packages/errors";
import type { GeneratedToken, GenerationRequest, TokenLogprob, TokenScore } from "./sequence.ts";

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

/** How likely a given token is. */
export function scoreOf({ logits, row }: RowOfLogits, id: number, { topLogprobs = 0 }: GenerationRequest): TokenScore {
  const raw = readRow(logits, row);
  const logTotal = logSumExp(raw);
  const isGreedy = likeliest(raw, 1, 0)[0]?.id === id;
  return { id, logprob: raw[id]! - logTotal, isGreedy, top: likeliest(raw, topLogprobs, logTotal) };
}

/** A token to be drawn: from where, for whom, after which ids. */
export interface Draw {
  from: RowOfLogits;
  request: GenerationRequest;
  /** Prompt and answer so far. */
  ids: readonly number[];
}

/** A token, or why there is none: a draw that fails is nobody else's business. */
export type Drawn = GeneratedToken | NibbleError;

function sampleRow({ from, request, ids }: Draw): SampleRow {
  const { sampling, inputIds, frequencyPenalty = 0, presencePenalty = 0, constraint = null } = request;
  const { wantLogits, wantLogprobs = true, topLogprobs = 0 } = request;
  const newTokens = ids.length - inputIds.length;
  const isPenalized = sampling.repetitionPenalty !== 1 || hasPenalty(request);
  const seen = isPenalized ? { seen: Int32Array.from(ids), answerCount: newTokens } : {};
  const allowed = constraint?.mask ?? null;
  const wantLogprob = wantLogits || wantLogprobs || topLogprobs > 0;
  return {
    ...{ row: from.row, options: sampling, stream: newTokens },
    ...{ ...seen, frequencyPenalty, presencePenalty, allowed, wantLogprob },
  };
}

/** Log-probabilities are the model's own: before penalties, constraints and temperature. */
function generated({ token: id, logprob }: SampledToken, { from, request }: Draw): Drawn {
  if (id === noToken) {
    const message = "logits: expected finite numbers, got NaN or Inf, or nothing above -Inf";
    return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "sample" });
  }
  const { wantLogits, topLogprobs = 0 } = request;
  if (!wantLogits && topLogprobs === 0) return { id, logprob, logits: null, top: [] };
  const raw = readRow(from.logits, from.row);
  const top = likeliest(raw, topLogprobs, raw[id]! - logprob);
  return { id, logprob, logits: wantLogits ? raw : null, top };
}

/** What each draw gives, alone or beside others. */
export function pick(draws: readonly Draw[]): Drawn[] {
  const all = new Map<Draw, Drawn>();
  const ready: { draw: Draw; row: SampleRow }[] = [];
  for (const draw of draws) {
    try {
      ready.push({ draw, row: sampleRow(draw) });
    } catch (thrown) {
      all.set(draw, NibbleError.from(thrown, "generate"));
    }
  }
  for (const [logits, group] of Map.groupBy(ready, ({ draw }) => draw.from.logits)) {
    const rows = group.map(({ row }) => row);
    sample(logits, rows).forEach((token, i) => void all.set(group[i]!.draw, generated(token, group[i]!.draw)));
  }
  return draws.map((draw) => all.get(draw)!);
}
