// The n answers of one request as one stream of numbered events. It knows no transport.
import { randomUUID } from "node:crypto";
import { type AnswerEvent, type AnswerRequest, answer } from "./answer.ts";
import type { LoadedModel } from "./model.ts";

/** An event of one of n answers. */
export interface NumberedEvent {
  /** Which of the n answers, from 0. */
  index: number;
  /** Counts the events of all n, from 1. */
  sequence: number;
  event: AnswerEvent;
}

/** The largest seed that the native draw takes, and one more. */
const seeds = 2 ** 32;

/** Events of n answers as they come; answer i draws with seed + i. An error of one ends them all. */
export async function* answers(
  model: LoadedModel,
  request: AnswerRequest,
  n: number,
  signal: AbortSignal,
): AsyncGenerator<NumberedEvent> {
  const over = new AbortController();
  const both = AbortSignal.any([signal, over.signal]);
  // They share the prompt's computation.
  const group = n > 1 ? { group: randomUUID() } : {};
  const streams = Array.from({ length: n }, (_, i) => {
    const sampling = { ...request.sampling, seed: (request.sampling.seed + i) % seeds };
    return answer(model, { ...request, sampling, ...group }, both);
  });
  let sequence = 0;
  try {
    for await (const { index, event } of merged(streams)) yield { index, event, sequence: ++sequence };
  } finally {
    over.abort();
  }
}

/** What several iterators give, in the order in which it comes. */
async function* merged<T>(streams: readonly AsyncGenerator<T>[]): AsyncGenerator<{ index: number; event: T }> {
  const next = async (index: number) => ({ index, result: await streams[index]!.next() });
  const pending = new Map(streams.map((_, index) => [index, next(index)]));
  try {
    while (pending.size > 0) {
      const { index, result } = await Promise.race(pending.values());
      if (result.done) {
        pending.delete(index);
        continue;
      }
      pending.set(index, next(index));
      yield { index, event: result.value };
    }
  } finally {
    // Not awaited: they end when their signal aborts.
    for (const stream of streams) void stream.return(undefined).catch(() => {});
  }
}
