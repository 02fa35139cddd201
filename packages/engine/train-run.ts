// A run of training steps: rows in the cursor's order, metrics.jsonl, evaluations and events. It knows no
// model folders: train-job.ts does.
import { type Device, type MemoryReport, memory } from "#native";
import { BatchCursor, type TrainingSet, type TrainRecipe } from "#packages/data";
import { inOrder } from "./job-plan.ts";
import { MetricsFile } from "./metrics-file.ts";
import type { StepResult, Trainer } from "./trainer.ts";

export type TrainEvent =
  | { kind: "log"; text: string; severity: "info" | "warning" }
  | ({
      kind: "step";
      steps: number;
      /** Passes over the rows so far, fractions included. */
      epoch: number;
      seconds: number;
      tokensPerSecond: number;
      tokensTotal: number;
      memory: MemoryReport;
      rssBytes: number;
    } & StepResult)
  | { kind: "eval"; step: number; loss: number; tokens: number; seconds: number }
  /** What is trained as it was after a step, in a folder of its own; evalLoss: null without held-out rows. */
  | { kind: "checkpoint"; step: number; dir: string; loss: number; evalLoss: number | null };

export interface RunContext {
  signal: AbortSignal;
  onEvent: (event: TrainEvent) => void;
}

export interface RunParts {
  device: Device;
  trainer: Trainer;
  train: TrainingSet;
  evaluation: TrainingSet;
  recipe: TrainRecipe;
  steps: number;
  /** Steps between evaluations, besides those before the first and after the last; 0 = none. */
  evalSteps: number;
  /** Writes what is trained as it is after a step; the folder. */
  save: (step: number) => string;
}

/** Whether a multiple of `every` lies in the step; 0: never. */
const isDue = (step: number, every: number): boolean =>
  every > 0 && Math.floor(step / every) > Math.floor((step - 1) / every);

export class TrainRun {
  private readonly parts: RunParts;
  private readonly context: RunContext;
  private readonly metrics: MetricsFile;
  tokens = 0;
  seconds = 0;
  firstLoss = Number.NaN;
  lastLoss = Number.NaN;
  evalLoss: number | null = null;

  constructor(parts: RunParts, context: RunContext) {
    this.parts = parts;
    this.context = context;
    this.metrics = new MetricsFile(parts.recipe.out);
  }

  async run(): Promise<void> {
    const { recipe, train, steps, evalSteps } = this.parts;
    const { batchSize, gradAccum, seed, shuffle } = recipe;
    const plan = train.plan?.digest ?? null;
    const cursor = new BatchCursor({ rowCount: train.count, batchSize, gradAccum, seed, shuffle, plan });
    // What the base alone can do: a fresh adapter changes nothing yet.
    await this.evaluate(0);
    for (let step = 1; step <= steps; step++) {
      await this.step(cursor);
      if (step === steps) break;
      const isSaved = isDue(step, recipe.saveEpochs * cursor.stepsPerEpoch);
      if (isSaved || isDue(step, evalSteps)) await this.evaluate(step);
      if (isSaved) this.save(step);
    }
    // The last step's result is the job's.
    await this.evaluate(steps);
  }

  private readonly between = async (): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve));
    this.context.signal.throwIfAborted();
  };

  private async step(cursor: BatchCursor): Promise<void> {
    const started = performance.now();
    const { microBatches } = cursor.next();
    const examples = microBatches.map((sequences) => this.parts.train.examplesOf(sequences));
    const result = await this.parts.trainer.step(examples, this.between);
    const seconds = (performance.now() - started) / 1000;
    if (result.step === 1) this.firstLoss = result.loss;
    this.lastLoss = result.loss;
    this.tokens += result.tokens;
    this.seconds += seconds;
    this.metrics.add(result, seconds);
    this.context.onEvent({
      kind: "step",
      ...result,
      steps: this.parts.steps,
      epoch: result.step / cursor.stepsPerEpoch,
      seconds,
      tokensPerSecond: result.tokens / seconds,
      tokensTotal: this.tokens,
      memory: memory.report(this.parts.device),
      rssBytes: process.memoryUsage.rss(),
    });
  }

  private save(step: number): void {
    const dir = this.parts.save(step);
    this.context.onEvent({ kind: "checkpoint", step, dir, loss: this.lastLoss, evalLoss: this.evalLoss });
  }

  private async evaluate(step: number): Promise<void> {
    const { evaluation, recipe, trainer } = this.parts;
    if (evaluation.count === 0) return;
    const started = performance.now();
    const batches = inOrder(evaluation.count, recipe.batchSize).map((sequences) => evaluation.examplesOf(sequences));
    const { loss, tokens } = await trainer.evaluate(batches, this.between);
    this.evalLoss = loss;
    this.context.onEvent({ kind: "eval", step, loss, tokens, seconds: (performance.now() - started) / 1000 });
  }
}
