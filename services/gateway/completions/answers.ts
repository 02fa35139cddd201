// The answers to one request: one call of the inference service for each prompt, their events as they come. It knows no
// HTTP.
import type { Completion, Token } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { AnswerMessage } from "#packages/client";
import type { Models, Target } from "../models.ts";
import { type Blamed, blame } from "./blame.ts";

/** A token, or the end, of one of the answers. */
export interface AnswerEvent {
  /** Which of the answers to all prompts, from 0. */
  index: number;
  token?: Token;
  end?: Completion;
}

export interface AnswersOptions {
  models: Models;
  target: Target;
  /** Starts the answers to one prompt. */
  calls: readonly (() => AsyncIterable<AnswerMessage>)[];
  /** Answers to each prompt. */
  n: number;
  blamed: Blamed;
  /** Takes a place among the caller's requests, and returns what gives it back. */
  begun: () => () => void;
  signal: AbortSignal;
}

/** @throws NOT_FOUND, RESOURCE_EXHAUSTED and the like with the first event. */
export async function* answers(options: AnswersOptions): AsyncGenerator<AnswerEvent> {
  const { models, target, calls, n, blamed, begun, signal } = options;
  const [first, ...others] = calls;
  if (!first) return;
  const end = begun();
  try {
    // The others start when the adapter is there for certain.
    const opened = await models.use(target, () => begin(first()), signal);
    for await (const { from, value } of merged([opened, ...others.map((call) => call())])) {
      const { event } = value;
      const index = from * n + value.index;
      if (event.case === "token") yield { index, token: event.value };
      else if (event.case === "completion") yield { index, end: event.value };
    }
  } catch (thrown) {
    throw blame(thrown, blamed);
  } finally {
    end();
  }
}

/** The same events, of which the first is there. */
async function begin<T>(events: AsyncIterable<T>): Promise<AsyncIterable<T>> {
  const iterator = events[Symbol.asyncIterator]();
  const first = await iterator.next();
  async function* all(): AsyncGenerator<T> {
    try {
      for (let next = first; !next.done; next = await iterator.next()) yield next.value;
    } finally {
      await iterator.return?.();
    }
  }
  return all();
}

/** What several streams give, in the order in which it comes; an error of one ends them all. */
async function* merged<T>(streams: readonly AsyncIterable<T>[]): AsyncGenerator<{ from: number; value: T }> {
  const iterators = streams.map((stream) => stream[Symbol.asyncIterator]());
  const next = async (from: number) => ({ from, result: await iterators[from]!.next() });
  const pending = new Map(iterators.map((_, from) => [from, next(from)]));
  try {
    while (pending.size > 0) {
      const { from, result } = await Promise.race(pending.values());
      if (result.done) {
        pending.delete(from);
        continue;
      }
      pending.set(from, next(from));
      yield { from, value: result.value };
    }
  } finally {
    // A call whose loop is left is cancelled; nobody waits for the others.
    for (const left of pending.values()) left.catch(() => {});
    for (const iterator of iterators) iterator.return?.()?.catch(() => {});
  }
}
