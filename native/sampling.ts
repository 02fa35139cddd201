// Choice of the next tokens; see ops/sampling.h.
import { addon } from "./addon.ts";
import type { Tensor } from "./tensor.ts";

export interface SamplingOptions {
  /** 0 = greedy. */
  temperature: number;
  /** 0 = all. */
  topK: number;
  /** 1 = all. */
  topP: number;
  /** 0 = all. */
  minP: number;
  /** 1 = none. */
  repetitionPenalty: number;
  seed: number;
}

/** In the place of a token where the row has NaN or +Inf, or nothing above -Inf. */
export const noToken = -1;

export interface SampledToken {
  token: number;
  /** Natural logarithm of the token's probability under the raw logits; NaN where it is not wanted. */
  logprob: number;
}

/** What is asked of a row of logits. */
export interface SampleRow {
  row: number;
  options: SamplingOptions;
  /** Counts the draws of a seed. */
  stream: number;
  /** Subtracted for each time that the answer has the token. Default: 0. */
  frequencyPenalty?: number;
  /** Subtracted if the answer has the token. Default: 0. */
  presencePenalty?: number;
  /** Ids that the penalties are for. Default: none. */
  seen?: Int32Array | null;
  /** The last so many of `seen` are the answer's. Default: 0. */
  answerCount?: number;
  /** A bit for each token, the lowest of a word first: those without one may not come. Default: null, all may. */
  allowed?: Int32Array | null;
  /** Default: true. */
  wantLogprob?: boolean;
}

function numbersOf({ row, options, stream, wantLogprob = true, ...rest }: SampleRow): number[] {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = options;
  const { frequencyPenalty = 0, presencePenalty = 0, answerCount = 0 } = rest;
  return [
    ...[row, temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty],
    ...[answerCount, seed, stream, wantLogprob ? 1 : 0],
  ];
}

/** From rows of logits float32 [rows, V], a token each; none depends on the other rows. */
export function sample(logits: Tensor, rows: readonly SampleRow[]): SampledToken[] {
  const drawn: Float64Array = addon.sample(
    logits.handle,
    Float64Array.from(rows.flatMap(numbersOf)),
    rows.map(({ seen = null }) => seen),
    rows.map(({ allowed = null }) => allowed),
  );
  return rows.map(({ wantLogprob = true }, i) => ({
    token: drawn[2 * i] ?? 0,
    logprob: wantLogprob ? (drawn[2 * i + 1] ?? Number.NaN) : Number.NaN,
  }));
}
