// The shapes of a job: what of its model, its recipe and its rows decides how much memory it takes.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Device, DType } from "#native";
import type { TrainRecipe } from "#packages/data";
import {
  indexFileName,
  type LlamaConfig,
  type LoraConfig,
  type ModelFolder,
  openModelFolder,
  readModelConfig,
  repoOfSnapshot,
  weightsFileName,
} from "#packages/hub";
import { tableShapes } from "./adapter-extras.ts";
import type { RunShape } from "./estimate.ts";
import type { JobPlan } from "./job-plan.ts";
import { openAdapterToTrain } from "./lora.ts";
import type { QuantOptions } from "./quantize-tensor.ts";
import type { StoredWeights } from "./shape-model.ts";

/** How a 16-bit folder's linear layers are loaded. */
export function quantOf({ bits, quantType, blockSize, doubleQuant }: TrainRecipe): QuantOptions | null {
  return bits === 4 ? { type: quantType, blockSize, doubleQuant } : null;
}

/** The adapter that a recipe without one to start from asks for. */
export function loraOf(recipe: TrainRecipe): LoraConfig {
  const { rank, alpha, dropout, rslora: useRslora, targets: targetModules, model } = recipe;
  // A folder of the cache is of this machine; its repository's name is everybody's.
  const baseModelNameOrPath = repoOfSnapshot(model)?.id ?? model;
  return { rank, alpha, dropout, useRslora, targetModules, rankPattern: {}, alphaPattern: {}, baseModelNameOrPath };
}

export function storedIn(folder: ModelFolder): StoredWeights {
  const dtype = folder.info("model.embed_tokens.weight").dtype as DType;
  const state = folder.quantStates.values().next().value;
  if (state === undefined) return { dtype, quant: null };
  const { quantType: type, blockSize, nested } = state;
  return { dtype, quant: { type, blockSize, doubleQuant: nested !== null } };
}

/** What config.json says where there are no weights to look at; bitsandbytes' block size is not in it. */
function storedByConfig({ dtype, quantization }: LlamaConfig): StoredWeights {
  const known = (["float32", "float16", "bfloat16"] as const).find((name) => name === dtype) ?? "bfloat16";
  if (quantization?.["load_in_4bit"] !== true) return { dtype: known, quant: null };
  const type = quantization["bnb_4bit_quant_type"] === "fp4" ? "fp4" : "nf4";
  const doubleQuant = quantization["bnb_4bit_use_double_quant"] === true;
  return { dtype: known, quant: { type, blockSize: 64, doubleQuant } };
}

/** A model folder, or one that holds no more than config.json. */
export function readShapes(dir: string): { config: LlamaConfig; stored: StoredWeights } {
  const hasWeights = [weightsFileName, indexFileName].some((name) => existsSync(join(dir, name)));
  if (hasWeights) {
    using folder = openModelFolder(dir);
    return { config: folder.config, stored: storedIn(folder) };
  }
  const { config } = readModelConfig(dir);
  return { config, stored: storedByConfig(config) };
}

function adapterOf(recipe: TrainRecipe, config: LlamaConfig): Pick<RunShape, "lora" | "tables"> {
  if (recipe.full) return { lora: null };
  if (recipe.initAdapter === null) return { lora: loraOf(recipe) };
  using folder = openAdapterToTrain(recipe.initAdapter, { config });
  return { lora: folder.config, tables: tableShapes(folder, config) };
}

export function runShapeOf(
  recipe: TrainRecipe,
  { config, stored }: { config: LlamaConfig; stored: StoredWeights },
  { trained, evaluated }: Pick<JobPlan, "trained" | "evaluated">,
  device: Device,
): RunShape {
  const { adapterDtype } = recipe;
  const adapter = adapterOf(recipe, config);
  const on = device === "cuda" ? "cuda" : "cpu";
  return { device: on, config, stored, quant: quantOf(recipe), ...adapter, adapterDtype, recipe, trained, evaluated };
}
