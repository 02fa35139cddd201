// When a call is worth making again, and how long to wait before. Only calls that change nothing or carry a request
// id are retried here.
import { setTimeout as delay } from "node:timers/promises";
import { NibbleError } from "#packages/errors";

/** Failures in a row, without progress in between, after which a helper gives up. With the waits below: about 15 s. */
export const retriesDefault = 8;
const waitMsFirst = 50;
const waitMsMax = 4_000;

/**
 * Whether a connection or server went away, rather than the server answering with an error. What grpc-js itself
 * reports carries the peer, and has UNAVAILABLE for most but not all ways in which a connection breaks.
 */
export function isConnectionLoss(thrown: unknown): boolean {
  if (!(thrown instanceof NibbleError)) return false;
  const isOfTransport = thrown.details["peer"] !== undefined;
  return thrown.code === "UNAVAILABLE" || (isOfTransport && ["INTERNAL", "CANCELLED"].includes(thrown.code));
}

export interface RetryOptions {
  /** Failures in a row that are made up for. Default: 8. */
  retriesMax?: number;
  /** Stops waiting and whatever call is under way. */
  signal?: AbortSignal;
}

/** Counts failures in a row; `again` waits longer after each, and throws the error when it is one too many. */
export class Retries {
  readonly #max: number;
  readonly #signal: AbortSignal | undefined;
  #failures = 0;

  constructor({ retriesMax = retriesDefault, signal }: RetryOptions) {
    this.#max = retriesMax;
    this.#signal = signal;
  }

  progress(): void {
    this.#failures = 0;
  }

  async again(thrown: unknown): Promise<void> {
    if (this.#signal?.aborted || !isConnectionLoss(thrown) || this.#failures >= this.#max) throw thrown;
    const ms = Math.min(waitMsMax, waitMsFirst * 2 ** this.#failures);
    this.#failures++;
    try {
      await delay(ms, undefined, this.#signal ? { signal: this.#signal } : {});
    } catch {
      throw thrown;
    }
  }
}

/** The call options of a helper's signal. */
export function callOptions(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal ? { signal } : {};
}
