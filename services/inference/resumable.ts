// Answers that outlive their client's connection: their events are kept for a while, and a later call reads them from where
// the broken one ended. Kept are the last `eventsMax` events of at most `answersMax` answers; a reader who is that far behind
// holds its answer back. It knows no transport.
import { NibbleError } from "#packages/errors";
import { orAborted } from "#packages/rpc";
import type { NumberedEvent } from "./answers.ts";

const op = "resume_answer";

export interface ResumableOptions {
  /** Milliseconds that an answer goes on, or is kept after its end, while nobody reads it. */
  keptMs: number;
  answersMax: number;
  /** Of one answer. */
  eventsMax: number;
}

interface Kept {
  events: NumberedEvent[];
  /** Sequence of the last event that was read. */
  read: number;
  /** Resolves when the reader has read on, or is gone. */
  room: PromiseWithResolvers<void>;
  /** Sequence of the last event; 0: none yet. */
  last: number;
  ended: boolean;
  failure: unknown;
  news: PromiseWithResolvers<void>;
  over: AbortController;
  /** What ends the present reader. */
  reader: AbortController | null;
  timer: NodeJS.Timeout | undefined;
}

export class Resumable {
  readonly #options: ResumableOptions;
  readonly #kept = new Map<string, Kept>();

  constructor(options: ResumableOptions) {
    this.#options = options;
  }

  /**
   * Begins an answer that has a name, and reads it. Where too many are kept, one that was read to its end makes room.
   * @throws ALREADY_EXISTS while one of this name is kept, RESOURCE_EXHAUSTED when too many are.
   */
  begin(
    id: string,
    start: (signal: AbortSignal) => AsyncIterable<NumberedEvent>,
    signal: AbortSignal,
  ): AsyncGenerator<NumberedEvent> {
    if (this.#kept.has(id)) {
      const message = `request_id: expected a new one, got ${id}, whose answer is kept`;
      throw new NibbleError(message, { code: "ALREADY_EXISTS", op: "generate", details: { field: "request_id" } });
    }
    signal.throwIfAborted();
    if (this.#kept.size >= this.#options.answersMax) this.#dropRead();
    if (this.#kept.size >= this.#options.answersMax) {
      const message = `request_id: expected at most ${this.#options.answersMax} answers that are kept, got one more`;
      const details = { quota: "answers kept", limit: String(this.#options.answersMax) };
      throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "generate", details });
    }
    const over = new AbortController();
    const kept: Kept = {
      events: [],
      read: 0,
      room: Promise.withResolvers(),
      last: 0,
      ended: false,
      failure: undefined,
      news: Promise.withResolvers(),
      over,
      reader: null,
      timer: undefined,
    };
    this.#kept.set(id, kept);
    void this.#fill(id, kept, start(over.signal));
    return this.#read(id, kept, 0, signal);
  }

  /** @throws NOT_FOUND, OUT_OF_RANGE. The reader before is ended with ABORTED. */
  resume(id: string, after: number, signal: AbortSignal): AsyncGenerator<NumberedEvent> {
    const kept = this.#need(id);
    const first = kept.last - kept.events.length;
    if (after < first || after > kept.last) {
      const message = `after_sequence: expected ${first} to ${kept.last}, got ${after}`;
      throw new NibbleError(message, { code: "OUT_OF_RANGE", op, details: { field: "after_sequence" } });
    }
    return this.#read(id, kept, after, signal);
  }

  #need(id: string): Kept {
    const kept = this.#kept.get(id);
    if (kept) return kept;
    const message = `request_id: expected an answer that is kept, got ${id}`;
    throw new NibbleError(message, { code: "NOT_FOUND", op });
  }

  async #fill(id: string, kept: Kept, events: AsyncIterable<NumberedEvent>): Promise<void> {
    try {
      for await (const event of events) {
        kept.events.push(event);
        kept.last = event.sequence;
        if (kept.events.length > this.#options.eventsMax) kept.events.shift();
        this.#tell(kept);
        while (this.#isFull(kept)) await kept.room.promise;
      }
    } catch (thrown) {
      kept.failure = thrown;
      // Refused before it began: there is nothing to take up again, and the same name may be tried again.
      if (kept.last === 0 && this.#kept.get(id) === kept) this.#kept.delete(id);
    }
    kept.ended = true;
    this.#tell(kept);
  }

  /** Whether the next event would push out one that the reader has yet to read. */
  #isFull({ reader, over, last, read }: Kept): boolean {
    return reader !== null && !over.signal.aborted && last - read >= this.#options.eventsMax;
  }

  #tell(kept: Kept): void {
    kept.news.resolve();
    kept.news = Promise.withResolvers();
  }

  async *#read(id: string, kept: Kept, after: number, signal: AbortSignal): AsyncGenerator<NumberedEvent> {
    const mine = new AbortController();
    kept.reader?.abort(new NibbleError(`${id}: another call took the answer over`, { code: "ABORTED", op }));
    kept.reader = mine;
    clearTimeout(kept.timer);
    this.#readTo(kept, after);
    const either = AbortSignal.any([signal, mine.signal]);
    try {
      for (let last = after; ; ) {
        const { news } = kept;
        const lost = kept.last - kept.events.length > last;
        if (lost) {
          const message = `${id}: event ${last + 1} is no longer kept: the reader was too slow`;
          throw new NibbleError(message, { code: "OUT_OF_RANGE", op });
        }
        for (const event of kept.events.slice(last - (kept.last - kept.events.length))) {
          yield event;
          either.throwIfAborted();
          last = event.sequence;
          this.#readTo(kept, last);
        }
        if (last < kept.last) continue;
        if (kept.failure !== undefined) throw kept.failure;
        if (kept.ended) return;
        await orAborted(news.promise, either);
      }
    } finally {
      if (kept.reader === mine) this.#leave(id, kept);
    }
  }

  #readTo(kept: Kept, sequence: number): void {
    kept.read = sequence;
    kept.room.resolve();
    kept.room = Promise.withResolvers();
  }

  /** Nobody reads it now: it has a while to be taken up again. */
  #leave(id: string, kept: Kept): void {
    kept.reader = null;
    kept.room.resolve();
    clearTimeout(kept.timer);
    kept.timer = setTimeout(() => this.#drop(id, kept), this.#options.keptMs);
    kept.timer.unref();
  }

  #drop(id: string, kept: Kept): void {
    clearTimeout(kept.timer);
    kept.over.abort(new NibbleError(`${id}: nobody reads the answer`, { code: "CANCELLED", op }));
    kept.room.resolve();
    if (this.#kept.get(id) === kept) this.#kept.delete(id);
  }

  /** The oldest that has ended and was read to its end. */
  #dropRead(): void {
    for (const [id, kept] of this.#kept) {
      if (!kept.ended || kept.read < kept.last || kept.reader) continue;
      this.#drop(id, kept);
      return;
    }
  }

  /** Ends an answer and forgets it. @throws NOT_FOUND */
  cancel(id: string): void {
    this.#drop(id, this.#need(id));
  }

  /** Ends all of them. */
  close(): void {
    for (const [id, kept] of this.#kept) this.#drop(id, kept);
  }
}
