// Continuous batching (Orca, OSDI 2022): each step takes all running sequences, a token each, and as much
// of the waiting prompts as the step's token budget holds. Sequences come and go between steps.
import type { HeadScreen } from "#native";
import { NibbleError } from "#packages/errors";
import type { LlamaModel } from "../models/llama.ts";
import type { TapeOptions } from "../tape.ts";
import { type HeadScreening, keepOfAll, screenOf } from "./head.ts";
import { KvCache } from "./kv-cache.ts";
import { pick } from "./pick.ts";
import { type FinishReason, type GenerationRequest, Sequence, type SequenceListener } from "./sequence.ts";
import { forwardShares, type Share } from "./step.ts";
import type { StepLogits } from "./step-logits.ts";

export interface SchedulerOptions extends Pick<TapeOptions, "device" | "dtype"> {
  /** Sequences in a step at most. */
  sequencesMax: number;
  /** Tokens in a step at most: bounds how long a long prompt holds up the others. */
  stepTokensMax: number;
  /** Tokens that the cache holds for all sequences together. */
  cacheTokensMax: number;
  /** Requests that may wait for a place. */
  waitingMax: number;
  /** Default: "large". */
  headScreening?: HeadScreening;
}

interface Waiting {
  request: GenerationRequest;
  listener: SequenceListener;
  /** Milliseconds of performance.now(). */
  since: number;
  cancelled: boolean;
}

/** Gauges are of now; counters grow from the scheduler's beginning. */
export interface SchedulerStats {
  running: number;
  waiting: number;
  pagesUsed: number;
  /** Pages of earlier requests that are kept for later ones. */
  pagesCached: number;
  pagesTotal: number;
  promptTokens: number;
  promptTokensCached: number;
  newTokens: number;
  preemptions: number;
  steps: number;
  lookupGuessed: number;
  lookupAccepted: number;
}

type RowOfLogits = ReturnType<StepLogits["of"]>;

const secondsSince = (ms: number): number => (performance.now() - ms) / 1000;

/** What a caller holds of its request. */
export interface Ticket {
  cancel(): void;
}

export class Scheduler {
  private readonly model: LlamaModel;
  private readonly options: SchedulerOptions;
  private readonly cache: KvCache;
  private readonly screen: HeadScreen | null;
  private readonly waiting: Waiting[] = [];
  private running: Sequence[] = [];
  private readonly counters = {
    promptTokens: 0,
    promptTokensCached: 0,
    newTokens: 0,
    preemptions: 0,
    steps: 0,
    lookupGuessed: 0,
    lookupAccepted: 0,
  };

  constructor(model: LlamaModel, options: SchedulerOptions) {
    this.model = model;
    this.options = options;
    this.cache = new KvCache(model.config, { ...options, tokensMax: options.cacheTokensMax });
    this.screen = screenOf(model, options.device, options.headScreening ?? "large");
  }

  get hasWork(): boolean {
    return this.running.length > 0 || this.waiting.length > 0;
  }

  get stats(): SchedulerStats {
    const { pageCount } = this.cache;
    const pagesUsed = this.running.reduce((sum, s) => sum + s.pages.length, 0);
    const pages = { pagesUsed, pagesCached: 0, pagesTotal: pageCount };
    return { running: this.running.length, waiting: this.waiting.length, ...pages, ...this.counters };
  }

  /** @throws INVALID_ARGUMENT for ids or lengths that the model cannot take, RESOURCE_EXHAUSTED when the queue is full. */
  submit(request: GenerationRequest, listener: SequenceListener): Ticket {
    this.check(request);
    const entry: Waiting = { request, listener, since: performance.now(), cancelled: false };
    this.waiting.push(entry);
    return {
      cancel: () => {
        entry.cancelled = true;
        for (const s of this.running) if (s.listener === listener) s.cancelled = true;
      },
    };
  }

  private check({ inputIds, maxNewTokens, adapter }: GenerationRequest): void {
    const fail = (message: string, code: "INVALID_ARGUMENT" | "RESOURCE_EXHAUSTED" = "INVALID_ARGUMENT"): never => {
      throw new NibbleError(message, { code, op: "generate" });
    };
    const vocabSize = adapter?.embed?.shape[0] ?? this.model.config.vocabSize;
    const positions = this.model.tables.cos.shape[0] ?? 0;
    const total = inputIds.length + maxNewTokens;
    if (inputIds.length === 0) fail("input_ids: expected at least one token, got none");
    if (!(maxNewTokens >= 1)) fail(`max_new_tokens: expected at least 1, got ${maxNewTokens}`);
    const bad = inputIds.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (bad !== undefined) fail(`input_ids: expected ids in 0..${vocabSize - 1}, got ${bad}`);
    if (total > positions) {
      fail(
        `length: expected at most ${positions} tokens (prompt and answer), got ${inputIds.length} + ${maxNewTokens}`,
      );
    }
    if (KvCache.pagesFor(total) > this.cache.pageCount) {
      fail(`length: the cache holds ${this.cache.tokensMax} tokens, got ${total}`, "RESOURCE_EXHAUSTED");
    }
    if (this.waiting.length >= this.options.waitingMax) {
      fail(`queue: expected at most ${this.options.waitingMax} waiting requests`, "RESOURCE_EXHAUSTED");
    }
  }

