// A model folder as transformers writes it: config, weights in one safetensors file or in shards with an
// index, perhaps pre-quantized by bitsandbytes. Opening checks everything but the values: a folder that
// opens has every weight the config asks for, in its shape, and no other.
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { NibbleError } from "#packages/errors";
import { readTextIfPresent } from "./files.ts";
import { isObject, parseObject } from "./json.ts";
import { type LlamaConfig, parseLlamaConfig } from "./llama-config.ts";
import { isIgnorable, llamaModules, llamaWeights } from "./llama-weights.ts";
import {
  checkQuantState,
  parseQuantState,
  type QuantState,
  quantStateNames,
  quantStateSuffixes,
  quantTypes,
  type StoredQuantState,
} from "./quant-state.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import type { TensorInfo } from "./safetensors-header.ts";

const op = "model_folder";
export const weightsFileName = "model.safetensors";
export const indexFileName = "model.safetensors.index.json";

export interface FolderTensor {
  file: SafetensorsFile;
  info: TensorInfo;
}

function fail(code: "NOT_FOUND" | "INVALID_ARGUMENT" | "DATA_LOSS", message: string, folder: string): never {
  throw new NibbleError(`${folder}: ${message}`, { code, op, details: { folder } });
}

export class ModelFolder {
  readonly path: string;
  readonly config: LlamaConfig;
  /** config.json as it stands, for a writer that makes the next one from it. */
  readonly configText: string;
  /** Every tensor of the model, whichever shard it is in. */
  readonly tensors: ReadonlyMap<string, FolderTensor>;
  /** By module path ("model.layers.0.self_attn.q_proj"); empty for a 16-bit folder. */
  readonly quantStates: ReadonlyMap<string, StoredQuantState>;
  private readonly files: readonly SafetensorsFile[];

  constructor(path: string, configText: string, config: LlamaConfig, files: readonly SafetensorsFile[]) {
    this.path = path;
    this.configText = configText;
    this.config = config;
    this.files = files;
    const tensors = new Map<string, FolderTensor>();
    for (const file of files) {
      for (const [name, info] of file.tensors) {
        if (tensors.has(name)) fail("DATA_LOSS", `tensor ${name} is in two shards`, path);
        tensors.set(name, { file, info });
      }
    }
    this.tensors = tensors;
    this.quantStates = this.readQuantStates();
  }

  /** Whether the linear layers are stored in 4 bits. */
  get isQuantized(): boolean {
    return this.quantStates.size > 0;
  }

  info(name: string): TensorInfo {
    return this.tensor(name).info;
  }

  read(name: string): Uint8Array<ArrayBuffer> {
    return this.tensor(name).file.read(name);
  }

  readInto(name: string, target: Uint8Array, byteOffset = 0): void {
    this.tensor(name).file.readInto(name, target, byteOffset);
  }

  /** The checked quantization of one module's weight; undefined where it is stored plainly. */
  quantState(module: string): StoredQuantState | undefined {
    return this.quantStates.get(module);
  }

