// Jobs from request to end: one runs, some wait, all are recorded, events can be watched by anyone at any pace. It knows
// no transport and no engine.
import { randomUUID } from "node:crypto";
import { create, equals } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Logger } from "pino";
import { type Event, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import {
  type CreateTrainingJobRequest,
  CreateTrainingJobRequestSchema,
  TrainingJobSchema,
} from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { NibbleError } from "#packages/errors";
import { Once, type Place, type RunQueue } from "#packages/jobs";
import { BadRequestError, checkId, formatName, orAborted } from "#packages/rpc";
import { Journal } from "./journal.ts";
import type { JobPage, JobRecord, JobStore } from "./store.ts";
import type { Train } from "./training.ts";

const op = "training_job";
export const jobPattern = "trainingJobs/{training_job}";
/** Events that a watcher holds in memory at a time. */
const eventsPageMax = 100;

export interface JobsParts {
  now: () => number;
  logger: Logger;
  store: JobStore;
  queue: RunQueue;
  train: Train;
  /** @throws INVALID_ARGUMENT for a job that cannot be run as it is. */
  check: (request: CreateTrainingJobRequest) => void;
}

const isOver = (state: State) => state === State.SUCCEEDED || state === State.FAILED || state === State.CANCELLED;

const interrupted = ({ job }: JobRecord) => {
  const step = job.progress?.step ?? 0n;
  const message = `the job: was interrupted by the trainer's end after step ${step}; nothing of it goes on, create it again`;
  return new NibbleError(message, { code: "ABORTED", op });
};

export class Jobs {
  readonly #parts: JobsParts;
  /** Jobs that are queued or running: their newest state is here. */
  readonly #live = new Map<string, Journal>();
  readonly #creating = new Once<JobRecord>();

  constructor(parts: JobsParts) {
    this.#parts = parts;
  }

  /** What a stop interrupted ends as FAILED; what had not begun takes its place in the queue again. */
  async recover(): Promise<void> {
    const { store, queue, logger } = this.#parts;
    for (const record of await store.unfinished()) {
      const journal = this.#open(record);
      if (record.job.state === State.QUEUED) {
        this.#start(journal, queue.reserve({ beyondLimit: true }));
        continue;
      }
      logger.warn({ job: record.id }, "a job was interrupted by the server's end");
      await this.#end(journal, State.FAILED, interrupted(record));
    }
  }

  #open(record: JobRecord): Journal {
    const journal = new Journal(this.#parts.now, this.#parts.store, record);
    this.#live.set(record.id, journal);
    return journal;
  }

  /** @throws INVALID_ARGUMENT for a job that cannot be run as it is. */
  check(request: CreateTrainingJobRequest): void {
    const { trainingJobId } = request;
    if (trainingJobId !== "") checkId(trainingJobId, "training_job_id", "create_training_job");
    this.#parts.check(request);
  }

  async create(request: CreateTrainingJobRequest): Promise<JobRecord> {
    const { requestId } = request;
    this.check(request);
    if (requestId === "") return this.#create(request);
    const record = await this.#creating.run(requestId, () => this.#findOrCreate(request));
    if (equals(CreateTrainingJobRequestSchema, record.request, request)) return record;
    const message = `request_id: ${requestId} was used for another request`;
    throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { field: "request_id" } });
  }

  async #findOrCreate(request: CreateTrainingJobRequest): Promise<JobRecord> {
    const earlier = await this.#parts.store.findByRequestId(request.requestId);
    return earlier ? this.get(earlier.id) : this.#create(request);
  }

  async #create(request: CreateTrainingJobRequest): Promise<JobRecord> {
    const { queue, now, store } = this.#parts;
    const spec = request.trainingJob?.spec;
    if (!spec) throw new BadRequestError(op, [{ field: "training_job.spec", description: "value is required" }]);
    const id = request.trainingJobId || randomUUID();
    const place = queue.reserve();
    try {
      const name = formatName(jobPattern, { training_job: id });
      const job = create(TrainingJobSchema, { name, spec, createTime: timestampFromMs(now()) });
      const journal = new Journal(now, store, { id, request, job });
      await store.insert(journal.record, [journal.next(journal.change(State.QUEUED))]);
      this.#live.set(id, journal);
      this.#start(journal, place);
      return journal.record;
    } catch (thrown) {
      place.release();
      const error = NibbleError.from(thrown, op);
      if (error.code !== "ALREADY_EXISTS") throw error;
      const message = `training_job_id: ${id} is taken`;
      throw new NibbleError(message, {
        code: "ALREADY_EXISTS",
        op,
        details: { field: "training_job_id" },
        cause: error,
      });
    }
  }

  #start(journal: Journal, place: Place): void {
    place.start(journal.record.id, (signal) => this.#run(journal, signal));
  }

  async #run(journal: Journal, signal: AbortSignal): Promise<void> {
    const { id, job } = journal.record;
    const stop = AbortSignal.any([signal, journal.failed]);
    try {
      journal.append(journal.change(State.RUNNING));
      const spec = job.spec;
      if (!spec) throw new NibbleError("the job: has no spec", { code: "INTERNAL", op });
      await this.#parts.train({ id, spec }, (payload) => journal.append(payload), stop);
      await this.#end(journal, State.SUCCEEDED);
    } catch (thrown) {
      const error = NibbleError.from(stop.aborted ? stop.reason : thrown, op);
      const isCancelled = stop.aborted && error.code === "CANCELLED";
      await this.#end(journal, isCancelled ? State.CANCELLED : State.FAILED, error);
    }
  }

  /** Records the end; a store that fails then must not take the queue down with it. */
  async #end(journal: Journal, state: State, error: NibbleError | null = null): Promise<void> {
    const { id } = journal.record;
    await journal.settled();
    journal.append(journal.change(state, error));
    await journal.settled();
    const { logger } = this.#parts;
    logger.info({ job: id, code: error?.code ?? "OK", error: error?.message }, "job ended");
    if (journal.failed.aborted) logger.error({ job: id, err: journal.failed.reason }, "events could not be recorded");
    this.#live.delete(id);
    journal.notify();
  }

  async get(id: string): Promise<JobRecord> {
    const found = this.#live.get(id)?.record ?? (await this.#parts.store.find(id));
    if (found) return found;
    throw new NibbleError(`trainingJobs/${id}: expected a job, got none`, { code: "NOT_FOUND", op });
  }

  async list(page: JobPage): Promise<{ position: number; record: JobRecord }[]> {
    const rows = await this.#parts.store.list(page);
    return rows.map(({ position, record }) => ({ position, record: this.#live.get(record.id)?.record ?? record }));
  }

  /** @throws FAILED_PRECONDITION for a job that succeeded or failed. */
  async cancel(id: string): Promise<JobRecord> {
    const record = await this.get(id);
    const { state } = record.job;
    if (state === State.CANCELLED) return record;
    if (isOver(state)) {
      const message = `trainingJobs/${id}: expected a job that is queued or running, got one that has ended`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    const reason = new NibbleError("the job: was cancelled", { code: "CANCELLED", op });
    const journal = this.#live.get(id);
    const wasWaiting = this.#parts.queue.cancel(id, reason) === "dropped";
    if (wasWaiting && journal) await this.#end(journal, State.CANCELLED, reason);
    return record;
  }

  /** @throws FAILED_PRECONDITION for a job that is queued or running. */
  async remove(id: string): Promise<void> {
    const { job } = await this.get(id);
    if (!isOver(job.state) || this.#live.has(id)) {
      const message = `trainingJobs/${id}: expected a job that has ended, got one that is queued or running; cancel it first`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    await this.#parts.store.remove(id);
  }

  /**
   * Events after a sequence: first from the store, then as they come. Each page is read when the one before has been
   * taken, so a slow watcher costs no memory and holds nothing up.
   */
  async *watch(id: string, afterSequence: bigint, stop: AbortSignal): AsyncGenerator<Event> {
    const { job } = await this.get(id);
    if (afterSequence > job.lastSequence) {
      const message = `after_sequence: expected at most ${job.lastSequence}, got ${afterSequence}`;
      throw new NibbleError(message, { code: "OUT_OF_RANGE", op, details: { field: "after_sequence" } });
    }
    let last = afterSequence;
    for (;;) {
      // Taken before the store is read: what is written after that read is news.
      const news = this.#live.get(id)?.news;
      const events = await this.#parts.store.events(id, last, eventsPageMax);
      for (const event of events) {
        yield event;
        last = event.sequence;
      }
      if (events.length > 0) continue;
      if (!news) return;
      await orAborted(news, stop);
    }
  }

  /** For the server's end: what runs is stopped and recorded as FAILED, what waits stays recorded as waiting. */
  async stop(): Promise<void> {
    const running = [...this.#live.values()].find(({ record }) => record.job.state === State.RUNNING);
    const drained = new NibbleError("the trainer: is shutting down", { code: "UNAVAILABLE", op });
    await this.#parts.queue.close(running ? interrupted(running.record) : drained);
  }
}
