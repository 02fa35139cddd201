// The PEFT runs of the golden files, and the engine's runs of the same steps on a device.
import { readFileSync } from "node:fs";
import type { Device } from "#native";
import type { TrainRecipe } from "#packages/data";
import { openAdapterFolder } from "#packages/hub";
import { floatsOf as elementsOf } from "../../packages/engine/dense.ts";
import type { GradientCheckpointing } from "../../packages/engine/forward.ts";
import {
  type Adapter,
  type AdapterDType,
  adapterParameters,
  attachAdapter,
  freeAdapter,
  loadAdapter,
} from "../../packages/engine/lora.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../packages/engine/models/llama.ts";
import { Adamw, type AdamwOptions } from "../../packages/engine/optimizer.ts";
import { Trainer } from "../../packages/engine/trainer.ts";
import { examplesOf, goldenPath, goldenTensors, loadGoldenModel, rowsOf } from "./golden-model.ts";

interface GoldenRun {
  base: string;
  loss: number[];
  grad_norm: number[];
}

const file: { hparams: Record<string, number>; runs: Record<string, GoldenRun> } = JSON.parse(
  readFileSync(goldenPath("train/train.json"), "utf8"),
);
export const goldenRuns = [
  ["qlora", file.runs["qlora"]!],
  ["lora_fp32", file.runs["lora_fp32"]!],
] as const;
export const goldenLr = file.hparams["lr"] ?? 0;

export const goldenData = goldenTensors("train/train_data.safetensors");
const [ids, labels] = [rowsOf(goldenData("batches")), rowsOf(goldenData("labels"))];
export const goldenStep = (i: number) => examplesOf(ids.slice(2 * i, 2 * i + 2), labels.slice(2 * i, 2 * i + 2));

export const goldenAdamw: AdamwOptions = {
  ...{ beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, maxGradNorm: 1 },
  ...{ optimizer: "adamw_32bit" as const, pagingDir: "." },
};

export function goldenStart(
  base: string,
  device: Device,
  dtype: AdapterDType = "float32",
): { model: LlamaModel; adapter: Adapter } {
  const model = loadGoldenModel(base, device);
  using folder = openAdapterFolder(goldenPath("train/init_adapter"), { config: model.config });
  const adapter = loadAdapter(folder, device, true, dtype);
  attachAdapter(model, adapter);
  return { model, adapter };
}

export interface GoldenOptions {
  device: Device;
  dtype: TrainRecipe["dtype"];
  gradientCheckpointing: GradientCheckpointing;
  optimizer: TrainRecipe["optimizer"];
  /** A row a micro-batch. */
  split: boolean;
  adapterDtype?: AdapterDType;
  /** Of the golden run's 20. */
  steps?: number;
}

/** The caller frees the result. */
export async function trainGolden(base: string, options: GoldenOptions) {
  const { device, dtype, gradientCheckpointing, split, steps = 20 } = options;
  const { model, adapter } = goldenStart(base, device, options.adapterDtype);
  const optimizer = new Adamw(adapterParameters(adapter), { ...goldenAdamw, optimizer: options.optimizer });
  const schedule = { kind: "constant", lr: goldenLr, warmupSteps: 0, steps: 20 } as const;
  const trainer = new Trainer(model, optimizer, { device, dtype, gradientCheckpointing, schedule, seed: 0 });
  const losses: number[] = [];
  const norms: number[] = [];
  for (let i = 0; i < steps; i++) {
    const microBatches = split ? goldenStep(i).map((example) => [example]) : [goldenStep(i)];
    const { loss, gradNorm } = await trainer.step(microBatches, () => Promise.resolve());
    losses.push(loss);
    norms.push(gradNorm);
  }
  const free = () => {
    optimizer.free();
    freeAdapter(adapter);
    freeModel(model);
  };
  return { losses, norms, model, adapter, free };
}

export function snapshotOf(adapter: Adapter): Map<string, Float32Array> {
  return new Map(adapterParameters(adapter).map((p) => [p.name, elementsOf(p.value)]));
}
