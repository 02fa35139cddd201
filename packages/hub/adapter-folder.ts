// A PEFT LoRA adapter folder: adapter_config.json, adapter_model.safetensors, README.md. PEFT only warns
// about a missing or surplus key, and such an adapter then acts as the base model; here it is an error
// that names the keys. The digest of the base travels in the safetensors metadata, which PEFT ignores.
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { NibbleError } from "#packages/errors";
import { adapterKey, type KeyMeaning, type LoraMatrix, meaningOf } from "./adapter-keys.ts";
import { type AdapterProbe, parseProbes, printProbes, probesKey } from "./adapter-probes.ts";
import { publishFolder, readTextIfPresent, syncFolder, type WriteCall } from "./files.ts";
import { parseObject } from "./json.ts";
import type { LlamaConfig } from "./llama-config.ts";
import {
  type LoraConfig,
  type LoraModule,
  loraModules,
  loraScaling,
  parseLoraConfig,
  printLoraConfig,
  type SavedModule,
} from "./lora-config.ts";
import { type AdapterCard, printAdapterCard } from "./model-card.ts";
import type { FloatDType } from "./quant-state.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import type { TensorSpec } from "./safetensors-header.ts";
import { SafetensorsWriter } from "./safetensors-writer.ts";
import { tokenizerFiles } from "./tokenizer-files.ts";

const op = "adapter_folder";
export const adapterConfigFileName = "adapter_config.json";
export const adapterWeightsFileName = "adapter_model.safetensors";
const digestKey = "nibble.base_digest";

export interface AdapterModule {
  rank: number;
  alpha: number;
  scaling: number;
  inFeatures: number;
  outFeatures: number;
}

export interface AdapterExtras {
  /** DoRA's magnitudes [out], by module path. */
  magnitudes: ReadonlyMap<string, string>;
  /** [rows, hidden] in place of the base's; more rows than the base has are tokens that were added. */
  saved: ReadonlyMap<SavedModule, string>;
  /** Rows [indices, hidden] in place of the embedding's. */
  tokens: { key: string; indices: readonly number[] } | null;
}

export class AdapterFolder {
  readonly path: string;
  readonly config: LoraConfig;
  /** What the adapter was trained on; null where it was made by somebody else's tool. */
  readonly baseDigest: string | null;
  /** What the trained model said to a few prompts; none where it was made by somebody else's tool. */
  readonly probes: readonly AdapterProbe[];
  /** By module path, in the order of the file. */
  readonly modules: ReadonlyMap<string, AdapterModule>;
  /** Keys of what is more than LoRA. */
  readonly extras: AdapterExtras;
  readonly file: SafetensorsFile;

  constructor(path: string, config: LoraConfig, file: SafetensorsFile) {
    this.path = path;
    this.config = config;
    this.file = file;
    this.baseDigest = file.metadata[digestKey] ?? null;
    const probes = file.metadata[probesKey];
    this.probes = probes === undefined ? [] : parseProbes(probes, path);
    const keys = meanings(path, file);
    this.modules = readModules(path, config, file, keys);
    this.extras = readExtras(path, config, file, keys);
  }

  /** Whether it is LoRA on linear layers and nothing else. */
  get isPlain(): boolean {
    return this.extras.magnitudes.size === 0 && !this.hasTokens;
  }

  /** Whether tokens may have been added or trained with it: it has an embedding of its own, or rows of one. */
  get hasTokens(): boolean {
    return this.extras.saved.size > 0 || this.extras.tokens !== null;
  }

