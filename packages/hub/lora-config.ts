// adapter_config.json of a PEFT LoRA adapter (LoRA arXiv:2106.09685): reading, and the portable set of
// keys for writing. PEFT ignores what it does not expect and fills in what is missing, which silently
// changes results; here a setting that the engine does not follow is refused by name.
import { NibbleError } from "#packages/errors";
import { describe, Fields, isObject, type JsonObject, printSorted, pythonFloat } from "./json.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { llamaModules } from "./llama-weights.ts";

export interface LoraConfig {
  /** r; modules that rankPattern names have their own. */
  rank: number;
  alpha: number;
  dropout: number;
  /** Scaling alpha / sqrt(r) instead of alpha / r. */
  useRslora: boolean;
  /** Last name parts ("q_proj") or full module paths; "all-linear" is every linear layer but the head. */
  targetModules: readonly string[] | "all-linear";
  rankPattern: Readonly<Record<string, number>>;
  alphaPattern: Readonly<Record<string, number>>;
  baseModelNameOrPath: string;
  /** Weight-decomposed (DoRA, arXiv:2402.09353): each output has a magnitude of its own. Default: not. */
  useDora?: boolean;
  /** Embedding and head that were trained whole. Default: none. */
  modulesToSave?: readonly SavedModule[];
  /** Rows of the embedding that were trained. Default: none. */
  trainableTokens?: readonly number[];
}

/** What modules_to_save may name here. */
const savedModules = ["embed_tokens", "lm_head"] as const;
export type SavedModule = (typeof savedModules)[number];

/** One adapted linear layer. */
export interface LoraModule {
  rank: number;
  alpha: number;
  /** What B·A is multiplied by. */
  scaling: number;
  inFeatures: number;
  outFeatures: number;
}

const op = "adapter_config";

/** Keys that switch on something that we do not do, when they hold anything but null, false or nothing. */
const unsupportedKeys = [
  "lora_bias",
  "fan_in_fan_out",
  "layers_to_transform",
  "layer_replication",
  "exclude_modules",
  "target_parameters",
  "alora_invocation_tokens",
  "use_qalora",
  "use_bdlora",
  "arrow_config",
  "monteclora_config",
  "velora_config",
] as const;

/** Initialisations that change the base weights: such an adapter does not fit the base it names. */
const changesBase = /^(pissa|olora|corda|loftq|lora_ga)/;

function unsupported(file: string, message: string): never {
  throw new NibbleError(`${file}: ${message}`, { code: "FAILED_PRECONDITION", op, details: { file } });
}

export function parseLoraConfig(object: JsonObject, file: string): LoraConfig {
  const f = new Fields(object, op, file);
  const type = f.string("peft_type");
  if (type !== "LORA") unsupported(file, `peft_type: expected LORA, got ${type}`);
  const task = f.string("task_type", "CAUSAL_LM");
  if (task !== "CAUSAL_LM") unsupported(file, `task_type: expected CAUSAL_LM, got ${task}`);
  const bias = f.string("bias", "none");
  if (bias !== "none") unsupported(file, `bias: expected none, got ${bias}`);
  for (const key of unsupportedKeys) {
    if (!isOff(object[key])) unsupported(file, `${key}: not supported, got ${describe(object[key])}`);
  }
  const init = object["init_lora_weights"];
  if (typeof init === "string" && changesBase.test(init)) {
    unsupported(file, `init_lora_weights: ${init} changes the base weights, which is not supported`);
  }
  const dropout = f.number("lora_dropout", 0);
  if (dropout < 0 || dropout >= 1) f.fail("lora_dropout", "a number in 0..1, 1 excluded");
  return {
    rank: f.integer("r"),
    alpha: f.number("lora_alpha", undefined, 0),
    dropout,
    useRslora: f.boolean("use_rslora", false),
    targetModules: parseTargets(f, file),
    rankPattern: parsePattern(f.child("rank_pattern"), (p, key) => p.integer(key)),
    alphaPattern: parsePattern(f.child("alpha_pattern"), (p, key) => p.number(key, undefined, 0)),
    baseModelNameOrPath: f.string("base_model_name_or_path", ""),
    ...parseExtras(f, file),
  };
}

/** Only what is on, so that a plain adapter's configuration is what it was. */
function parseExtras(f: Fields, file: string): Pick<LoraConfig, "useDora" | "modulesToSave" | "trainableTokens"> {
  const useDora = f.boolean("use_dora", false);
  const modulesToSave = parseSaved(f.object["modules_to_save"], file);
  const trainableTokens = parseTokens(f.object["trainable_token_indices"], file);
  return {
    ...(useDora ? { useDora } : {}),
    ...(modulesToSave.length > 0 ? { modulesToSave } : {}),
    ...(trainableTokens.length > 0 ? { trainableTokens } : {}),
  };
}

