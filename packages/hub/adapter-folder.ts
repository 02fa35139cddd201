// A PEFT LoRA adapter folder: adapter_config.json, adapter_model.safetensors, README.md. PEFT only warns
// about a missing or surplus key, and such an adapter then acts as the base model; here it is an error
// that names the keys. The digest of the base travels in the safetensors metadata, which PEFT ignores.
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { NibbleError } from "#packages/errors";
import { publishFolder, readTextIfPresent, syncFolder, type WriteCall } from "./files.ts";
import { parseObject } from "./json.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { type LoraConfig, loraModules, loraScaling, parseLoraConfig, printLoraConfig } from "./lora-config.ts";
import { type AdapterCard, printAdapterCard } from "./model-card.ts";
import type { FloatDType } from "./quant-state.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import type { TensorSpec } from "./safetensors-header.ts";
import { SafetensorsWriter } from "./safetensors-writer.ts";

const op = "adapter_folder";
export const adapterConfigFileName = "adapter_config.json";
export const adapterWeightsFileName = "adapter_model.safetensors";
const digestKey = "nibble.base_digest";
const keyPrefix = "base_model.model.";

export type LoraMatrix = "lora_A" | "lora_B";

/** The key of a matrix in the file: "base_model.model." + module path + ".lora_A.weight". */
export function adapterKey(module: string, matrix: LoraMatrix): string {
  return `${keyPrefix}${module}.${matrix}.weight`;
}

export interface AdapterModule {
  rank: number;
  alpha: number;
  scaling: number;
  inFeatures: number;
  outFeatures: number;
}

export class AdapterFolder {
  readonly path: string;
  readonly config: LoraConfig;
  /** What the adapter was trained on; null where it was made by somebody else's tool. */
  readonly baseDigest: string | null;
  /** By module path, in the order of the file. */
  readonly modules: ReadonlyMap<string, AdapterModule>;
  readonly file: SafetensorsFile;

  constructor(path: string, config: LoraConfig, file: SafetensorsFile) {
    this.path = path;
    this.config = config;
    this.file = file;
    this.baseDigest = file.metadata[digestKey] ?? null;
    this.modules = readModules(path, config, file);
  }

  /** A is [rank, in], B is [out, rank], in the dtype that `file.info` says. */
  read(module: string, matrix: LoraMatrix): Uint8Array<ArrayBuffer> {
    return this.file.read(adapterKey(module, matrix));
  }

  dtype(module: string, matrix: LoraMatrix): FloatDType {
    return this.file.info(adapterKey(module, matrix)).dtype as FloatDType;
  }