  /** The base's vocabulary, grown by the tokens that were added. */
  vocabSizeOver(base: number): number {
    const rows = [...this.extras.saved.values()].map((key) => this.file.info(key).shape[0] ?? 0);
    return Math.max(base, ...rows);
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
  if (!existsSync(join(path, adapterWeightsFileName)) && existsSync(join(path, "adapter_model.bin"))) {
    fail("NOT_FOUND", `no ${adapterWeightsFileName} (adapter_model.bin is not read: it can run code)`, path);
  }
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

const floats = ["float32", "bfloat16", "float16"];

function meanings(path: string, file: SafetensorsFile): Map<string, KeyMeaning> {
  const keys = new Map<string, KeyMeaning>();
  const foreign: string[] = [];
  for (const [key, info] of file.tensors) {
    const meaning = meaningOf(key);
    const rank = meaning?.kind === "magnitude" ? 1 : 2;
    if (meaning === null || info.shape.length !== rank) foreign.push(key);
    else if (!floats.includes(info.dtype)) {
      fail("INVALID_ARGUMENT", `${key}: expected float32, bfloat16 or float16, got ${info.dtype}`, path);
    } else keys.set(key, meaning);
  }
  if (foreign.length > 0) fail("INVALID_ARGUMENT", `keys that a LoRA adapter does not have: ${short(foreign)}`, path);
  return keys;
}

type Meanings = ReadonlyMap<string, KeyMeaning>;

function readModules(path: string, config: LoraConfig, file: SafetensorsFile, keys: Meanings) {
  const modules = new Map<string, AdapterModule>();
  for (const [key, meaning] of keys) {
    if (meaning.kind !== "lora") continue;
    const { module, matrix } = meaning;
    if (matrix === "lora_A") {
      const outFeatures = file.tensors.get(adapterKey(module, "lora_B"))?.shape[0];
      if (outFeatures === undefined) fail("INVALID_ARGUMENT", `missing ${adapterKey(module, "lora_B")}`, path);
      modules.set(module, { ...loraScaling(config, module), inFeatures: file.info(key).shape[1] ?? 0, outFeatures });
    } else if (!file.tensors.has(adapterKey(module, "lora_A"))) {
      fail("INVALID_ARGUMENT", `missing ${adapterKey(module, "lora_A")}`, path);
    }
  }
  if (modules.size === 0) fail("INVALID_ARGUMENT", "expected at least one adapted module, got none", path);
  checkShapes(path, file, modules);
  return modules;
}

function readExtras(path: string, config: LoraConfig, file: SafetensorsFile, keys: Meanings): AdapterExtras {
  const magnitudes = new Map<string, string>();
  const saved = new Map<SavedModule, string>();
  let rows: string | null = null;
  for (const [key, meaning] of keys) {
    if (meaning.kind === "magnitude") magnitudes.set(meaning.module, key);
    if (meaning.kind === "saved" && (meaning.isNamed || !saved.has(meaning.module))) saved.set(meaning.module, key);
    if (meaning.kind === "tokens") rows = key;
  }
  const { useDora = false, modulesToSave = [], trainableTokens: indices = [] } = config;
  const missing = modulesToSave.filter((module) => !saved.has(module));
  if (missing.length > 0) fail("INVALID_ARGUMENT", `missing the weights of ${short(missing)} (modules_to_save)`, path);
  if (useDora !== magnitudes.size > 0) {
    fail("INVALID_ARGUMENT", `use_dora: expected magnitudes just with it, got ${magnitudes.size}`, path);
  }
  const given = rows === null ? 0 : (file.info(rows).shape[0] ?? 0);
  if (given !== indices.length) {
    fail("INVALID_ARGUMENT", `trainable_token_indices: expected ${indices.length} rows, got ${given}`, path);
  }
  return { magnitudes, saved, tokens: rows === null ? null : { key: rows, indices } };
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
  problems.push(...extraProblems(folder, expected, base));
  if (problems.length > 0) fail("INVALID_ARGUMENT", problems.slice(0, 6).join("; "), path);
}

/** What is more than LoRA must fit the base too; a vocabulary may have grown, for both or for neither. */
function extraProblems({ extras, file }: AdapterFolder, modules: ReadonlyMap<string, LoraModule>, base: LlamaConfig) {
  const problems: string[] = [];
  const shapeOf = (key: string) => file.info(key).shape;
  const magnitudeOf = (module: string) => shapeOf(extras.magnitudes.get(module) ?? "")[0];
  if (extras.magnitudes.size > 0) {
    for (const [module, { outFeatures }] of modules) {
      const got = extras.magnitudes.has(module) ? magnitudeOf(module) : "none";
      if (got !== outFeatures) problems.push(`${module}: expected ${outFeatures} magnitudes, got ${got}`);
    }
  }
  const { vocabSize, hiddenSize } = base;
  for (const [module, key] of extras.saved) {
    const [rows = 0, columns] = shapeOf(key);
    if (rows >= vocabSize && columns === hiddenSize) continue;
    problems.push(`${module}: expected [${vocabSize} or more, ${hiddenSize}], got [${rows}, ${columns}]`);
  }
  const grown = [...extras.saved.values()].map((key) => shapeOf(key)[0] ?? 0);
  const isBoth = grown.length === 2 || base.tieWordEmbeddings;
  if (new Set(grown).size > 1 || (grown.some((rows) => rows > vocabSize) && !isBoth)) {
    problems.push(`embed_tokens and lm_head: expected as many rows in both, got ${grown.join(" and ")}`);
  }
  const bad = extras.tokens?.indices.find((id) => id >= vocabSize);
  if (bad !== undefined) problems.push(`trainable_token_indices: expected ids below ${vocabSize}, got ${bad}`);
  return problems;
}

function short(names: readonly string[]): string {
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return `${names.slice(0, 5).join(", ")}${more}`;
}

export interface AdapterToWrite {
  config: LoraConfig;
  base: LlamaConfig;
  baseDigest: string | null;
  /** What the trained model says to a few prompts. */
  probes?: readonly AdapterProbe[];
  dtype: FloatDType;
  /** The bytes of one matrix, asked for once each; only one is held at a time. */
  bytesOf(module: string, matrix: LoraMatrix): Uint8Array;
  card: AdapterCard;
  /** An adapter whose embeddings and tokenizer are this one's too. */
  tokensOf?: AdapterFolder;
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
    const files = [adapterWeightsFileName, adapterConfigFileName, "README.md", ...copyTokenizer(adapter, staging)];
    if (inPlace) {
      for (const file of files) renameSync(join(staging, file), join(target, file));
      syncFolder(target);
    } else publishFolder(staging, target, () => false);
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** Names of what was copied. */
function copyTokenizer({ tokensOf: source }: AdapterToWrite, to: string): string[] {
  const names = source?.hasTokens ? tokenizerFiles.filter((name) => existsSync(join(source.path, name))) : [];
  for (const name of names)
    writeFileSync(join(to, name), readFileSync(join(source?.path ?? "", name)), { flush: true });
  return names;
}

function writeWeights(path: string, adapter: AdapterToWrite): void {
  const specs: (TensorSpec & { bytes: () => Uint8Array })[] = [];
  for (const [module, { rank, inFeatures, outFeatures }] of loraModules(adapter.config, adapter.base)) {
    const spec = (matrix: LoraMatrix, shape: number[]) =>
      specs.push({
        ...{ name: adapterKey(module, matrix), dtype: adapter.dtype, shape },
        bytes: () => adapter.bytesOf(module, matrix),
      });
    spec("lora_A", [rank, inFeatures]);
    spec("lora_B", [outFeatures, rank]);
  }
  const { saved = new Map(), tokens = null } = adapter.tokensOf?.extras ?? {};
  for (const name of [...saved.values(), ...(tokens ? [tokens.key] : [])]) {
    const { file } = adapter.tokensOf as AdapterFolder;
    const { dtype, shape } = file.info(name);
    specs.push({ name, dtype, shape, bytes: () => file.read(name) });
  }
  const metadata: Record<string, string> = { format: "pt" };
  if (adapter.baseDigest !== null) metadata[digestKey] = adapter.baseDigest;
  if (adapter.probes) metadata[probesKey] = printProbes(adapter.probes);
  const writer = new SafetensorsWriter(path, specs, { metadata, ...(adapter.write ? { write: adapter.write } : {}) });
  try {
    for (const { name, bytes } of specs) writer.write(name, bytes());
    writer.finish();
  } finally {
    writer.abort();
  }
}
