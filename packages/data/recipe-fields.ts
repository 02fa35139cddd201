// Every setting of a training run: its name, unit, default and check, once. recipe.yaml, the flags of
// the command line and the validation all come from this table. Defaults are QLoRA's (arXiv:2305.14314
// and its code) unless a comment says otherwise. "Upstream" names are those of transformers and PEFT.

import { quantBlockSizes, quantTypes } from "#packages/hub";
import { datasetFormats } from "./dataset.ts";
import { type TrainTurns, trainTurns } from "./examples.ts";

export const schedules = ["constant", "linear", "cosine"] as const;
/** What the backward pass computes again: nothing; norms and activations; whole blocks. */
export const checkpointings = ["none", "selective", "full", "offload"] as const;
const computeDTypes = ["float32", "bfloat16"] as const;
export const optimizers = ["adamw_32bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"] as const;

export interface TrainRecipe {
  model: string;
  data: string;
  /** One of datasetFormats. */
  datasetFormat: string;
  out: string;
  initAdapter: string | null;
  /** Train every weight of a 16-bit model instead of an adapter. */
  full: boolean;
  bits: 4 | 16;
  quantType: (typeof quantTypes)[number];
  blockSize: (typeof quantBlockSizes)[number];
  doubleQuant: boolean;
  rank: number;
  alpha: number;
  dropout: number;
  rslora: boolean;
  targets: readonly string[] | "all-linear";
  optimizer: (typeof optimizers)[number];
  /** Of a paged optimizer's spill file and of tokenized rows; null: the output folder. */
  pagingDir: string | null;
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  maxGradNorm: number;
  /** Null: epochs decides. */
  steps: number | null;
  epochs: number;
  /** Between checkpoints; 0: none is written. */
  saveEpochs: number;
  batchSize: number;
  gradAccum: number;
  schedule: (typeof schedules)[number];
  warmup: number;
  seed: number;
  shuffle: boolean;
  maxLength: number;
  trainOnSource: boolean;
  trainTurns: TrainTurns;
  packing: boolean;
  /** Part of the rows that is held out. */
  evalFraction: number;
  gradientCheckpointing: (typeof checkpointings)[number];
  dtype: (typeof computeDTypes)[number];
  adapterDtype: (typeof computeDTypes)[number];
  /** Null: as many as the machine has cores. */
  threads: number | null;
  /** Bytes that the process may take at most; null: what the machine has. */
  memoryLimit: number | null;
}

/** What a value must be, in words, and the value if it is. */
export interface Check {
  expected: string;
  /** Undefined where `value` is not what is expected. */
  read(value: unknown): unknown;
}

export interface RecipeField {
  key: keyof TrainRecipe;
  /** Undefined: required. */
  fallback?: TrainRecipe[keyof TrainRecipe];
  check: Check;
  help: string;
}

/** Flags arrive as text, YAML values typed. */
function asNumber(value: unknown): number {
  if (typeof value === "number") return value;
  return typeof value === "string" && value.trim() !== "" ? Number(value) : Number.NaN;
}

function whole(min: number): Check {
  return {
    expected: `a whole number >= ${min}`,
    read: (value) => {
      const n = asNumber(value);
      return Number.isSafeInteger(n) && n >= min ? n : undefined;
    },
  };
}

function real(expected: string, ok: (n: number) => boolean): Check {
  return {
    expected,
    read: (value) => {
      const n = asNumber(value);
      return Number.isFinite(n) && ok(n) ? n : undefined;
    },
  };
}

function choice(allowed: readonly (string | number)[]): Check {
  return {
    expected: `one of ${allowed.join(", ")}`,
    read: (value) => allowed.find((one) => one === value || String(one) === value),
  };
}

const text: Check = {
  expected: "a text that is not empty",
  read: (value) => (typeof value === "string" && value !== "" ? value : undefined),
};

const yesNo: Check = {
  expected: "true or false",
  read: (value) => (typeof value === "boolean" ? value : undefined),
};

/** Upstream has true and false. */
const checkpointing: Check = {
  expected: `one of ${checkpointings.join(", ")}`,
  read: (value) => {
    if (typeof value === "boolean") return value ? "full" : "none";
    return choice(checkpointings).read(value);
  },
};

const moduleNames: Check = {
  expected: "all-linear or a list of module names such as q_proj,v_proj",
  read: (value) => {
    if (value === "all-linear") return value;
    const names = typeof value === "string" ? value.split(",").map((name) => name.trim()) : value;
    const ok = Array.isArray(names) && names.length > 0 && names.every((n) => typeof n === "string" && n !== "");
    return ok ? names : undefined;
  },
};

const unitBytes: Record<string, number> = { k: 1, m: 2, g: 3, t: 4 };

/** Bytes: a number, or a text such as 8GB (powers of 1000) or 512MiB (of 1024). */
function bytesOf(value: unknown): number {
  const found = typeof value === "string" ? /^([\d.]+) *([kmgt])(i?)b$/i.exec(value.trim()) : null;
  if (!found) return asNumber(value);
  const [, number, unit = "", binary] = found;
  return Math.round(Number(number) * (binary ? 1024 : 1000) ** (unitBytes[unit.toLowerCase()] ?? 0));
}

const size: Check = {
  expected: "bytes > 0, such as 8GB or 512MiB",
  read: (value) => {
    const n = bytesOf(value);
    return Number.isSafeInteger(n) && n > 0 ? n : undefined;
  },
};

const positive = real("a number > 0", (n) => n > 0);
const notNegative = real("a number >= 0", (n) => n >= 0);
const belowOne = real("a number in 0..1, 1 excluded", (n) => n >= 0 && n < 1);