  close(): void {
    this.file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function fail(code: "NOT_FOUND" | "INVALID_ARGUMENT" | "FAILED_PRECONDITION", message: string, folder: string): never {
  throw new NibbleError(`${folder}: ${message}`, { code, op, details: { folder } });
}

/**
 * Opens and checks an adapter; the caller closes it. With `base`, its keys must be exactly those that
 * the config's targets give on that model, in their shapes; without, it must only agree with itself.
 */
export function openAdapterFolder(path: string, base?: { config: LlamaConfig; digest?: string }): AdapterFolder {
  const configFile = join(path, adapterConfigFileName);
  const text = readTextIfPresent(configFile);
  if (text === undefined) return fail("NOT_FOUND", `no ${adapterConfigFileName}; expected an adapter folder`, path);
  const config = parseLoraConfig(parseObject(text, op, configFile), configFile);
  const file = openSafetensors(join(path, adapterWeightsFileName));
  try {
    const folder = new AdapterFolder(path, config, file);
    if (base) checkAgainstBase(folder, base.config, base.digest);
    return folder;
  } catch (thrown) {
    file.close();
    throw NibbleError.from(thrown, op);
  }
}

function readModules(path: string, config: LoraConfig, file: SafetensorsFile): Map<string, AdapterModule> {
  const modules = new Map<string, AdapterModule>();
  const foreign: string[] = [];
  for (const [key, info] of file.tensors) {
    const [, module, matrix] = /^base_model\.model\.(.+)\.(lora_[AB])\.weight$/.exec(key) ?? [];
    if (module === undefined || info.shape.length !== 2) foreign.push(key);
    else if (!["float32", "bfloat16", "float16"].includes(info.dtype)) {
      fail("INVALID_ARGUMENT", `${key}: expected float32, bfloat16 or float16, got ${info.dtype}`, path);
    } else if (matrix === "lora_A") {
      const outFeatures = file.tensors.get(adapterKey(module, "lora_B"))?.shape[0];
      if (outFeatures === undefined) fail("INVALID_ARGUMENT", `missing ${adapterKey(module, "lora_B")}`, path);
      modules.set(module, { ...loraScaling(config, module), inFeatures: info.shape[1] ?? 0, outFeatures });
    } else if (!file.tensors.has(adapterKey(module, "lora_A"))) {
      fail("INVALID_ARGUMENT", `missing ${adapterKey(module, "lora_A")}`, path);
    }
  }
  if (foreign.length > 0) fail("INVALID_ARGUMENT", `keys that a LoRA adapter does not have: ${short(foreign)}`, path);
  if (modules.size === 0) fail("INVALID_ARGUMENT", "expected at least one adapted module, got none", path);
  checkShapes(path, file, modules);
  return modules;
}

function checkShapes(path: string, file: SafetensorsFile, modules: Map<string, AdapterModule>): void {
  for (const [module, { rank, inFeatures, outFeatures }] of modules) {
    for (const [matrix, expected] of [
      ["lora_A", `${rank},${inFeatures}`],
      ["lora_B", `${outFeatures},${rank}`],
    ] as const) {
      const key = adapterKey(module, matrix);
      const got = file.info(key).shape.join();
      if (got !== expected) fail("INVALID_ARGUMENT", `${key}: expected [${expected}], got [${got}]`, path);
    }
  }
}

function checkAgainstBase(folder: AdapterFolder, base: LlamaConfig, digest: string | undefined): void {
  const { path, modules } = folder;
  if (digest !== undefined && folder.baseDigest !== null && folder.baseDigest !== digest) {
    const message = `the adapter was trained on another base: expected ${folder.baseDigest}, got ${digest}`;
    fail("FAILED_PRECONDITION", message, path);
  }
  const expected = loraModules(folder.config, base);
  const missing = [...expected.keys()].filter((module) => !modules.has(module));
  const surplus = [...modules.keys()].filter((module) => !expected.has(module));
  const problems: string[] = [];
  if (missing.length > 0) problems.push(`missing keys of ${short(missing)}`);
  if (surplus.length > 0) problems.push(`keys of modules that are not adapted or not in the base: ${short(surplus)}`);
  for (const [module, { inFeatures, outFeatures }] of expected) {
    const got = modules.get(module);
    if (!got || (got.inFeatures === inFeatures && got.outFeatures === outFeatures)) continue;
    const shapes = `expected ${inFeatures} -> ${outFeatures}, got ${got.inFeatures} -> ${got.outFeatures}`;
    problems.push(`${module}: ${shapes}`);
  }
  if (problems.length > 0) fail("INVALID_ARGUMENT", problems.slice(0, 6).join("; "), path);
}

function short(names: readonly string[]): string {
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return `${names.slice(0, 5).join(", ")}${more}`;
}

export interface AdapterToWrite {
  config: LoraConfig;
  base: LlamaConfig;
  baseDigest: string | null;
  dtype: FloatDType;
  /** The bytes of one matrix, asked for once each; only one is held at a time. */
  bytesOf(module: string, matrix: LoraMatrix): Uint8Array;
  card: AdapterCard;
  /** For tests that play a full disk. */
  write?: WriteCall;
}

/**
 * Writes an adapter. A new folder appears whole. In a folder that is there (a trainer's output folder,
 * with its metrics) the three files are made aside and renamed over the old ones, nothing else is
 * touched, and whatever fails before the renames leaves the old adapter as it was.
 */
export function writeAdapterFolder(path: string, adapter: AdapterToWrite): void {
  const target = resolve(path);
  const inPlace = existsSync(target);
  const name = `.${basename(target)}.partial-${randomUUID().slice(0, 8)}`;
  const staging = join(inPlace ? target : dirname(target), name);
  try {
    mkdirSync(staging, { recursive: true });
    writeWeights(join(staging, adapterWeightsFileName), adapter);
    const config = printLoraConfig(adapter.config);
    writeFileSync(join(staging, adapterConfigFileName), config, { flush: true });
    writeFileSync(join(staging, "README.md"), printAdapterCard(adapter), { flush: true });
    if (inPlace) {
      const files = [adapterWeightsFileName, adapterConfigFileName, "README.md"];
      for (const file of files) renameSync(join(staging, file), join(target, file));
      syncFolder(target);
    } else publishFolder(staging, target, () => false);
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

function writeWeights(path: string, adapter: AdapterToWrite): void {
  const specs: (TensorSpec & { module: string; matrix: LoraMatrix })[] = [];
  for (const [module, { rank, inFeatures, outFeatures }] of loraModules(adapter.config, adapter.base)) {
    const spec = (matrix: LoraMatrix, shape: number[]) =>
      specs.push({ name: adapterKey(module, matrix), dtype: adapter.dtype, shape, module, matrix });
    spec("lora_A", [rank, inFeatures]);
    spec("lora_B", [outFeatures, rank]);
  }
  const metadata: Record<string, string> = { format: "pt" };
  if (adapter.baseDigest !== null) metadata[digestKey] = adapter.baseDigest;
  const writer = new SafetensorsWriter(path, specs, { metadata, ...(adapter.write ? { write: adapter.write } : {}) });
  try {
    for (const { name, module, matrix } of specs) writer.write(name, adapter.bytesOf(module, matrix));
    writer.finish();
  } finally {
    writer.abort();
  }
}
