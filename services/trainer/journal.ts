// The event log of a job that is not done: gives events their sequence, keeps the job's record in step with them, and
// writes both together. It knows no queue and no engine.
import { setImmediate as tick } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema, State, StateChangeSchema } from "#gen/nibble/trainer/v1/events_pb.ts";
import { NibbleError } from "#packages/errors";
import { toStatus } from "#packages/rpc";
import type { Payload } from "./payloads.ts";
import type { JobRecord, JobStore } from "./store.ts";

/** That a job's record lists; the events have all of them. */
const checkpointsMax = 100;

export class Journal {
  readonly record: JobRecord;
  readonly #now: () => number;
  readonly #store: JobStore;
  readonly #failure = new AbortController();
  #pending: Event[] = [];
  #writing: Promise<void> | undefined;
  #news = Promise.withResolvers<void>();

  constructor(now: () => number, store: JobStore, record: JobRecord) {
    this.#now = now;
    this.#store = store;
    this.record = record;
  }

  /** Aborts when events cannot be written (a full disk): the work should stop then. */
  get failed(): AbortSignal {
    return this.#failure.signal;
  }

  /** Resolves when there is something new in the store, or the job has ended. */
  get news(): Promise<void> {
    return this.#news.promise;
  }

  append(payload: Payload): void {
    this.#pending.push(this.next(payload));
    this.#writing ??= this.#write();
  }

  /** The event that a payload becomes; the caller writes it. */
  next(payload: Payload): Event {
    const { job } = this.record;
    job.lastSequence += 1n;
    if (payload.case === "step") job.progress = payload.value;
    if (payload.case === "finished") job.result = payload.value;
    const time = timestampFromMs(this.#now());
    if (payload.case === "checkpoint") {
      payload.value.createTime = time;
      job.checkpoints = [...job.checkpoints, payload.value].slice(-checkpointsMax);
    }
    return create(EventSchema, { sequence: job.lastSequence, time, event: payload });
  }

  /** Changes the job's state and returns the payload that says so. */
  change(state: State, error: NibbleError | null = null): Payload {
    const { job } = this.record;
    const previousState = job.state;
    const time = timestampFromMs(this.#now());
    job.state = state;
    if (state === State.RUNNING) job.startTime = time;
    else if (state !== State.QUEUED) job.endTime = time;
    if (error) job.error = toStatus(error);
    const value = create(StateChangeSchema, { state, previousState, ...(error ? { error: toStatus(error) } : {}) });
    return { case: "stateChange", value };
  }

  /** Resolves when everything is written, or cannot be. */
  async settled(): Promise<void> {
    while (this.#writing) await this.#writing;
  }

  notify(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }

  async #write(): Promise<void> {
    try {
      while (this.#pending.length > 0) {
        // Events that come in one turn of the loop are one transaction.
        await tick();
        const events = this.#pending;
        this.#pending = [];
        await this.#append(events);
        this.notify();
      }
    } catch (thrown) {
      this.#failure.abort(NibbleError.from(thrown, "training_events"));
    } finally {
      this.#writing = undefined;
    }
  }

  async #append(events: Event[]): Promise<void> {
    try {
      await this.#store.append(this.record, events);
    } catch (thrown) {
      // They come first in the next attempt, which is made with the event that ends the job.
      this.#pending = [...events, ...this.#pending];
      throw thrown;
    }
  }
}
