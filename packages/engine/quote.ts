// A quote before a run: tokens, steps, peak memory by kind and time, for any model whose config.json is there. Nothing
// is trained and no weights are read.
import { availableParallelism } from "node:os";
import { cuda, memory, setThreadCount } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { availableNow, processBytes, type Refusal, refusalOfRun } from "./admission.ts";
import type { Available } from "./available-memory.ts";
import { measureRate } from "./calibrate.ts";
import { checkForDevice, type DeviceChoice, usableDevice } from "./device.ts";
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
  /** "cuda": memory of a card, without one here as well; what is free is then not known. How fast a card is never is. */
  device: DeviceChoice;
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

async function quote({ recipe, hasRows, evalFile, device: choice }: QuoteJob, signal: AbortSignal): Promise<Quote> {
  const device = choice === "auto" ? usableDevice(choice) : choice;
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
  const run = runShapeOf(recipe, shapes, plan, device);
  const estimate = estimateMemory(run);
  const flops = trainingFlops(config, plan.counts, { ...run, gradientCheckpointing: recipe.gradientCheckpointing });
  const { tokens, trainedTokens } = plan.counts;
  const facts = { rows: train.rowCount, steps: plan.steps, tokens, trainedTokens, memory: estimate, flops };
  if (device === "cuda" && cuda.device() === null)
    return { ...facts, processBytes: 0, available: null, fits: null, refusal: null, seconds: null };
  const available = availableNow(recipe.memoryLimit, device);
  const refusal = refusalOfRun(run, estimate, available);
  const own = { available, fits: refusal === null, refusal };
  if (device === "cuda") return { ...facts, processBytes: 0, ...own, seconds: null };
  return { ...facts, processBytes: processBytes(), ...own, seconds: secondsOf(run, flops) };
}
