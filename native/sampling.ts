// Choice of the next token; see ops/sampling.h.
import { addon } from "./addon.ts";
import { handleOf } from "./linear.ts";
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

export interface SampledToken {
  token: number;
  /** Natural logarithm of the token's probability under the raw logits; NaN where it is not wanted. */
  logprob: number;
}

/** From row `row` of logits float32 [rows, V]. `seen` int32 holds the ids that the penalty is for; `stream` counts draws. */
export function sample(
  logits: Tensor,
  row: number,
  options: SamplingOptions,
  seen: Tensor | null,
  stream: number,
  wantLogprob = true,
): SampledToken {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = options;
  const drawn = addon.sample(
    logits.handle,
    row,
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    handleOf(seen),
    seed,
    stream,
    wantLogprob,
  );
  return wantLogprob ? drawn : { token: drawn.token, logprob: Number.NaN };
}
