// One fine-tuning job from files to files: base model and rows in, adapter (or model) and metrics out.
// Everything is checked before the first step; the output folder gets the adapter only when the job succeeds.
import { mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { type Device, type MemoryReport, memory, setThreadCount } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import {
  checkFolderTarget,
  checkModelTarget,
  type ModelFolder,
  ModelHasher,
  openModelFolder,
  withoutEmptyFolders,
} from "#packages/hub";
import { loadTrainableAdapter, withTables } from "./adapter-extras.ts";
import { admit, kindsText, sizeText } from "./admission.ts";
import { checkForDevice, type DeviceChoice, usableDevice } from "./device.ts";
import type { MemoryEstimate } from "./estimate.ts";
import { trainAllParameters } from "./full-parameters.ts";
import { planJob } from "./job-plan.ts";
import { type JobRows, logRows, readJobRows } from "./job-rows.ts";
import {
  type Adapter,
  adapterParameters,
  attachAdapter,
  createAdapter,
  freeAdapter,
  openAdapterToTrain,
  saveAdapter,
} from "./lora.ts";
import { metricsFiles, writeDataFacts } from "./metrics-file.ts";
import { freeModel, linearFootprint, loadModel } from "./model-load.ts";
import { saveModel } from "./model-save.ts";
import type { LlamaModel } from "./models/llama.ts";
import { Adamw, isPaged } from "./optimizer.ts";
import type { Parameter } from "./parameters.ts";
import { probeTokens, recordProbes } from "./probes.ts";
import { loraOf, quantOf, runShapeOf, storedIn } from "./run-shape.ts";
import { type RunContext, TrainRun } from "./train-run.ts";
import { Trainer } from "./trainer.ts";

export interface TrainJob {
  recipe: TrainRecipe;
  /** Held-out rows, never trained. */
  evalFile: string | null;
  /** Steps between evaluations, besides those before the first and after the last; 0 = none. */
  evalSteps: number;
  /** Digest that the base must have; undefined: any. */
  baseDigest?: string;
  device: DeviceChoice | Device;
}

/** With the device that was found for it. */
type PlacedJob = TrainJob & { device: Device };

export interface TrainReport {
  outDir: string;
  steps: number;
  firstLoss: number;
  lastLoss: number;
  evalLoss: number | null;
  seconds: number;
  tokens: number;
  tokensPerSecond: number;
  baseDigest: string;
  trainedParameters: number;
  bitsPerParameter: number;
  memory: MemoryReport;
  /** What was expected before the first step. */
  estimate: MemoryEstimate;
}

const op = "train";

/** What a job trains, and how the result is written. */
interface Trainable {
  /** The model as it is trained: with the adapter's own embedding and head, if it has any. */
  learner: LlamaModel;
  parameters: Parameter[];
  save(out: string, figures: readonly (readonly [string, string | number])[]): void;
  free(): void;
}

function prepareAdapter(job: PlacedJob, model: LlamaModel, baseDigest: string): Trainable {
  const { config } = model;
  const { initAdapter, adapterDtype, seed } = job.recipe;
  using opened = new DisposableStack();
  // Stays open: what it has beside LoRA goes into the result.
  const before =
    initAdapter === null ? null : opened.use(openAdapterToTrain(initAdapter, { config, digest: baseDigest }));
  const make = (): Adapter =>
    before === null
      ? createAdapter(loraOf(job.recipe), config, job.device, seed, adapterDtype)
      : loadTrainableAdapter(before, model, adapterDtype);
  const adapter = make();
  attachAdapter(model, adapter);
  const learner = withTables(model, adapter);
  const open = opened.move();
  return {
    learner,
    parameters: adapterParameters(adapter),
    save: (out, figures) => {
      const summary = "A LoRA adapter trained with Nibble; the figures below were measured by its training job.";
      saveAdapter(out, adapter, {
        base: config,
        baseDigest,
        probes: recordProbes(learner, job.device),
        card: { title: "LoRA adapter", summary, figures },
        ...(before === null ? {} : { tokensOf: before }),
      });
    },
    free: () => {
      attachAdapter(model, null);
      freeAdapter(adapter);
      open.dispose();
    },
  };
}

function prepareFull(job: TrainJob, model: LlamaModel): Trainable {
  checkModelTarget(job.recipe.out, metricsFiles);
  const parameters = trainAllParameters(model);
  return {
    learner: model,
    parameters,
    save: (out, figures) => saveModel(out, model, { sourceDir: job.recipe.model, dtype: "bfloat16", figures }),
    // Their values are the model's own.
    free: () => {
      for (const p of parameters) p.grad.free();
    },
  };
}

/** @throws what loading, the rows and the steps throw; CANCELLED when the signal aborts. */
export async function runTrainJob(job: TrainJob, context: RunContext): Promise<TrainReport> {
  const { out, pagingDir } = job.recipe;
  try {
    const placed = { ...job, device: usableDevice(job.device) };
    return await withoutEmptyFolders([out, pagingDir ?? out], () => run(placed, context));
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
}

async function run(job: PlacedJob, context: RunContext): Promise<TrainReport> {
  const { recipe, evalFile } = job;
  checkDType(recipe);
  checkForDevice(recipe, job.device);
  checkFolderTarget(resolve(recipe.out));
  setThreadCount(recipe.threads ?? availableParallelism());
  using folder = openModelFolder(recipe.model);
  if (recipe.bits === 16 && folder.isQuantized) {
    const message = `bits: expected 4 for ${recipe.model}, which is quantized, got 16`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "bits" } });
  }
  const { config } = folder;
  const keep = { folder: recipe.pagingDir ?? recipe.out };
  const rows = await readJobRows({ recipe, evalFile, config, keep, ...context });
  try {
    logRows(recipe, rows, context.onEvent);
    return await trainOn(rows, job, folder, context);
  } finally {
    rows.close();
  }
}