  /** One forward pass and a token for every sequence whose prompt is done. */
  step(): void {
    this.dropCancelled();
    this.admit();
    const shares = this.shares();
    if (shares.length === 0) return;
    const started = performance.now();
    let logits: StepLogits;
    try {
      const keep = keepOfAll(shares.map((s) => s.sequence.request));
      logits = forwardShares(this.model, this.cache, shares, this.options, { screen: this.screen, keep });
    } catch (error) {
      for (const { sequence } of shares) this.end(sequence, (listener) => listener.onError(error));
      return;
    }
    this.counters.steps++;
    const seconds = (performance.now() - started) / 1000;
    const tokens = shares.reduce((sum, s) => sum + s.count, 0);
    shares.forEach((share, i) => {
      this.advance(share, logits.of(i), (seconds * share.count) / tokens, seconds);
    });
    logits.free();
  }

  private dropCancelled(): void {
    for (const s of this.running.filter((r) => r.cancelled)) this.finish(s, "cancelled");
    for (const entry of this.waiting.filter((w) => w.cancelled)) {
      this.waiting.splice(this.waiting.indexOf(entry), 1);
      const promptTokens = entry.request.inputIds.length;
      const nothing = { newTokens: 0, prefillSeconds: 0, decodeSeconds: 0 };
      entry.listener.onFinish("cancelled", { promptTokens, ...nothing, queueSeconds: secondsSince(entry.since) });
    }
  }

  private admit(): void {
    while (this.running.length < this.options.sequencesMax) {
      const next = this.waiting[0];
      if (!next) return;
      const pages = this.cache.take(next.request.inputIds.length + next.request.maxNewTokens);
      if (!pages) return;
      this.waiting.shift();
      this.counters.promptTokens += next.request.inputIds.length;
      this.running.push(new Sequence(next.request, next.listener, pages, secondsSince(next.since)));
    }
  }

  /** Decoding sequences first, then prompts as far as the budget goes; rows of one adapter together. */
  private shares(): Share[] {
    let budget = this.options.stepTokensMax;
    const shares: Share[] = [];
    const byPhase = [...this.running].sort((a, b) => Number(a.isPrefilling) - Number(b.isPrefilling));
    for (const sequence of byPhase) {
      const count = Math.min(sequence.ids.length - sequence.cached, budget);
      if (count <= 0) continue;
      shares.push({ sequence, count });
      budget -= count;
    }
    const groups = Map.groupBy(shares, (s) => s.sequence.request.adapter);
    return [...groups.values()].flat();
  }

  private advance({ sequence, count }: Share, { logits, row }: RowOfLogits, share: number, whole: number): void {
    const prefilled = sequence.isPrefilling;
    sequence.cached += count;
    if (prefilled) sequence.prefillSeconds += share;
    else sequence.decodeSeconds += whole;
    if (sequence.cached < sequence.ids.length) return;
    const { stopIds, maxNewTokens } = sequence.request;
    const token = pick({ logits, row }, sequence);
    const { id } = token;
    this.counters.newTokens++;
    sequence.ids.push(id);
    sequence.listener.onToken(token);
    // The token that ends the answer is part of it, as in transformers' generate.
    if (stopIds.includes(id)) this.finish(sequence, "eos");
    else if (sequence.newTokens >= maxNewTokens) this.finish(sequence, "length");
  }

  private finish(sequence: Sequence, reason: FinishReason): void {
    this.end(sequence, (listener) => listener.onFinish(reason, sequence.timing));
  }

  private end(sequence: Sequence, tell: (listener: SequenceListener) => void): void {
    this.running = this.running.filter((s) => s !== sequence);
    this.cache.give(sequence.pages);
    tell(sequence.listener);
  }

  /** Whether a running or waiting request uses the adapter: it may not be freed then. */
  uses(adapter: GenerationRequest["adapter"]): boolean {
    return [...this.running, ...this.waiting].some(({ request }) => request.adapter === adapter);
  }

  free(): void {
    this.cache.free();
    this.screen?.free();
  }
}
