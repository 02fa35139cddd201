// A quote before a run: tokens, steps, peak memory by kind and time, for any model whose config.json is there. Nothing
// is trained and no weights are read.
import { availableParallelism } from "node:os";
import { memory, setThreadCount } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { availableNow, processBytes, type Refusal, refusalOfRun } from "./admission.ts";
import type { Available } from "./available-memory.ts";
import { measureRate } from "./calibrate.ts";
import { checkForDevice } from "./device.ts";
import { estimateMemory, type MemoryEstimate, type RunShape } from "./estimate.ts";
import { trainingFlops } from "./flops.ts";
import { planJob } from "./job-plan.ts";
import { maxLengthOf, readJobRows, sameRows } from "./job-rows.ts";
import { readShapes, runShapeOf } from "./run-shape.ts";

export interface QuoteJob {
  recipe: TrainRecipe;
  /** False: rows of max_length tokens are assumed, and recipe.data is not read. */
  hasRows: boolean;
  evalFile: string | null;
  /** "cuda": memory only, of a card; what is free there and how fast it is are not known here. */
  device: "cpu" | "cuda";
}

export interface Quote {
  rows: number;
  steps: number;
  /** Of all steps. */
  tokens: number;
  trainedTokens: number;
  memory: MemoryEstimate;
  /** Of the process that would train, beside its tensors. */
  processBytes: number;
  /** Null where it is not known. */
  available: Available | null;
  fits: boolean | null;
  /** Why the run would not be let in; null where it would, or where that is not known. */
  refusal: Refusal | null;
  flops: number;
  /** Of all steps, as this machine measured in a moment would need; null where it is not known. */
  seconds: number | null;
}

function secondsOf(run: RunShape, flops: number): number {
  const { config, recipe, trained } = run;
  const quant = run.stored.quant ?? run.quant;
  const rows = Math.max(1, ...trained.map((batch) => batch.reduce((n, e) => n + e.inputIds.length, 0)));
  try {
    return flops / measureRate({ config, quant, dtype: recipe.dtype, rows });
  } finally {
    memory.trim();
  }
}

/** @throws what reading the configuration and the rows throws. */
export async function quoteTrainJob(job: QuoteJob, signal: AbortSignal): Promise<Quote> {
  try {
    return await quote(job, signal);
  } catch (thrown) {
    throw NibbleError.from(thrown, "quote");
  }
}

async function quote({ recipe, hasRows, evalFile, device }: QuoteJob, signal: AbortSignal): Promise<Quote> {
  checkForDevice(recipe, device);
  setThreadCount(recipe.threads ?? availableParallelism());
  const shapes = readShapes(recipe.model);
  const { config } = shapes;
  const rows = hasRows
    ? await readJobRows({ recipe, evalFile, config, keep: "lengths", signal, onEvent: () => {} })
    : // One step's worth of the longest rows that the recipe allows.
      { train: sameRows(recipe.batchSize * recipe.gradAccum, maxLengthOf(recipe, config)), evaluation: sameRows(0, 0) };
  const { train, evaluation } = rows;
  const plan = planJob(recipe, train, evaluation);
  const run = runShapeOf(recipe, shapes, plan);
  const estimate = estimateMemory(run);
  const flops = trainingFlops(config, plan.counts, { ...run, gradientCheckpointing: recipe.gradientCheckpointing });
  const { tokens, trainedTokens } = plan.counts;
  const facts = { rows: train.rowCount, steps: plan.steps, tokens, trainedTokens, memory: estimate, flops };
  if (device === "cuda")
    return { ...facts, processBytes: 0, available: null, fits: null, refusal: null, seconds: null };
  const available = availableNow(recipe.memoryLimit, "cpu");
  const refusal = refusalOfRun(run, estimate, available);
  const seconds = secondsOf(run, flops);
  return { ...facts, processBytes: processBytes(), available, fits: refusal === null, refusal, seconds };
}