async function trainOn(rows: JobRows, job: PlacedJob, folder: ModelFolder, context: RunContext): Promise<TrainReport> {
  const { recipe, device, evalSteps } = job;
  const { train, evaluation } = rows;
  const { config } = folder;
  const plan = planJob(recipe, train, evaluation);
  const { steps, warmupSteps } = plan;
  const { estimate } = admit(
    runShapeOf(recipe, { config, stored: storedIn(folder) }, plan, job.device),
    recipe.memoryLimit,
    device,
  );
  logEstimate(estimate, context.onEvent);
  memory.resetPeak(device);
  // On a card the limit is a cap on what is allocated; on the host the system has a say in it as well.
  if (device === "cuda") memory.setLimit(recipe.memoryLimit ?? 0, device);
  const hasher = new ModelHasher();
  const positions = Math.max(probeTokens, train.store.longest, evaluation.store.longest);
  const load = { device, quant: quantOf(recipe), float32: recipe.full, positions, hasher, signal: context.signal };
  const model = loadModel(folder, load);
  let trainable: Trainable | undefined;
  let optimizer: Adamw | undefined;
  try {
    const baseDigest = hasher.digest(folder.config);
    checkDigest(job, baseDigest);
    trainable = recipe.full ? prepareFull(job, model) : prepareAdapter(job, model, baseDigest);
    if (trainable.learner !== model) {
      const text = "the adapter's own embedding and head stay as they are: its LoRA matrices are trained";
      context.onEvent({ kind: "log", severity: "info", text });
    }
    optimizer = newOptimizer(trainable.parameters, recipe);
    const schedule = { kind: recipe.schedule, lr: recipe.lr, warmupSteps, steps };
    const trainer = new Trainer(trainable.learner, optimizer, { ...recipe, device, schedule });
    writeDataFacts(recipe.out, recipe.data, rows);
    const { save } = trainable;
    const saveCheckpoint = (step: number): string => {
      const dir = join(recipe.out, `checkpoint-${step}`);
      const { tokens, firstLoss, lastLoss, evalLoss } = steady;
      save(dir, figuresOf(recipe, { steps: step, tokens, firstLoss, lastLoss, evalLoss }));
      return dir;
    };
    const parts = { device, trainer, train, evaluation, recipe, steps, evalSteps, save: saveCheckpoint };
    const steady = new TrainRun(parts, context);
    await steady.run();
    const report = reportOf(steady, {
      device,
      recipe,
      steps,
      baseDigest,
      model,
      estimate,
      parameters: trainable.parameters,
    });
    // Only the result is needed from here on.
    optimizer.free();
    memory.trim(device);
    trainable.save(recipe.out, figuresOf(recipe, report));
    return report;
  } finally {
    optimizer?.free();
    trainable?.free();
    freeModel(model);
    memory.trim(device);
    if (device === "cuda") memory.setLimit(0, device);
  }
}

function logEstimate({ peakTotal, atPeak, paged }: MemoryEstimate, onEvent: RunContext["onEvent"]): void {
  const inFile = paged > 0 ? `; ${sizeText(paged)} in a spill file` : "";
  const text = `memory: ${sizeText(peakTotal)} expected at most (${kindsText(atPeak)})${inFile}`;
  onEvent({ kind: "log", severity: "info", text });
}

function newOptimizer(parameters: readonly Parameter[], recipe: TrainRecipe): Adamw {
  const pagingDir = recipe.pagingDir ?? recipe.out;
  if (isPaged(recipe.optimizer)) mkdirSync(pagingDir, { recursive: true });
  return new Adamw(parameters, { ...recipe, pagingDir });
}

function checkDigest({ baseDigest: expected, recipe }: TrainJob, got: string): void {
  if (expected === undefined || expected === got) return;
  const message = `base_digest: expected ${expected}, got ${got} for ${recipe.model}`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details: { expected, got } });
}

function checkDType({ full, dtype }: TrainRecipe): void {
  if (!full || dtype === "float32") return;
  throw new NibbleError(`dtype: expected float32 with full, got ${dtype}`, { code: "INVALID_ARGUMENT", op });
}

interface RunFacts {
  device: Device;
  recipe: TrainRecipe;
  steps: number;
  baseDigest: string;
  model: LlamaModel;
  parameters: readonly Parameter[];
  estimate: MemoryEstimate;
}

function reportOf(
  run: TrainRun,
  { device, recipe, steps, baseDigest, model, parameters, estimate }: RunFacts,
): TrainReport {
  return {
    outDir: recipe.out,
    steps,
    firstLoss: run.firstLoss,
    lastLoss: run.lastLoss,
    evalLoss: run.evalLoss,
    seconds: run.seconds,
    tokens: run.tokens,
    tokensPerSecond: run.tokens / run.seconds,
    baseDigest,
    trainedParameters: parameters.reduce((sum, p) => sum + p.value.count, 0),
    bitsPerParameter: linearFootprint(model).bitsPerParameter,
    memory: memory.report(device),
    estimate,
  };
}

type Figures = Pick<TrainReport, "steps" | "tokens" | "firstLoss" | "lastLoss" | "evalLoss">;

function figuresOf(recipe: TrainRecipe, r: Figures): [string, string | number][] {
  const evaluated: [string, string][] = r.evalLoss === null ? [] : [["held-out loss", r.evalLoss.toFixed(4)]];
  return [
    ["steps", r.steps],
    ["learning rate", recipe.lr],
    ["tokens", r.tokens],
    ["loss, first step", r.firstLoss.toFixed(4)],
    ["loss, last step", r.lastLoss.toFixed(4)],
    ...evaluated,
  ];
}
