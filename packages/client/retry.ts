// When a call is worth making again, and how long to wait before. Only calls that change nothing or carry a request
// id are retried here.
import { BackOff, NibbleError } from "#packages/errors";

/** Failures in a row, without progress in between, after which a helper gives up. With the waits below: about 10 s. */
export const retriesDefault = 8;
const waitMsFirst = 100;
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

/** `again` waits longer after each failure in a row, and throws the error where waiting does not help any more. */
export class Retries {
  readonly #backOff: BackOff;
  readonly #signal: AbortSignal | undefined;

  constructor({ retriesMax = retriesDefault, signal }: RetryOptions) {
    this.#backOff = new BackOff({ attemptsMax: retriesMax + 1, waitMsFirst, waitMsMax, signal });
    this.#signal = signal;
  }

  progress(): void {
    this.#backOff.progress();
  }

  async again(thrown: unknown): Promise<void> {
    const isWorth = !this.#signal?.aborted && isConnectionLoss(thrown);
    if (!isWorth || !(await this.#backOff.again().catch(() => false))) throw thrown;
  }
}

/** The call options of a helper's signal. */
export function callOptions(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal ? { signal } : {};
}
