// A model folder of random weights: where training all parameters from nothing starts. It is no model to use.
import { readModelConfig } from "#packages/hub";
import { createModel } from "./full-parameters.ts";
import { freeModel } from "./model-load.ts";
import { saveModel } from "./model-save.ts";

export interface NewModelOptions {
  /** Has config.json and the tokenizer. */
  sourceDir: string;
  out: string;
  seed: number;
  /** Standard deviation of the weights. */
  std: number;
}

export function writeNewModel({ sourceDir, out, seed, std }: NewModelOptions): void {
  const { config } = readModelConfig(sourceDir);
  const model = createModel(config, { seed, std });
  try {
    saveModel(out, model, { sourceDir, dtype: "float32", figures: [["standard deviation of the weights", std]] });
  } finally {
    freeModel(model);
  }
}
