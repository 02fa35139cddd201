// /v1/fine_tuning/jobs over the trainer's jobs. It keeps nothing: a job's record is the trainer's.
import type { Event } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingJob } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import type { TrainerClient } from "#packages/client";
import { pagesOf, watchJob } from "#packages/client";
import { type Answer, events, objectOf, type Request, type Route, route } from "#packages/http";
import { formatName, isId } from "#packages/rpc";
import { errorBody, refusal } from "../errors.ts";
import { Fields } from "../fields.ts";
import type { FileStore } from "../files/store.ts";
import { isSeenBy, type Keys } from "../keys.ts";
import { idOf, type Models } from "../models.ts";
import { listOf, pageOf, pageQuery } from "../paging.ts";
import { dirOf, newJobId, ownerOf, readFineTuning, specOf } from "./spec.ts";
import { checkpointViews, eventId, eventView, jobView, sequenceOf } from "./views.ts";

export interface FineTuningParts {
  /** Milliseconds since 1970. */
  now: () => number;
  trainer: TrainerClient;
  models: Models;
  files: FileStore;
  keys: Keys;
  /** Folder for what jobs write. */
  dir: string;
  bodyBytesMax: number;
  heartbeatMs: number;
}

const limitDefault = 20;
const trainerPageSize = 200;

export class FineTuningApi {
  readonly #parts: FineTuningParts;

  constructor(parts: FineTuningParts) {
    this.#parts = parts;
  }

