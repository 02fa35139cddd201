// Training steps on random weights and random tokens: what a row asks of memory and time.
import { type Device, type MemoryReport, memory } from "#native";
import type { TrainRecipe } from "#packages/data";
import type { LlamaConfig, LoraConfig } from "#packages/hub";
import type { Example } from "../../packages/engine/batch.ts";
import { estimateMemory, type MemoryEstimate, type RunShape } from "../../packages/engine/estimate.ts";
import type { GradientCheckpointing } from "../../packages/engine/forward.ts";
import {
  type AdapterDType,
  adapterParameters,
  attachAdapter,
  createAdapter,
  freeAdapter,
} from "../../packages/engine/lora.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import { Adamw } from "../../packages/engine/optimizer.ts";
import { defaultQuant } from "../../packages/engine/quantize-tensor.ts";
import { Trainer } from "../../packages/engine/trainer.ts";
import { seeded } from "../../test/support/tensors.ts";
import { finish, randomModel } from "./random-model.ts";

export interface Training {
  config: LlamaConfig;
  device: Device;
  rank: number;
  adapterDtype: AdapterDType;
  optimizer: TrainRecipe["optimizer"];
  gradientCheckpointing: GradientCheckpointing;
  /** Lengths of the rows of each step, packed into one micro-batch. */
  steps: readonly (readonly number[])[];
  /** Most bytes of tensors on the device; 0: none. */
  cap: number;
}

export interface Trained {
  losses: number[];
  /** Of each step, waited for. */
  seconds: number[];
  memory: MemoryReport;
}

export function loraOf(rank: number): LoraConfig {
  return {
    ...{ rank, alpha: 16, dropout: 0, useRslora: false, targetModules: "all-linear" },
    ...{ rankPattern: {}, alphaPattern: {}, baseModelNameOrPath: "" },
  };
}

const longest = ({ steps }: Training): number => Math.max(...steps.flat());

function rowsOf(training: Training): Example[][] {
  const rng = seeded(0);
  const { vocabSize } = training.config;
  return training.steps.map((lengths) =>
    lengths.map((length) => {
      const inputIds = Int32Array.from({ length }, () => Math.floor(rng() * vocabSize));
      return { inputIds, labels: inputIds };
    }),
  );
}

/** What the engine quotes for it. */
export function quoteOf(training: Training): MemoryEstimate {
  const { config, device, rank, adapterDtype, optimizer, gradientCheckpointing } = training;
  const run: RunShape = {
    device: device === "cuda" ? "cuda" : "cpu",
    ...{ config, stored: { dtype: "bfloat16", quant: defaultQuant }, quant: null, lora: loraOf(rank), adapterDtype },
    ...{ recipe: { optimizer, dtype: "bfloat16", gradientCheckpointing }, trained: rowsOf(training), evaluated: [] },
  };
  return estimateMemory(run);
}

/** @throws RESOURCE_EXHAUSTED when it does not fit under its cap; nothing is left of it then. */
export async function train(training: Training): Promise<Trained> {
  const { config, device, rank, adapterDtype, cap } = training;
  memory.trim(device);
  memory.resetPeak(device);
  memory.setLimit(cap, device);
  const undo: (() => void)[] = [() => memory.setLimit(0, device)];
  try {
    const model = randomModel(config, { device, positions: longest(training) });
    undo.push(() => freeModel(model));
    const adapter = createAdapter(loraOf(rank), config, device, 1, adapterDtype);
    undo.push(() => void freeAdapter(adapter));
    attachAdapter(model, adapter);
    const optimizer = new Adamw(adapterParameters(adapter), {
      ...{ optimizer: training.optimizer, pagingDir: process.cwd() },
      ...{ beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0.3 },
    });
    undo.push(() => optimizer.free());
    const trainer = new Trainer(model, optimizer, {
      ...{ device, dtype: "bfloat16", seed: 1, gradientCheckpointing: training.gradientCheckpointing },
      schedule: { kind: "constant", lr: 1e-4, warmupSteps: 0, steps: training.steps.length },
    });
    return await steps(trainer, training);
  } finally {
    for (const step of undo.reverse()) step();
  }
}

async function steps(trainer: Trainer, training: Training): Promise<Trained> {
  const { device } = training;
  const losses: number[] = [];
  const seconds: number[] = [];
  for (const rows of rowsOf(training)) {
    finish(device);
    const started = performance.now();
    const { loss } = await trainer.step([rows], () => Promise.resolve());
    finish(device);
    seconds.push((performance.now() - started) / 1000);
    losses.push(loss);
  }
  return { losses, seconds, memory: memory.report(device) };
}