  close(): void {
    for (const file of this.files) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private tensor(name: string): FolderTensor {
    return this.tensors.get(name) ?? fail("NOT_FOUND", `no tensor ${name}`, this.path);
  }

  private readQuantStates(): Map<string, StoredQuantState> {
    const states = new Map<string, StoredQuantState>();
    for (const name of this.tensors.keys()) {
      const suffix = quantStateSuffixes.find((s) => name.endsWith(`.weight.${s}`));
      if (suffix === undefined) continue;
      const prefix = name.slice(0, -`.weight.${suffix}`.length);
      if (states.has(prefix)) fail("DATA_LOSS", `${prefix}.weight has two quant states`, this.path);
      const state: QuantState = parseQuantState(this.read(name), name);
      checkQuantState(prefix, state, (tensor) => this.tensors.get(tensor)?.info, this.path);
      states.set(prefix, { ...state, tensors: quantStateNames(prefix, state) });
    }
    return states;
  }
}

/** Opens and checks a folder; the caller closes it. */
export function openModelFolder(path: string): ModelFolder {
  const { configText, config } = readModelConfig(path);
  const files: SafetensorsFile[] = [];
  try {
    openWeightFiles(path, files);
    const folder = new ModelFolder(path, configText, config, files);
    checkWeights(folder);
    return folder;
  } catch (thrown) {
    for (const file of files) file.close();
    throw NibbleError.from(thrown, op);
  }
}

/** Only the configuration, for those who need no weights. */
export function readModelConfig(path: string): { configText: string; config: LlamaConfig } {
  const file = join(path, "config.json");
  const configText = readTextIfPresent(file);
  if (configText === undefined) return fail("NOT_FOUND", "no config.json; expected a model folder", path);
  const generationFile = join(path, "generation_config.json");
  const generationText = readTextIfPresent(generationFile);
  const generation = generationText === undefined ? null : parseObject(generationText, op, generationFile);
  return { configText, config: parseLlamaConfig(parseObject(configText, op, file), generation, file) };
}

function openWeightFiles(path: string, files: SafetensorsFile[]): void {
  const indexText = readTextIfPresent(join(path, indexFileName));
  if (existsSync(join(path, weightsFileName))) {
    files.push(openSafetensors(join(path, weightsFileName)));
    return;
  }
  if (indexText === undefined) {
    const other = existsSync(join(path, "pytorch_model.bin"))
      ? " (pytorch_model.bin is not read: it can run code)"
      : "";
    fail("NOT_FOUND", `no ${weightsFileName} and no ${indexFileName}${other}`, path);
  }
  const map = parseIndex(indexText, path);
  const shards = [...new Set(map.values())].sort();
  const missing = shards.filter((shard) => !existsSync(join(path, shard)));
  if (missing.length > 0) fail("NOT_FOUND", `missing shard ${missing.join(", ")} that ${indexFileName} names`, path);
  for (const shard of shards) files.push(openSafetensors(join(path, shard)));
  checkIndex(map, files, path);
}

function parseIndex(text: string, path: string): Map<string, string> {
  const map = parseObject(text, op, join(path, indexFileName))["weight_map"];
  if (!isObject(map)) return fail("DATA_LOSS", `${indexFileName}: expected weight_map to be an object`, path);
  const entries = Object.entries(map).map(([name, shard]): [string, string] => {
    // A shard is a plain file name: a path could read outside of the folder.
    if (typeof shard === "string" && shard === basename(shard) && shard.endsWith(".safetensors")) return [name, shard];
    return fail("DATA_LOSS", `${indexFileName}: ${name}: expected a file name, got ${JSON.stringify(shard)}`, path);
  });
  return new Map(entries);
}

function checkIndex(map: Map<string, string>, files: readonly SafetensorsFile[], path: string): void {
  const byName = new Map(files.map((file) => [basename(file.path), file]));
  for (const [name, shard] of map) {
    if (byName.get(shard)?.tensors.has(name)) continue;
    fail("DATA_LOSS", `${indexFileName} says that ${name} is in ${shard}, but it is not`, path);
  }
  for (const [shard, file] of byName) {
    const unlisted = file.names().find((name) => map.get(name) !== shard);
    if (unlisted !== undefined) fail("DATA_LOSS", `${indexFileName} does not list ${unlisted} of ${shard}`, path);
  }
}

function checkWeights(folder: ModelFolder): void {
  const { config, path } = folder;
  const modules = llamaModules(config);
  const expected = llamaWeights(config);
  const known = new Set<string>();
  const wrong: string[] = [];
  for (const [name, shape] of expected) {
    known.add(name);
    const state = name.endsWith(".weight") ? folder.quantState(name.slice(0, -".weight".length)) : undefined;
    if (state) for (const tensor of Object.values(state.tensors)) known.add(tensor);
    const got = state?.shape ?? folder.tensors.get(name)?.info.shape;
    if (got && got.join() !== shape.join())
      wrong.push(`${name}: expected [${shape.join(",")}], got [${got.join(",")}]`);
    const module = name.slice(0, -".weight".length);
    if (state && !modules.has(module)) wrong.push(`${name}: only linear layers may be in 4 bits`);
  }
  const missing = [...expected.keys()].filter((name) => !folder.tensors.has(name));
  const surplus = [...folder.tensors.keys()].filter((name) => !known.has(name) && !isIgnorable(config, name));
  const problems = [
    ...listed("missing weights", missing),
    ...listed("weights that this model does not have", surplus),
    ...listed("weights of a wrong shape", wrong),
  ];
  if (problems.length > 0) fail("INVALID_ARGUMENT", problems.join("; "), path);
  checkPlainDTypes(folder);
}

function listed(what: string, names: readonly string[]): string[] {
  if (names.length === 0) return [];
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return [`${what}: ${names.slice(0, 5).join(", ")}${more}`];
}

function checkPlainDTypes(folder: ModelFolder): void {
  const quantized = new Set([...folder.quantStates.values()].flatMap((state) => Object.values(state.tensors)));
  const plain = ["float32", "bfloat16", "float16"];
  for (const [name, { info }] of folder.tensors) {
    if (quantized.has(name) || plain.includes(info.dtype) || isIgnorable(folder.config, name)) continue;
    const hint = name.endsWith(".weight") ? `, or 4 bits (${quantTypes.join(", ")}) with a quant state beside it` : "";
    fail("INVALID_ARGUMENT", `${name}: expected ${plain.join(", ")}${hint}, got ${info.dtype}`, folder.path);
  }
}