export const recipeFields: readonly RecipeField[] = [
  { key: "model", check: text, help: "model folder or org/name[@revision] of the Hub, 16-bit or pre-quantized" },
  { key: "data", check: text, help: "training rows: a file, a folder, a set by name, or a Hub data set" },
  { key: "datasetFormat", fallback: "auto", check: choice(datasetFormats), help: "what a row's columns mean" },
  { key: "out", check: text, help: "folder for the adapter and metrics.jsonl" },
  { key: "initAdapter", fallback: null, check: text, help: "adapter folder or org/name of the Hub to start from" },
  { key: "full", fallback: false, check: yesNo, help: "train every weight (needs bits 16)" },
  { key: "bits", fallback: 4, check: choice([4, 16]), help: "bits of the frozen base" },
  { key: "quantType", fallback: "nf4", check: choice(quantTypes), help: "4-bit type of a base quantized on load" },
  { key: "blockSize", fallback: 64, check: choice(quantBlockSizes), help: "weights that share one absmax" },
  { key: "doubleQuant", fallback: true, check: yesNo, help: "quantize the absmax too" },
  // The paper's runs use rank 64; its finding is that the rank does not matter once all layers are adapted.
  { key: "rank", fallback: 16, check: whole(1), help: "LoRA r" },
  { key: "alpha", fallback: 16, check: positive, help: "lora_alpha; B·A is scaled by alpha / rank" },
  { key: "dropout", fallback: 0, check: belowOne, help: "lora_dropout" },
  { key: "rslora", fallback: false, check: yesNo, help: "scale by alpha / sqrt(rank) (use_rslora)" },
  { key: "targets", fallback: "all-linear", check: moduleNames, help: "layers to adapt (target_modules)" },
  // The paper's runs use paged_adamw_32bit: pages go to disk only when memory is short, so it costs nothing before.
  { key: "optimizer", fallback: "adamw_32bit", check: choice(optimizers), help: "state in 32 or 8 bits, paged or not" },
  {
    key: "pagingDir",
    fallback: null,
    check: text,
    help: "folder on a disk for paged state and tokenized rows; default: out",
  },
  { key: "lr", fallback: 2e-4, check: positive, help: "learning rate; QLoRA halves it from 33B on" },
  { key: "beta1", fallback: 0.9, check: belowOne, help: "AdamW: decay of the mean" },
  { key: "beta2", fallback: 0.999, check: belowOne, help: "AdamW: decay of the mean square" },
  { key: "eps", fallback: 1e-8, check: positive, help: "AdamW: added to the root" },
  { key: "weightDecay", fallback: 0, check: notNegative, help: "AdamW: decoupled decay" },
  { key: "maxGradNorm", fallback: 0.3, check: positive, help: "gradients are clipped to this global norm" },
  { key: "steps", fallback: null, check: whole(1), help: "optimizer steps; instead of epochs" },
  { key: "epochs", fallback: 1, check: positive, help: "passes over the rows" },
  { key: "saveEpochs", fallback: 0, check: notNegative, help: "passes between checkpoints, out/checkpoint-N; 0: none" },
  // 4 x 4 is the paper's 16 rows a step; documents are packed, so a larger micro-batch costs no padding.
  { key: "batchSize", fallback: 4, check: whole(1), help: "rows of a micro-batch" },
  { key: "gradAccum", fallback: 4, check: whole(1), help: "micro-batches of a step" },
  { key: "schedule", fallback: "constant", check: choice(schedules), help: "learning rate after the warm-up" },
  { key: "warmup", fallback: 0, check: notNegative, help: "steps to reach lr; below 1, a part of all steps" },
  { key: "seed", fallback: 42, check: whole(0), help: "of initialisation, order and dropout" },
  { key: "shuffle", fallback: true, check: yesNo, help: "another order each epoch" },
  { key: "maxLength", fallback: 1024, check: whole(2), help: "tokens of a row; the rest is cut" },
  { key: "trainOnSource", fallback: false, check: yesNo, help: "train prompts and user turns too" },
  { key: "trainTurns", fallback: "all", check: choice(trainTurns), help: "assistant turns of a dialogue to train" },
  {
    key: "packing",
    fallback: false,
    check: yesNo,
    help: "several rows in a sequence of max_length; a batch is batch_size sequences",
  },
  { key: "evalFraction", fallback: 0, check: belowOne, help: "part of the rows to hold out, by seed" },
  {
    key: "gradientCheckpointing",
    fallback: "selective",
    check: checkpointing,
    help: "none; selective: a third less memory, for little; full: little memory, a third more time; offload: full, with what it keeps on the host",
  },
  // As QLoRA's own runs. The optimizer's state is float32 in both, or 8-bit.
  { key: "dtype", fallback: "bfloat16", check: choice(computeDTypes), help: "of activations; float32 with full" },
  {
    key: "adapterDtype",
    fallback: "float32",
    check: choice(computeDTypes),
    help: "of the trained adapter and its gradients; bfloat16 takes half the memory, what is summed up stays float32",
  },
  { key: "threads", fallback: null, check: whole(1), help: "CPU threads; default all cores" },
  { key: "memoryLimit", fallback: null, check: size, help: "memory at most, such as 8GB; default: all" },
];

/** "weightDecay" is weight_decay in recipe.yaml and --weight-decay on the command line. */
export function yamlKey(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

export function flagName(field: RecipeField): string {
  const name = yamlKey(field.key).replaceAll("_", "-");
  return field.fallback === true ? `--no-${name}` : `--${name}`;
}
