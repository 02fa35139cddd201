// Server-sent events (HTML Living Standard, 9.2): the next event is asked for when the client has taken the last one,
// a comment now and then keeps proxies from cutting a connection on which nothing comes.
import { Readable } from "node:stream";
import { NibbleError } from "#packages/errors";
import type { Answer } from "./types.ts";

export interface EventsOptions {
  /** Silence after which a comment is sent, in milliseconds. Default: 15,000. */
  heartbeatMs?: number;
  /** What the stream ends with when an event could not be made: the status has long been sent. */
  onError: (error: NibbleError) => string;
  /** The last data of a stream that ended well. Default: none. */
  end?: string;
}

const heartbeatMsDefault = 15_000;
const heartbeat = ": \n\n";

const dataOf = (text: string): string => `data: ${text}\n\n`;

type Next = IteratorResult<string, unknown>;

/** Resolves with undefined when nothing has come in time. */
async function within(next: Promise<Next>, ms: number): Promise<Next | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  try {
    return await Promise.race([next, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * An answer of events, each one line of text. The first one is waited for, as long as a heartbeat takes: what fails at
 * once fails with an HTTP status, not with 200 and an event that most clients do not look for.
 * @throws what the first event fails with.
 */
export async function events(
  source: AsyncIterable<string>,
  { heartbeatMs = heartbeatMsDefault, onError, end }: EventsOptions,
): Promise<Answer> {
  const iterator = source[Symbol.asyncIterator]();
  let next = iterator.next();
  const first = await within(next, heartbeatMs);
  async function* written(): AsyncGenerator<string> {
    try {
      for (let got = first; ; got = await within(next, heartbeatMs)) {
        if (got === undefined) {
          yield heartbeat;
          continue;
        }
        if (got.done) break;
        yield dataOf(got.value);
        next = iterator.next();
      }
      if (end !== undefined) yield dataOf(end);
    } catch (thrown) {
      yield dataOf(onError(NibbleError.from(thrown, "http")));
    } finally {
      next.catch(() => {});
      // Not waited for: a source that hangs would keep the connection.
      iterator.return?.()?.catch(() => {});
    }
  }
  const headers = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
  };
  return { headers, stream: () => Readable.from(written(), { objectMode: true, highWaterMark: 1 }) };
}
