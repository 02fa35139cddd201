// A job's work: training by the engine, then the registry if the job names one. It knows no records.
import { Severity } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingSpec } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { type TrainRecipe, withFolders } from "#packages/data";
import {
  type DataPreview,
  type DeviceChoice,
  Engine,
  type Quote,
  type TrainEvent,
  type TrainReport,
} from "#packages/engine";
import { describingFiles, localFolder, type PullProgress } from "#packages/hub";
import { Turns } from "#packages/jobs";
import { type CheckpointEvent, checkpoint, finished, logLine, type Payload, Translator } from "./payloads.ts";
import { recipeOf } from "./recipe.ts";
import { type Register, registered, registeredCheckpoint } from "./registration.ts";

/** Resolves when the job has succeeded; its last payload is then `finished`. */
export type Train = (
  job: { id: string; spec: TrainingSpec },
  emit: (payload: Payload) => void,
  signal: AbortSignal,
) => Promise<void>;

/** What a job would take. */
export type QuoteJob = (spec: TrainingSpec, signal: AbortSignal) => Promise<Quote>;

/** Quotes with an engine of its own for each call. */
export function engineQuoter(options: { threads: number; device: DeviceChoice }): QuoteJob {
  return async (spec, signal) => {
    const recipe = await described(recipeOf(spec, options.threads), signal);
    const engine = new Engine();
    try {
      const job = { recipe, hasRows: true, evalFile: spec.evalDataFile || null, device: options.device };
      return await engine.quote(job, { signal });
    } finally {
      await engine.close();
    }
  };
}

/** What reads no weights asks for none of the Hub. */
function described(recipe: TrainRecipe, signal: AbortSignal): Promise<TrainRecipe> {
  return withFolders(recipe, (text, what) =>
    localFolder(text, { signal, ...(what === "model" ? { include: describingFiles } : {}) }),
  );
}

/** A folder as it is; a repository once it is here, with a line in the log for each tenth of it. */
function pulled(text: string, emit: (payload: Payload) => void, signal: AbortSignal): Promise<string> {
  let tenths = -1;
  const onProgress = ({ bytesDone, bytesTotal }: PullProgress) => {
    const now = Math.floor((10 * bytesDone) / Math.max(1, bytesTotal));
    if (now > tenths) emit(logLine(Severity.INFO, `${text}: ${bytesDone} of ${bytesTotal} bytes are here`));
    tenths = now;
  };
  return localFolder(text, { signal, onProgress });
}

/** What a job would train on. */
export type PreviewJob = (spec: TrainingSpec, rows: number, signal: AbortSignal) => Promise<DataPreview>;

export function enginePreviewer(options: { threads: number }): PreviewJob {
  return async (spec, rows, signal) => {
    const recipe = await described(recipeOf(spec, options.threads), signal);
    const engine = new Engine();
    try {
      return await engine.preview({ recipe, rows }, { signal });
    } finally {
      await engine.close();
    }
  };
}

/** Trains with an engine of its own for each job: one that died takes no later job with it. */
export function engineTrainer(options: { threads: number; device: DeviceChoice; register: Register }): Train {
  return async ({ id, spec }, emit, signal) => {
    const recipe = await withFolders(recipeOf(spec, options.threads), (text) => pulled(text, emit, signal));
    const training = { id, spec, recipe };
    const registering = { register: options.register, emit, signal };
    const translator = new Translator();
    // Checkpoints are registered one after the other while the training goes on.
    const registrations = new Turns();
    const saved = async (event: CheckpointEvent): Promise<void> =>
      emit(checkpoint(event, await registeredCheckpoint(training, event, registering)));
    const onEvent = (event: TrainEvent): void => {
      if (event.kind === "checkpoint") void registrations.take(() => saved(event));
      else emit(translator.translate(event));
    };
    const engine = new Engine();
    let report: TrainReport;
    try {
      const job = {
        recipe,
        evalFile: spec.evalDataFile || null,
        evalSteps: Number(spec.evalSteps ?? 0n),
        device: options.device,
        ...(spec.baseDigest ? { baseDigest: spec.baseDigest } : {}),
      };
      report = await engine.train(job, { signal, onEvent });
    } finally {
      await engine.close();
      await registrations.take(async () => {});
    }
    const version = await registered(training, report, registering);
    emit(finished(report, translator.tokensTrained, version));
  };
}
