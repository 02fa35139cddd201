// Continuous batching (Orca, OSDI 2022): each step takes all running sequences, a token each, and as much of the waiting
// prompts as the step's token budget holds. Sequences come and go between steps. Pages of the cache are taken as they are
// needed; when none is left, the sequence that came last gives its own up and is computed again later (vLLM's recompute
// preemption). The oldest one never does, so there is always progress.
import { setTimeout as sleep } from "node:timers/promises";
import type { HeadScreen } from "#native";
import { NibbleError } from "#packages/errors";
import type { LlamaModel } from "../models/llama.ts";
import type { TapeOptions } from "../tape.ts";
import { checkRequest } from "./check-request.ts";
import { FairQueue, tokenCosts } from "./fair-queue.ts";
import { type HeadScreening, keepOfAll, screenOf } from "./head.ts";
import { KvCache } from "./kv-cache.ts";
import { lookUp } from "./lookup.ts";
import { PageTable } from "./page-table.ts";
import { type Draw, type Drawn, pick, scoreOf } from "./pick.ts";
import { type FinishReason, type GenerationRequest, Sequence, type SequenceListener } from "./sequence.ts";
import type { ServedAdapter } from "./served-adapter.ts";
import { forwardShares } from "./step.ts";
import { StepGraphs } from "./step-graphs.ts";
import type { StepLogits } from "./step-logits.ts";
import type { Share } from "./step-rows.ts";
import { traceStep } from "./step-trace.ts";

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
  /** Whether a card's decoding steps are recorded and replayed; see step-graphs.ts. Default: true. */
  stepGraphs?: boolean;
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

/** What a caller holds of its request. */
export interface Ticket {
  cancel(): void;
}

/** Rows of logits of a step at most: a token each for all sequences; where few run, guesses and scores use the rest. */
export const outputRowsMax = (sequencesMax: number): number => Math.max(sequencesMax, 16);

/** Milliseconds that a step waits for masks. */
const maskWaitMs = 5;

const isLate = ({ request }: Sequence): boolean => request.constraint?.isReady === false;

