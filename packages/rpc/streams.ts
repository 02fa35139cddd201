// Moves messages between async iterables and grpc-js streams, with back-pressure: a slow reader holds the producer
// back, and an aborted call holds up nobody. It knows no messages, only buffers.
import type { Readable } from "node:stream";

/** Bytes that may wait in a stream before its producer is held back. */
export const writeBufferBytesMax = 1 << 20;

/** Settles as `promise` does, or rejects with the signal's reason, whichever is first. Leaves no listener behind. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => {});
    return Promise.reject(signal.reason);
  }
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The part of grpc-js' writable streams that is used here. */
export interface Sink {
  write(chunk: Buffer, callback: (error?: Error | null) => void): unknown;
}

/**
 * Writes every message to the sink; returns their number. At most `writeBufferBytesMax` bytes and one message wait
 * for the peer. grpc-js never calls back for a write to a cancelled call, hence the signal.
 */
export async function pump(messages: AsyncIterable<Buffer>, sink: Sink, signal: AbortSignal): Promise<number> {
  const iterator = messages[Symbol.asyncIterator]();
  let count = 0;
  let bytesWaiting = 0;
  let wake = () => {};
  let failure: Error | undefined;
  let finished = false;
  const until = (bytesMax: number) =>
    bytesWaiting <= bytesMax ? undefined : orAborted(new Promise<void>((resolve) => (wake = resolve)), signal);
  try {
    for (;;) {
      const next = await orAborted(iterator.next(), signal);
      if (next.done) break;
      const bytes = next.value.length + 1;
      bytesWaiting += bytes;
      count++;
      sink.write(next.value, (error) => {
        if (error) failure ??= error;
        bytesWaiting -= bytes;
        wake();
      });
      while (bytesWaiting > writeBufferBytesMax) await until(writeBufferBytesMax);
      if (failure) throw failure;
    }
    while (bytesWaiting > 0) await until(0);
    if (failure) throw failure;
    finished = true;
  } finally {
    // Not awaited: a producer that is stuck in an await of its own cannot be returned before that settles.
    if (!finished) void Promise.resolve(iterator.return?.()).catch(() => {});
  }
  return count;
}

/** The buffers that a grpc-js stream receives. Ends with the signal's reason when the call is aborted. */
export async function* received(stream: Readable, signal: AbortSignal): AsyncGenerator<Buffer> {
  const iterator = stream[Symbol.asyncIterator]();
  for (;;) {
    let next: IteratorResult<Buffer>;
    try {
      next = await orAborted(iterator.next(), signal);
    } catch (error) {
      // grpc-js destroys the stream of a cancelled call, which would read as a premature close.
      throw signal.aborted ? signal.reason : error;
    }
    if (next.done) return;
    yield next.value;
  }
}
