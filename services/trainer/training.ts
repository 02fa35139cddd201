// A job's work: training by the engine, then the registry if the job names one. It knows no records.
import type { TrainingSpec } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { type DataPreview, type DeviceChoice, Engine, type Quote, type TrainReport } from "#packages/engine";
import { finished, type Payload, Translator } from "./payloads.ts";
import { recipeOf } from "./recipe.ts";
import { type Register, registered } from "./registration.ts";

/** Resolves when the job has succeeded; its last payload is then `finished`. */
export type Train = (
  job: { id: string; spec: TrainingSpec },
  emit: (payload: Payload) => void,
  signal: AbortSignal,
) => Promise<void>;

/** What a job would take. */
export type QuoteJob = (spec: TrainingSpec, signal: AbortSignal) => Promise<Quote>;

/** Quotes with an engine of its own for each call. */
export function engineQuoter(options: { threads: number }): QuoteJob {
  return async (spec, signal) => {
    const recipe = recipeOf(spec, options.threads);
    const engine = new Engine();
    try {
      const job = { recipe, hasRows: true, evalFile: spec.evalDataFile || null, device: "cpu" as const };
      return await engine.quote(job, { signal });
    } finally {
      await engine.close();
    }
  };
}

/** What a job would train on. */
export type PreviewJob = (spec: TrainingSpec, rows: number, signal: AbortSignal) => Promise<DataPreview>;

export function enginePreviewer(options: { threads: number }): PreviewJob {
  return async (spec, rows, signal) => {
    const engine = new Engine();
    try {
      return await engine.preview({ recipe: recipeOf(spec, options.threads), rows }, { signal });
    } finally {
      await engine.close();
    }
  };
}

/** Trains with an engine of its own for each job: one that died takes no later job with it. */
export function engineTrainer(options: { threads: number; device: DeviceChoice; register: Register }): Train {
  return async ({ id, spec }, emit, signal) => {
    const recipe = recipeOf(spec, options.threads);
    const translator = new Translator();
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
      report = await engine.train(job, { signal, onEvent: (event) => emit(translator.translate(event)) });
    } finally {
      await engine.close();
    }
    const version = await registered({ id, spec, recipe, report }, { register: options.register, emit, signal });
    emit(finished(report, translator.tokensTrained, version));
  };
}