export class Scheduler {
  private readonly model: LlamaModel;
  private readonly options: SchedulerOptions;
  private readonly cache: KvCache;
  private readonly pages: PageTable;
  private readonly screen: HeadScreen | null;
  /** Null where steps are not recorded, or no longer. */
  private graphs: StepGraphs | null;
  private graphsError: unknown = null;
  private readonly queue = new FairQueue<Sequence>();
  /** Have lost their pages; they come before all that wait, in the order in which they were admitted. */
  private preempted: Sequence[] = [];
  /** In the order of their admission. */
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
    this.pages = new PageTable(this.cache);
    this.screen = screenOf(model, options.device, options.headScreening ?? "large");
    const records = options.device === "cuda" && options.stepGraphs !== false;
    this.graphs = records ? new StepGraphs(model, this.cache, options) : null;
  }

  /** All that are not in the batch: in the queue, preempted, or behind the one that computes their prompt. */
  private *waiting(): Generator<Sequence> {
    yield* this.preempted;
    yield* this.queue;
    for (const leader of [...this.running, ...this.preempted, ...this.queue]) yield* leader.forks;
  }

  get hasWork(): boolean {
    return this.running.length > 0 || this.preempted.length > 0 || this.queue.size > 0;
  }

  private get waitingCount(): number {
    return [...this.waiting()].length;
  }

  get stats(): SchedulerStats {
    const { pool } = this.pages;
    const pages = { pagesUsed: pool.count - pool.free, pagesCached: pool.cached, pagesTotal: pool.count };
    return { running: this.running.length, waiting: this.waitingCount, ...pages, ...this.counters };
  }

  /** @throws INVALID_ARGUMENT for ids or lengths that the model cannot take, RESOURCE_EXHAUSTED when the queue is full. */
  submit(request: GenerationRequest, listener: SequenceListener): Ticket {
    const { waitingMax } = this.options;
    checkRequest(request, { model: this.model, cache: this.cache, waiting: this.waitingCount, waitingMax });
    const sequence = new Sequence(request, listener);
    sequence.leader = this.leaderOf(request.group);
    if (sequence.leader?.isPrefilling) sequence.leader.forks.push(sequence);
    else this.queue.push(sequence);
    return {
      cancel: () => {
        sequence.cancelled = true;
      },
    };
  }

  private leaderOf(group: string | undefined): Sequence | null {
    if (group === undefined) return null;
    const all = [...this.running, ...this.preempted, ...this.queue];
    return all.find((s) => s.request.group === group && s.leader === null) ?? null;
  }

  /**
   * Resolves when a step can be taken: constraints know what may come next. That mostly takes far less than a step; those
   * that take longer sit steps out, so that nobody else waits for them.
   */
  async ready(): Promise<void> {
    const late = this.running.filter(isLate);
    if (late.length === 0) return;
    const giveUp = new AbortController();
    const patience = sleep(maskWaitMs, undefined, { signal: giveUp.signal }).catch(() => {});
    await Promise.race([Promise.all(late.map((s) => s.request.constraint?.ready())), patience]);
    giveUp.abort();
  }

  /** One forward pass and a token for every sequence whose prompt is done. */
  step(): void {
    this.dropCancelled();
    this.admit();
    const shares = this.shares();
    if (shares.length === 0) return;
    const started = performance.now();
    let computed: { logits: StepLogits; drawn: Drawn[][] };
    try {
      computed = this.compute(shares);
    } catch (error) {
      for (const { sequence } of shares) this.end(sequence, (listener) => listener.onError(error));
      return;
    }
    const { logits, drawn } = computed;
    this.counters.steps++;
    const seconds = (performance.now() - started) / 1000;
    const tokens = shares.reduce((sum, s) => sum + s.count, 0);
    traceStep(shares, { step: this.counters.steps, started, seconds }, this.pages.pool);
    let row = 0;
    for (const [i, share] of shares.entries()) {
      const outputs = { logits, firstRow: row, drawn: drawn[i] ?? [] };
      this.advance(share, outputs, { share: (seconds * share.count) / tokens, whole: seconds });
      row += share.outputs;
    }
    logits.free();
  }

  private forward(shares: readonly Share[]): StepLogits {
    const keep = keepOfAll(shares.flatMap((s) => new Array<GenerationRequest>(s.outputs).fill(s.sequence.request)));
    return forwardShares(this.model, this.cache, shares, this.options, { screen: this.screen, keep });
  }

  /** Null for a step that is to run plainly; after an error all are, as a step may lack what its graphs hold of memory. */
  private replayed(shares: readonly Share[]): StepLogits | null {
    try {
      return this.graphs?.forward(shares) ?? null;
    } catch (error) {
      this.graphs?.free();
      this.graphs = null;
      this.graphsError = error;
      return null;
    }
  }

  /** Logits, and what is drawn from them for each share: its next token, and those after its guesses, as if these were right. */
  private compute(shares: readonly Share[]): { logits: StepLogits; drawn: Drawn[][] } {
    const logits = this.replayed(shares) ?? this.forward(shares);
    try {
      let row = 0;
      const draws = shares.map(({ sequence: { request, ids }, outputs, guesses }): Draw[] => {
        const first = row;
        row += outputs;
        if (request.score) return [];
        const after = (i: number) => (i === 0 ? ids : [...ids, ...guesses.slice(0, i)]);
        return Array.from({ length: outputs }, (_, i) => ({ from: logits.of(first + i), request, ids: after(i) }));
      });
      const drawn = pick(draws.flat());
      return { logits, drawn: draws.map(({ length }) => drawn.splice(0, length)) };
    } catch (thrown) {
      logits.free();
      throw thrown;
    }
  }

  private dropCancelled(): void {
    for (const s of this.running.filter((r) => r.cancelled)) this.finish(s, "cancelled");
    for (const s of [...this.waiting()].filter((w) => w.cancelled)) {
      this.preempted = this.preempted.filter((p) => p !== s);
      this.queue.remove(s);
      if (s.leader) s.leader.forks = s.leader.forks.filter((f) => f !== s);
      this.finish(s, "cancelled");
    }
  }

  private admit(): void {
    while (this.running.length < this.options.sequencesMax) {
      const next = this.preempted[0] ?? this.queue.peek();
      // Each running sequence may need a page soon: a prompt must not take the last ones.
      if (!next || !this.pages.open(next, this.running.length)) return;
      if (this.preempted[0] === next) this.preempted.shift();
      else this.queue.remove(next);
      if (next.queueSeconds === null) {
        next.queueSeconds = (performance.now() - next.since) / 1000;
        next.cachedTokens = Math.min(next.cached, next.request.inputIds.length);
        this.counters.promptTokens += next.request.inputIds.length;
        this.counters.promptTokensCached += next.cachedTokens;
        this.queue.charge(next.caller, tokenCosts.prompt * next.request.inputIds.length);
      }
      this.running.push(next);
    }
  }

  /** Decoding sequences first, then prompts as far as the budget goes; rows of one adapter together. */
  private shares(): Share[] {
    const budget = { tokens: this.options.stepTokensMax, rows: outputRowsMax(this.options.sequencesMax) };
    const shares: Share[] = [];
    const [prefilling = [], decoding = []] = [true, false].map((is) =>
      this.running.filter((s) => s.isPrefilling === is && !isLate(s)),
    );
    // A row for each of them is put by before any guess.
    budget.rows -= this.running.length;
    for (const sequence of [...decoding, ...prefilling]) {
      if (budget.tokens <= 0 || !this.running.includes(sequence)) continue;
      const share = this.shareOf(sequence, budget);
      if (!share) continue;
      shares.push(share);
      budget.tokens -= share.count;
      budget.rows -= Math.max(0, share.outputs - 1);
    }
    const groups = Map.groupBy(shares, (s) => s.sequence.request.adapter);
    return [...groups.values()].flat();
  }

  /** Null for one that had to give up its pages. */
  private shareOf(sequence: Sequence, budget: { tokens: number; rows: number }): Share | null {
    const { request, cached, length } = sequence;
    if (request.score) {
      // Positions from `from - 1` on have an output each.
      const first = Math.max(cached, request.score.from - 1);
      const count = Math.min(length - cached, budget.tokens, first - cached + budget.rows + 1);
      const outputs = Math.max(0, cached + count - first);
      return this.makeRoom(sequence, count) ? { sequence, count, outputs, guesses: [] } : null;
    }
    const count = Math.min(length - cached, budget.tokens);
    if (!this.makeRoom(sequence, count)) return null;
    const isLast = cached + count === length;
    const guesses = isLast && !sequence.isPrefilling ? this.guess(sequence, budget) : [];
    return { sequence, count: count + guesses.length, outputs: isLast ? 1 + guesses.length : 0, guesses };
  }

  private guess(sequence: Sequence, { tokens, rows }: { tokens: number; rows: number }): number[] {
    const { request, ids, newTokens } = sequence;
    const { lookupTokens = 0, constraint = null, maxNewTokens } = request;
    if (lookupTokens === 0 || constraint) return [];
    const most = Math.min(lookupTokens, tokens - 1, rows, maxNewTokens - newTokens - 1);
    const guesses = lookUp(ids, most);
    // A guess is not worth another sequence's pages.
    if (guesses.length === 0 || !this.pages.extend(sequence, 1 + guesses.length)) return [];
    this.counters.lookupGuessed += guesses.length;
    return guesses;
  }

  /** Pages for `count` more tokens, at the cost of those that came later. False: it was the last itself. */
  private makeRoom(sequence: Sequence, count: number): boolean {
    while (!this.pages.extend(sequence, count)) {
      const victim = this.running.at(-1)!;
      this.running.pop();
      this.pages.close(victim);
      this.preempted.unshift(victim);
      this.counters.preemptions++;
      if (victim === sequence) return false;
    }
    return true;
  }

  private advance(
    { sequence, count, outputs, guesses }: Share,
    { logits, firstRow, drawn }: { logits: StepLogits; firstRow: number; drawn: readonly Drawn[] },
    seconds: { share: number; whole: number },
  ): void {
    const prefilled = sequence.isPrefilling;
    if (prefilled) sequence.prefillSeconds += seconds.share;
    else sequence.decodeSeconds += seconds.whole;
    sequence.cached += count - guesses.length;
    try {
      if (sequence.request.score) this.addScores(sequence, logits, firstRow, outputs);
      else if (outputs > 0) this.addTokens(sequence, drawn, guesses);
    } catch (error) {
      this.end(sequence, (listener) => listener.onError(error));
    }
    if (!this.running.includes(sequence)) return;
    this.pages.record(sequence);
    if (!sequence.isPrefilling) this.release(sequence);
  }

  private addScores(sequence: Sequence, logits: StepLogits, firstRow: number, outputs: number): void {
    const { ids, cached, length, listener } = sequence;
    for (let i = 0; i < outputs; i++) {
      const target = ids[cached - outputs + i + 1] ?? 0;
      listener.onScore?.(scoreOf(logits.of(firstRow + i), target, sequence.request));
    }
    if (cached === length) this.finish(sequence, "length");
  }

  /** The next token, and as many more as were guessed right: each is drawn as it would be without guesses. */
  private addTokens(sequence: Sequence, drawn: readonly Drawn[], guesses: readonly number[]): void {
    const { request, listener } = sequence;
    for (const [i, token] of drawn.entries()) {
      if (token instanceof NibbleError) throw token;
      const { id } = token;
      this.counters.newTokens++;
      this.queue.charge(sequence.caller, tokenCosts.answer);
      sequence.ids.push(id);
      listener.onToken(token);
      // The token that ends the answer is part of it, as in transformers' generate.
      const isFull = sequence.newTokens >= request.maxNewTokens;
      const reason = request.stopIds.includes(id) ? "eos" : isFull ? "length" : null;
      if (reason) this.finish(sequence, reason);
      if (reason) return;
      request.constraint?.accept(id);
      if (guesses[i] !== id) return;
      sequence.cached++;
      this.counters.lookupAccepted++;
    }
  }

  /** Ends everything with an error: the batch is in an unknown state. */
  fail(error: unknown): void {
    for (const s of [...this.running, ...this.waiting()]) this.end(s, (listener) => listener.onError(error));
    for (const s of [...this.queue]) this.queue.remove(s);
    this.preempted = [];
  }

  private finish(sequence: Sequence, reason: FinishReason): void {
    this.end(sequence, (listener) => listener.onFinish(reason, sequence.timing));
  }

  private end(sequence: Sequence, tell: (listener: SequenceListener) => void): void {
    this.running = this.running.filter((s) => s !== sequence);
    this.pages.record(sequence);
    this.pages.close(sequence);
    this.release(sequence);
    tell(sequence.listener);
  }

  /** Those of its group need not wait any longer. */
  private release(sequence: Sequence): void {
    for (const fork of sequence.forks.toReversed()) this.queue.pushFront(fork);
    sequence.forks = [];
  }

  /** Whether a running or waiting request uses the adapter: it may not be freed then. */
  uses(adapter: GenerationRequest["adapter"]): boolean {
    return [...this.running, ...this.waiting()].some(({ request }) => request.adapter === adapter);
  }

  /** Of a card's steps since the beginning, and why they are not recorded any more. */
  get graphStats(): StepGraphs["counts"] & { error: unknown } {
    const none = { recorded: 0, replayed: 0, forgotten: 0 };
    return { ...(this.graphs?.counts ?? none), error: this.graphsError };
  }

  /** Before an adapter is freed. */
  forget(adapter: ServedAdapter): void {
    this.graphs?.forget(adapter);
  }

  free(): void {
    this.graphs?.free();
    this.cache.free();
    this.screen?.free();
  }
}
