// What the scheduler's steps did for a request that is followed: when, beside how many others, over how many pages. It knows
// no telemetry: a request is followed under a name, and hears the names of the others that shared a step with it.
import type { PagePool } from "./page-pool.ts";
import type { Share } from "./step-rows.ts";

export interface StepRecord {
  /** Counts the scheduler's steps, from 1. */
  step: number;
  /** Milliseconds since 1970. */
  beginMs: number;
  ms: number;
  /** Whether it computed a part of the prompt, or all again after the request had lost its pages. */
  isPrefill: boolean;
  /** Of this request, guesses included. */
  tokens: number;
  /** Of the whole step. */
  sequences: number;
  stepTokens: number;
  pagesUsed: number;
  pagesTotal: number;
  /** Names of followed requests that share a step with this one for the first time. */
  met: string[];
}

export interface RequestTrace {
  /** When it came, in milliseconds since 1970; null for one that never had a step. */
  queuedMs: number | null;
  queueMs: number;
  steps: StepRecord[];
  /** Steps beyond `recordsMax`. */
  stepsUnrecorded: number;
}

const recordsMax = 4096;

/** What performance.now() counts from, in milliseconds since 1970: the same in all threads of the process. */
const originMs = performance.timeOrigin;

export class RequestTracer {
  readonly name: string;
  readonly trace: RequestTrace = { queuedMs: null, queueMs: 0, steps: [], stepsUnrecorded: 0 };
  private readonly known = new Set<string>();

  constructor(name: string) {
    this.name = name;
  }

  record(step: Omit<StepRecord, "met">, others: readonly string[]): void {
    if (this.trace.steps.length === recordsMax) {
      this.trace.stepsUnrecorded++;
      return;
    }
    const met = others.filter((name) => name !== this.name && !this.known.has(name));
    for (const name of met) this.known.add(name);
    this.trace.steps.push({ ...step, met });
  }
}

/** Of a step: its number, when it began by performance.now(), the seconds it took. */
export interface StepTimes {
  step: number;
  started: number;
  seconds: number;
}

/** Called once a step, before what it gave is taken up. */
export function traceStep(shares: readonly Share[], { step, started, seconds }: StepTimes, pool: PagePool): void {
  const traced = shares.filter(({ sequence }) => sequence.request.tracer);
  if (traced.length === 0) return;
  const names = traced.map(({ sequence }) => sequence.request.tracer!.name);
  const whole = {
    step,
    beginMs: originMs + started,
    ms: seconds * 1000,
    sequences: shares.length,
    stepTokens: shares.reduce((sum, { count }) => sum + count, 0),
    pagesUsed: pool.count - pool.free,
    pagesTotal: pool.count,
  };
  for (const { sequence, count } of traced) {
    const { trace } = sequence.request.tracer!;
    trace.queuedMs = originMs + sequence.since;
    trace.queueMs = (sequence.queueSeconds ?? 0) * 1000;
    sequence.request.tracer!.record({ ...whole, isPrefill: sequence.isPrefilling, tokens: count }, names);
  }
}