  routes(): Route[] {
    const path = "/v1/fine_tuning/jobs";
    const known = (work: (request: Request, job: TrainingJob) => Promise<Answer>) => async (request: Request) => {
      const caller = this.#parts.keys.callerOf(request.headers);
      return work(request, await this.#job(request, caller));
    };
    return [
      ...route("POST", path, (request) => this.#create(request)),
      ...route("GET", path, (request) => this.#list(request)),
      ...route(
        "GET",
        `${path}/:id`,
        known((_, job) => this.#answer(job)),
      ),
      ...route(
        "POST",
        `${path}/:id/cancel`,
        known((request, { name }) => this.#cancel(request, name)),
      ),
      ...route(
        "GET",
        `${path}/:id/events`,
        known((request, job) => this.#events(request, job)),
      ),
      ...route(
        "GET",
        `${path}/:id/checkpoints`,
        known(async (request, job) => this.#checkpoints(request, job)),
      ),
    ];
  }

  async #job({ params, signal }: Request, caller: string): Promise<TrainingJob> {
    const id = params["id"] ?? "";
    const none = () =>
      refusal(`job: expected one that is there, got ${id.slice(0, 80)}`, {
        code: "NOT_FOUND",
        param: "fine_tuning_job_id",
      });
    if (!isId(id)) throw none();
    const name = formatName("trainingJobs/{training_job}", { training_job: id });
    const { trainingJob } = await this.#parts.trainer.getTrainingJob({ name }, { signal });
    if (!trainingJob || !this.#isSeenBy(caller, trainingJob)) throw none();
    return trainingJob;
  }

  /** Who asked for a job is told by where it writes: the job's record is the trainer's. */
  #isSeenBy(caller: string, { spec }: TrainingJob): boolean {
    return isSeenBy(caller, ownerOf(this.#parts.dir, spec?.outputDir ?? ""));
  }

  /** The base's id, where the job's base is the one that is served; its folder otherwise. */
  async #views(): Promise<(job: TrainingJob) => ReturnType<typeof jobView>> {
    const { models, files, now } = this.#parts;
    const base = await models.base().catch(() => undefined);
    const fileName = (path: string) => files.idOfPath(path) ?? path;
    return (job) => {
      const dir = job.spec?.modelDir ?? "";
      const model = base && base.modelDir === dir ? idOf(base.name) : dir;
      return jobView(job, { model, fileName, nowMs: now() });
    };
  }

  async #answer(job: TrainingJob | undefined): Promise<Answer> {
    const view = await this.#views();
    return { json: job ? view(job) : null };
  }

  async #create(request: Request): Promise<Answer> {
    const { keys, models, files, trainer, dir, bodyBytesMax } = this.#parts;
    const { signal } = request;
    const caller = keys.callerOf(request.headers);
    const asked = readFineTuning(await objectOf(request, { bytesMax: bodyBytesMax, isJson: true }));
    const base = await models.base();
    for (const [param, id] of [
      ["training_file", asked.trainingFile],
      ["validation_file", asked.validationFile],
    ] as const) {
      if (id === undefined) continue;
      await files.get(id, caller).catch(() => {
        throw refusal(`${param}: expected the id of an uploaded file, got ${id.slice(0, 80)}`, { param });
      });
    }
    const id = newJobId();
    const spec = specOf(asked, { base, id, dir: dirOf(dir, caller), pathOf: (file) => files.pathOf(file) });
    const { trainingJob } = await trainer.createTrainingJob({ trainingJobId: id, trainingJob: { spec } }, { signal });
    return this.#answer(trainingJob);
  }

  async #cancel({ signal }: Request, name: string): Promise<Answer> {
    const { trainingJob } = await this.#parts.trainer.cancelTrainingJob({ name }, { signal });
    return this.#answer(trainingJob);
  }

  /** Newest first, page by page until the one that was asked for is full. */
  async #list(request: Request): Promise<Answer> {
    const { keys, trainer } = this.#parts;
    const caller = keys.callerOf(request.headers);
    const { signal } = request;
    const query = Fields.ofQuery(request.url);
    const { limit, after } = pageQuery(query, limitDefault);
    query.end();
    const found: TrainingJob[] = [];
    let isPast = after === undefined;
    const read = (pageToken: string) => trainer.listTrainingJobs({ pageSize: trainerPageSize, pageToken }, { signal });
    for await (const { trainingJobs } of pagesOf(read)) {
      for (const job of trainingJobs) {
        if (isPast && this.#isSeenBy(caller, job)) found.push(job);
        isPast ||= idOf(job.name) === after;
      }
      if (found.length > limit) break;
    }
    const views = found.slice(0, limit).map(await this.#views());
    return { json: listOf(views, found.length > limit, (view) => view) };
  }

  /** Newest first; with stream=true those to come, oldest first, until the job ends. */
  async #events(request: Request, job: TrainingJob): Promise<Answer> {
    const query = Fields.ofQuery(request.url);
    const { limit, after } = pageQuery(query, limitDefault);
    const isStream = query.text("stream") === "true";
    query.end();
    const jobId = idOf(job.name);
    if (isStream) return this.#stream(request, job.name, after === undefined ? 0n : (sequenceOf(after) ?? 0n));
    // Events are numbered without gaps: those of a page are known before they are read.
    const before = after === undefined ? job.lastSequence + 1n : (sequenceOf(after) ?? 1n);
    const first = before - BigInt(limit) > 1n ? before - BigInt(limit) : 1n;
    const page: Event[] = [];
    if (before > first) {
      const watched = watchJob(this.#parts.trainer, job.name, { afterSequence: first - 1n, signal: request.signal });
      for await (const event of watched) {
        page.unshift(event);
        if (event.sequence >= before - 1n) break;
      }
    }
    const entries = page.map((event) => ({ id: eventId(jobId, event.sequence), event }));
    return { json: listOf(entries, first > 1n, ({ event }) => this.#view(jobId, event)) };
  }

  #stream({ signal, drainSignal }: Request, name: string, afterSequence: bigint): Promise<Answer> {
    const { trainer, heartbeatMs } = this.#parts;
    const watched = watchJob(trainer, name, { afterSequence, signal: AbortSignal.any([signal, drainSignal]) });
    const view = (event: Event) => JSON.stringify(this.#view(idOf(name), event));
    async function* texts(): AsyncGenerator<string> {
      for await (const event of watched) yield view(event);
    }
    return events(texts(), { heartbeatMs, end: "[DONE]", onError: (error) => JSON.stringify(errorBody(error)) });
  }

  /** Files by their names here: where they lie is nobody's business. */
  #view(jobId: string, event: Event) {
    const view = eventView(jobId, event);
    return { ...view, message: view.message.replaceAll(this.#parts.files.prefix, "").replaceAll(this.#parts.dir, "") };
  }

  #checkpoints({ url }: Request, job: TrainingJob): Answer {
    const query = Fields.ofQuery(url);
    return { json: pageOf(query, checkpointViews(job), { limitDefault: 10, view: (one) => one }) };
  }
}