function parseSaved(value: unknown, file: string): SavedModule[] {
  if (isOff(value)) return [];
  const known = Array.isArray(value)
    ? value.map((name) => savedModules.find((m) => name === m || name === `model.${m}`))
    : [];
  if (known.length > 0 && known.every((name) => name !== undefined)) return known;
  return unsupported(file, `modules_to_save: expected ${savedModules.join(" or ")}, got ${JSON.stringify(value)}`);
}

/** A list, or one for each module by name; of the embedding only. */
function parseTokens(value: unknown, file: string): number[] {
  if (isOff(value)) return [];
  const list = isObject(value) && Object.keys(value).join() === "embed_tokens" ? value["embed_tokens"] : value;
  if (Array.isArray(list) && list.every((id) => Number.isSafeInteger(id) && id >= 0)) return list;
  const got = JSON.stringify(value);
  return unsupported(file, `trainable_token_indices: expected ids of embed_tokens, got ${got}`);
}

function isOff(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  if (isObject(value)) return Object.keys(value).length === 0;
  return value === undefined || value === null || value === false;
}

function parseTargets(f: Fields, file: string): LoraConfig["targetModules"] {
  const value = f.object["target_modules"];
  if (value === "all-linear") return value;
  if (typeof value === "string") unsupported(file, `target_modules: expected a list or all-linear, got ${value}`);
  const targets = f.strings("target_modules");
  return targets.length > 0 ? targets : f.fail("target_modules", "at least one module");
}

function parsePattern(f: Fields | undefined, read: (f: Fields, key: string) => number): Record<string, number> {
  if (!f) return {};
  const odd = Object.keys(f.object).find((key) => !/^[\w.]+$/.test(key));
  // PEFT reads the keys as regular expressions; plain names mean the same either way.
  if (odd !== undefined) f.fail(odd, "a module name instead of a regular expression");
  return Object.fromEntries(Object.keys(f.object).map((key) => [key, read(f, key)]));
}

function names(target: string, module: string): boolean {
  return module === target || module.endsWith(`.${target}`);
}

function patternValue(pattern: Readonly<Record<string, number>>, module: string, fallback: number): number {
  const key = Object.keys(pattern).find((target) => names(target, module));
  return (key === undefined ? undefined : pattern[key]) ?? fallback;
}

/** rank, alpha and scaling of one module, by PEFT's rules. */
export function loraScaling(config: LoraConfig, module: string): { rank: number; alpha: number; scaling: number } {
  const rank = patternValue(config.rankPattern, module, config.rank);
  const alpha = patternValue(config.alphaPattern, module, config.alpha);
  return { rank, alpha, scaling: alpha / (config.useRslora ? Math.sqrt(rank) : rank) };
}

/** The layers that `config` adapts, by module path, in the order of the forward pass. */
export function loraModules(config: LoraConfig, base: LlamaConfig): Map<string, LoraModule> {
  const targets = config.targetModules;
  const modules = new Map<string, LoraModule>();
  for (const [module, [outFeatures, inFeatures]] of llamaModules(base)) {
    if (targets !== "all-linear" && !targets.some((target) => names(target, module))) continue;
    modules.set(module, { ...loraScaling(config, module), inFeatures, outFeatures });
  }
  return modules;
}

/** Targets that no linear layer has, such as a misspelt name; a trainer refuses them. */
export function unknownTargets(config: Pick<LoraConfig, "targetModules">, base: LlamaConfig): string[] {
  if (config.targetModules === "all-linear") return [];
  const modules = [...llamaModules(base).keys()];
  return config.targetModules.filter((target) => !modules.some((module) => names(target, module)));
}

/** adapter_config.json with the keys that every PEFT reads the same way. */
export function printLoraConfig(config: LoraConfig): string {
  return printSorted({
    alpha_pattern: config.alphaPattern,
    base_model_name_or_path: config.baseModelNameOrPath,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: config.alpha,
    lora_dropout: pythonFloat(config.dropout),
    modules_to_save: config.modulesToSave ?? null,
    peft_type: "LORA",
    r: config.rank,
    rank_pattern: config.rankPattern,
    target_modules: config.targetModules === "all-linear" ? "all-linear" : [...config.targetModules].sort(),
    task_type: "CAUSAL_LM",
    ...(config.trainableTokens ? { trainable_token_indices: config.trainableTokens } : {}),
    use_dora: false,
    use_rslora: config.useRslora,
  });
}
