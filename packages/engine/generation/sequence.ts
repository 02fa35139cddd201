// One request in the engine: what was asked, what has come, and where it stands in the cache.
import type { SamplingOptions } from "#native";
import type { ServedAdapter } from "./served-adapter.ts";
import type { RequestTracer } from "./step-trace.ts";

export interface GenerationRequest {
  inputIds: readonly number[];
  /** 0 for a request that is scored. */
  maxNewTokens: number;
  sampling: SamplingOptions;
  adapter: ServedAdapter | null;
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
  /** Who asks: callers are served alike. Default: "". */
  caller?: string;
  /** Tells adapters apart in the prefix cache, "" for the base. Null: nothing is shared. Default: null. */
  cacheKey?: string | null;
  /** Requests with one prompt that share its computation, pages included. Default: none. */
  group?: string;
  /** Tokens at most that are guessed in a step. Default: 0. */
  lookupTokens?: number;
  /** Asks how likely the given tokens are, instead of new ones. */
  score?: ScoreWish;
  /** Follows the request through the steps. Default: null, nobody does. */
  tracer?: RequestTracer | null;
}

export interface ScoreWish {
  /** Index of the first token that is scored, 1 or more: nothing comes before the first one. */
  from: number;
}

/** Tells which tokens may come next, and hears of those that came. */
export interface TokenConstraint {
  /** A bit for each token, the lowest of a word first; null: all may come. */
  readonly mask: Int32Array | null;
  /** Whether `mask` is of what was accepted, or tells why there is none. */
  readonly isReady: boolean;
  /** Not asked after the token that ends the answer. */
  accept(id: number): void;
  /** Resolves when `isReady`. */
  ready(): Promise<void>;
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

export interface TokenScore {
  id: number;
  logprob: number;
  /** Whether it is the most likely one. */
  isGreedy: boolean;
  /** As many as were asked for, likeliest first. */
  top: readonly TokenLogprob[];
}

export interface SequenceListener {
  onToken(token: GeneratedToken): void;
  /** Of a request that is scored. */
  onScore?(score: TokenScore): void;
  onFinish(reason: FinishReason, timing: SequenceTiming): void;
  onError(error: unknown): void;
}

/** Seconds of the process's monotonic clock that the sequence's own steps took. */
export interface SequenceTiming {
  promptTokens: number;
  /** Tokens of the prompt that were in the cache already. */
  cachedTokens: number;
  newTokens: number;
  prefillSeconds: number;
  decodeSeconds: number;
  /** From the request to its place in the batch. */
  queueSeconds: number;
}

export class Sequence {
  readonly request: GenerationRequest;
  readonly listener: SequenceListener;
  readonly caller: string;
  /** Those of the cache that it holds, in order. */
  pages: number[];
  /** Keys of its full pages, as far as they were needed. */
  readonly keys: string[] = [];
  /** Pages that others can find. */
  recorded = 0;
  /** Milliseconds of performance.now(). */
  readonly since = performance.now();
  queueSeconds: number | null = null;
  /** Prompt and answer so far. */
  readonly ids: number[];
  /** Tokens whose keys and values are in the cache. */
  cached = 0;
  /** Of the prompt, when it was first admitted. */
  cachedTokens = 0;
  cancelled = false;
  prefillSeconds = 0;
  decodeSeconds = 0;
  /** Of its group: the one that computes the prompt. */
  leader: Sequence | null = null;
  /** Those of its group that wait until it has computed the prompt. */
  forks: Sequence[] = [];

  constructor(request: GenerationRequest, listener: SequenceListener, pages: number[] = []) {
    this.request = request;
    this.listener = listener;
    this.caller = request.caller ?? "";
    this.pages = pages;
    this.ids = [...request.inputIds];
  }

  get newTokens(): number {
    return this.ids.length - this.request.inputIds.length;
  }

  /** Tokens to be computed before the next one can be drawn; what follows the last token of a score does not matter. */
  get length(): number {
    return this.request.score ? this.ids.length - 1 : this.ids.length;
  }

  /** While it computes its prompt, or all of it again after it lost its pages. */
  get isPrefilling(): boolean {
    return this.cached < Math.max(this.request.inputIds.length, this.length - 1);
  }

  /** Tokens at most that may come from the cache: the logits of the one after are needed. */
  get reusable(): number {
    return this.request.score ? this.request.score.from - 1 : this.ids.length - 1;
  }

  get timing(): SequenceTiming {
    const { newTokens, cachedTokens, prefillSeconds, decodeSeconds } = this;
    const queueSeconds = this.queueSeconds ?? (performance.now() - this.since) / 1000;
    const promptTokens = this.request.inputIds.length;
    return { promptTokens, cachedTokens, newTokens, prefillSeconds, decodeSeconds, queueSeconds };
  }
}
