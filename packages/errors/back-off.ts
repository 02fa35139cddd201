// How long to wait before something is tried again, and how often: for calls between services and for the Hub. What is
// worth trying again is for callers to say.
import { setTimeout as sleep } from "node:timers/promises";

export interface BackOffOptions {
  /** Attempts in all, the first included. */
  attemptsMax: number;
  /** Before the second attempt, in milliseconds; it doubles from there. */
  waitMsFirst: number;
  /** Longest wait of its own, in milliseconds. Default: none. */
  waitMsMax?: number;
  /** Longest wait that a server may ask for, in milliseconds; one that asks for more is given up. Default: none. */
  askedMsMax?: number;
  /** Ends a wait; it then throws. */
  signal?: AbortSignal | undefined;
}

/** Counts failures in a row. */
export class BackOff {
  readonly #options: BackOffOptions;
  #failures = 0;

  constructor(options: BackOffOptions) {
    this.#options = options;
  }

  /** Something was achieved: the count begins anew. */
  progress(): void {
    this.#failures = 0;
  }

  /**
   * Waits before the next attempt; false if there is none.
   * @param askedMs what the server asks to wait at least.
   */
  async again(askedMs = 0): Promise<boolean> {
    const { attemptsMax, waitMsFirst, waitMsMax = Infinity, askedMsMax = Infinity, signal } = this.#options;
    if (this.#failures + 1 >= attemptsMax || askedMs > askedMsMax) return false;
    // Many clients that were refused together should not come back together.
    const own = Math.min(waitMsMax, waitMsFirst * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    this.#failures++;
    await sleep(Math.max(own, askedMs), undefined, signal ? { signal } : {});
    return true;
  }
}
