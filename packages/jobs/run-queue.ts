// A queue whose entries run one at a time, in the order they came. It has a limit: a place is taken before the entry's
// record is written, so that what is recorded is also going to run.
import { NibbleError } from "#packages/errors";

/** Does the work and records how it ended; the signal's reason says why it should stop. It must not throw. */
export type Run = (signal: AbortSignal) => Promise<void>;

/** A place in the queue: either started or released. */
export interface Place {
  start(id: string, run: Run): void;
  release(): void;
}

/** "dropped": it was waiting and is gone. "aborted": it is running and was told to stop. */
export type CancelResult = "dropped" | "aborted" | "absent";

interface Entry {
  id: string;
  run: Run;
  controller: AbortController;
}

export class RunQueue {
  readonly #op: string;
  readonly #waitingMax: number;
  readonly #waiting: Entry[] = [];
  #running: Entry | undefined;
  #runningEnds: Promise<void> = Promise.resolve();
  #reserved = 0;
  #closed: NibbleError | undefined;

  /** `op` opens the messages of refusals. */
  constructor(op: string, waitingMax: number) {
    this.#op = op;
    this.#waitingMax = waitingMax;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /**
   * Takes a place. `beyondLimit` is for work that was accepted before a restart.
   * @throws RESOURCE_EXHAUSTED when the queue is full, the reason of `close` after it.
   */
  reserve({ beyondLimit = false }: { beyondLimit?: boolean } = {}): Place {
    if (this.#closed) throw this.#closed;
    const taken = (this.#running ? 1 : 0) + this.#waiting.length + this.#reserved;
    if (!beyondLimit && taken > this.#waitingMax) {
      const message = `queue: expected at most ${this.#waitingMax} waiting beside the one that runs, got one more`;
      throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: this.#op });
    }
    this.#reserved++;
    let open = true;
    const settle = (): boolean => {
      if (!open) return false;
      open = false;
      this.#reserved--;
      return true;
    };
    return {
      release: () => void settle(),
      start: (id, run) => {
        if (!settle() || this.#closed) return;
        this.#waiting.push({ id, run, controller: new AbortController() });
        this.#next();
      },
    };
  }

  cancel(id: string, reason: NibbleError): CancelResult {
    const at = this.#waiting.findIndex((entry) => entry.id === id);
    if (at >= 0) {
      this.#waiting.splice(at, 1);
      return "dropped";
    }
    if (this.#running?.id !== id) return "absent";
    this.#running.controller.abort(reason);
    return "aborted";
  }

  /** Drops what waits, tells what runs to stop, and resolves when it has. Later reservations get the reason. */
  async close(reason: NibbleError): Promise<void> {
    this.#closed ??= reason;
    this.#waiting.length = 0;
    this.#running?.controller.abort(reason);
    await this.#runningEnds;
  }

  #next(): void {
    if (this.#running) return;
    const entry = this.#waiting.shift();
    if (!entry) return;
    this.#running = entry;
    this.#runningEnds = entry.run(entry.controller.signal).finally(() => {
      this.#running = undefined;
      this.#next();
    });
  }
}
