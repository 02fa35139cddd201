// The main job through the services, step by step: quantize, train, register, load, answer.
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { MemoryUsage } from "#gen/nibble/common/v1/common_pb.ts";
import {
  QuantizeModelMetadataSchema,
  type QuantizeModelResponse,
  QuantizeModelResponseSchema,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { type Finished, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import { type Connection, waitForOperation, watchJob } from "#packages/client";
import { readRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { fromStatus } from "#packages/rpc";
import type { Io } from "../../packages/cli/io.ts";
import { bar, StatusLine, TrainReporter } from "../../packages/cli/progress.ts";
import { progressOf, trainingSpec } from "../../packages/cli/remote/wire.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
export const modelDir = join(root, "models", "quickstart");
const trainFile = join(modelDir, "data", "train.jsonl");
export const heldOutFile = join(modelDir, "data", "heldout.jsonl");
const recipeFile = join(root, "examples", "quickstart.yaml");

export const adapterId = "quickstart";
const alias = "live";

export async function quantize(connection: Connection, outDir: string, io: Io): Promise<QuantizeModelResponse> {
  const { signal } = io;
  const status = new StatusLine(io);
  const operation = await connection.quantizer.quantizeModel({ modelDir, outDir }, { signal });
  try {
    return await waitForOperation(connection.operations, operation, QuantizeModelResponseSchema, {
      metadata: QuantizeModelMetadataSchema,
      onMetadata: ({ tensorsDone, tensorsTotal }) =>
        status.show(`${bar(Number(tensorsDone) / Math.max(1, Number(tensorsTotal)))}  ${tensorsDone}/${tensorsTotal}`),
      intervalMs: 50,
      signal,
    });
  } finally {
    status.clear();
  }
}

export interface Training {
  finished: Finished;
  lossBefore: number;
  lossAfter: number;
  tokensPerSecond: number;
  memory: MemoryUsage | undefined;
}

export interface TrainingOptions {
  baseDir: string;
  outDir: string;
  /** Null: as the recipe says. */
  steps: number | null;
  evalFile: string;
}

/** Trains, watches, and has the trainer register the adapter at the end. */
export async function train(connection: Connection, options: TrainingOptions, io: Io): Promise<Training> {
  const { baseDir, outDir, steps, evalFile } = options;
  const flags = { model: baseDir, data: trainFile, out: outDir, ...(steps === null ? {} : { steps }) };
  const recipe = readRecipe({ file: recipeFile, flags });
  const spec = trainingSpec({ recipe, evalFile, evalSteps: 0 }, { adapterId, aliases: [alias] });
  const trainingJob = { spec };
  const created = await connection.trainer.createTrainingJob({ trainingJob }, { signal: io.signal });
  const reporter = new TrainReporter(io);
  try {
    return await watch(connection, created.trainingJob?.name ?? "", reporter, io.signal);
  } finally {
    reporter.end();
  }
}

async function watch(
  { trainer }: Connection,
  name: string,
  reporter: TrainReporter,
  signal: AbortSignal,
): Promise<Training> {
  const losses: number[] = [];
  let finished: Finished | undefined;
  let memory: MemoryUsage | undefined;
  let processed = 0;
  let seconds = 0;
  for await (const event of watchJob(trainer, name, { signal })) {
    const progress = progressOf(event);
    if (progress) reporter.event(progress);
    const { event: what } = event;
    if (what.case === "step") {
      processed += Number(what.value.tokensProcessed);
      seconds += what.value.seconds;
      memory = what.value.memory;
    }
    if (what.case === "eval") losses.push(what.value.loss);
    if (what.case === "finished") finished = what.value;
    if (what.case === "stateChange" && what.value.state !== State.SUCCEEDED && what.value.error) {
      throw fromStatus(what.value.error, "train");
    }
  }
  const [lossBefore] = losses;
  const lossAfter = losses.at(-1);
  if (!finished || lossBefore === undefined || lossAfter === undefined) {
    throw new NibbleError(`${name}: expected a result with held-out losses`, { code: "INTERNAL", op: "demo" });
  }
  return { finished, lossBefore, lossAfter, tokensPerSecond: processed / seconds, memory };
}

/** From the registry, by its alias; `loadedAdapters/…`. */
export async function loadAdapter({ inference }: Connection, signal: AbortSignal): Promise<string> {
  const source = { case: "registryName", value: `adapters/${adapterId}/aliases/${alias}` } as const;
  const { adapter } = await inference.loadAdapter({ adapterId, source }, { signal });
  return adapter?.name ?? "";
}
