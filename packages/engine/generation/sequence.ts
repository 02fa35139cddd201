// One request in the engine: what was asked, what has come, and where it stands in the cache.
import type { SamplingOptions } from "#native";
import type { Adapter } from "../lora.ts";

export interface GenerationRequest {
  inputIds: readonly number[];
  maxNewTokens: number;
  sampling: SamplingOptions;
  adapter: Adapter | null;
  /** Ids that end the sequence; empty with ignore-eos. */
  stopIds: readonly number[];
  /** Logits of the position that each token was drawn from. */
  wantLogits: boolean;
  /** False: tokens alone matter, and what they do not need of the head is not read; log-probabilities are then NaN. Default: true. */
  wantLogprobs?: boolean;
  /** The likeliest tokens at each place. Default: 0, none. */
  topLogprobs?: number;
  /** Subtracted from logits of the answer's tokens, once for each time they stand there. Default: 0. */
  frequencyPenalty?: number;
  /** Subtracted from logits of the answer's tokens. Default: 0. */
  presencePenalty?: number;
  /** What the answer may say. Default: null, anything. */
  constraint?: TokenConstraint | null;
}

/** Tells which tokens may come next, and hears of those that came. */
export interface TokenConstraint {
  /** A bit for each token, the lowest of a word first; null: all may come. */
  readonly mask: Int32Array | null;
  accept(id: number): void;
}

export interface TokenLogprob {
  id: number;
  logprob: number;
}

export type FinishReason = "eos" | "length" | "cancelled";

export interface GeneratedToken {
  id: number;
  /** NaN where none were wanted. */
  logprob: number;
  logits: Float32Array | null;
  /** As many as were asked for, likeliest first. */
  top: readonly TokenLogprob[];
}

export interface SequenceListener {
  onToken(token: GeneratedToken): void;
  onFinish(reason: FinishReason, timing: SequenceTiming): void;
  onError(error: unknown): void;
}

/** Seconds of the process's monotonic clock that the sequence's own steps took. */
export interface SequenceTiming {
  promptTokens: number;
  newTokens: number;
  prefillSeconds: number;
  decodeSeconds: number;
  /** From the request to its place in the batch. */
  queueSeconds: number;
}

export class Sequence {
  readonly request: GenerationRequest;
  readonly listener: SequenceListener;
  readonly pages: number[];
  readonly queueSeconds: number;
  /** Prompt and answer so far. */
  readonly ids: number[];
  /** Tokens whose keys and values are in the cache. */
  cached = 0;
  cancelled = false;
  prefillSeconds = 0;
  decodeSeconds = 0;

  constructor(request: GenerationRequest, listener: SequenceListener, pages: number[], queueSeconds = 0) {
    this.request = request;
    this.listener = listener;
    this.pages = pages;
    this.queueSeconds = queueSeconds;
    this.ids = [...request.inputIds];
  }

  get newTokens(): number {
    return this.ids.length - this.request.inputIds.length;
  }

  get isPrefilling(): boolean {
    return this.cached < this.request.inputIds.length;
  }

  get timing(): SequenceTiming {
    const { newTokens, prefillSeconds, decodeSeconds, queueSeconds } = this;
    return { promptTokens: this.request.inputIds.length, newTokens, prefillSeconds, decodeSeconds, queueSeconds };
  }
}
