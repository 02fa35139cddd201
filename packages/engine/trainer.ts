// The training step: gradients of some micro-batches, summed over tokens, then one update. It knows no
// files and no jobs. The loss of a step is the sum over all its trained tokens, each with its row's weight, divided by the
// sum of the weights, however they are split into micro-batches.
import { NibbleError } from "#packages/errors";
import { type Example, freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { lossAndGradients, type PassOptions } from "./forward.ts";
import type { LlamaModel } from "./models/llama.ts";
import type { Adamw } from "./optimizer.ts";
import { learningRate, type ScheduleOptions } from "./schedule.ts";

export interface StepResult {
  /** Counted from 1. */
  step: number;
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  lr: number;
  /** All tokens of the step, trained or not. */
  tokens: number;
  trainedTokens: number;
}

export interface TrainerOptions {
  device: PassOptions["device"];
  dtype: PassOptions["dtype"];
  gradientCheckpointing: PassOptions["gradientCheckpointing"];
  schedule: ScheduleOptions;
  seed: number;
}

/** Dropout seeds of one run never meet those of a run with the next seed. */
const seedStride = 2 ** 20;

export class Trainer {
  private readonly model: LlamaModel;
  private readonly optimizer: Adamw;
  private readonly options: TrainerOptions;
  private stepsDone = 0;
  private microBatches = 0;

  constructor(model: LlamaModel, optimizer: Adamw, options: TrainerOptions) {
    this.model = model;
    this.optimizer = optimizer;
    this.options = options;
  }

  /**
   * One update from `microBatches`. `between` runs after each of them: the place to look for a cancellation.
   * @throws INTERNAL when the loss or the gradients are not finite; parameters are left as they were.
   */
  async step(microBatches: readonly (readonly Example[])[], between: () => Promise<void>): Promise<StepResult> {
    const packed = microBatches.map(packExamples);
    const trainedTokens = packed.reduce((sum, batch) => sum + batch.trainedTokens, 0);
    const weightSum = packed.reduce((sum, batch) => sum + batch.weightSum, 0);
    if (weightSum === 0) {
      throw new NibbleError("batch: expected a token to train on, got none", { code: "INVALID_ARGUMENT", op: "train" });
    }
    let lossSum = 0;
    for (const batch of packed) {
      const onDevice = uploadBatch(batch, this.options.device);
      const dropoutSeed = this.options.seed * seedStride + this.microBatches++;
      try {
        const options = { ...this.options, dropoutSeed };
        lossSum += lossAndGradients(this.model, onDevice, options, 1 / weightSum).lossSum;
      } finally {
        freeBatch(onDevice);
      }
      await between();
    }
    const loss = lossSum / weightSum;
    if (!Number.isFinite(loss)) {
      const message = `loss: expected a finite number, got ${loss} at step ${this.stepsDone + 1}; a lower learning rate may help`;
      throw new NibbleError(message, { code: "INTERNAL", op: "train" });
    }
    const lr = learningRate(this.stepsDone, this.options.schedule);
    const gradNorm = this.optimizer.update(lr);
    this.stepsDone++;
    return {
      step: this.stepsDone,
      loss,
      gradNorm,
      lr,
      tokens: packed.reduce((n, batch) => n + batch.ids.length, 0),
      trainedTokens,
    };
  }

  /** Mean loss over the trained tokens of `batches`, without dropout; nothing learns. */
  async evaluate(
    batches: Iterable<readonly Example[]>,
    between: () => Promise<void>,
  ): Promise<{ loss: number; tokens: number }> {
    let lossSum = 0;
    let tokens = 0;
    let weightSum = 0;
    for (const batch of Iterator.from(batches).map(packExamples)) {
      const onDevice = uploadBatch(batch, this.options.device);
      try {
        const options = { ...this.options, dropoutSeed: null };
        lossSum += lossAndGradients(this.model, onDevice, options, null).lossSum;
      } finally {
        freeBatch(onDevice);
      }
      tokens += batch.trainedTokens;
      weightSum += batch.weightSum;
      await between();
    }
    return { loss: weightSum === 0 ? Number.NaN : lossSum / weightSum, tokens };
  }
}
