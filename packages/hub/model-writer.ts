// Writes a model folder that transformers loads: shards with an index, config, tokenizer files, card.
// It all happens in "<out>.partial-<id>"; that folder is opened and checked like any other and only then
// takes the place of `out`. Memory: the tensors of one add().
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { NibbleError } from "#packages/errors";
import { elementsOf } from "./dtypes.ts";
import { checkReplaceable, partialName, publishFolder, type WriteCall } from "./files.ts";
import { type JsonObject, parseForRewriting, printSorted, pythonFloat } from "./json.ts";
import { llamaWeights } from "./llama-weights.ts";
import { type ModelCard, printModelCard } from "./model-card.ts";
import { indexFileName, openModelFolder, readModelConfig, weightsFileName } from "./model-folder.ts";
import type { FloatDType, StoredQuantType } from "./quant-state.ts";
import type { TensorSpec } from "./safetensors-header.ts";
import { SafetensorsSpool } from "./safetensors-writer.ts";
import { tokenizerFiles } from "./tokenizer-files.ts";

const op = "model_writer";

/** transformers' own default for a shard. */
const shardBytesDefault = 5_000_000_000;

const copiedFiles = ["generation_config.json", ...tokenizerFiles];
const isLicence = (name: string) => /^(licen[cs]e|notice|use_policy)/i.test(name);

/** Whether a file belongs to a model folder, so that replacing the folder loses nothing else. */
function isModelFile(name: string): boolean {
  if (["config.json", "README.md", weightsFileName, indexFileName, ".gitattributes"].includes(name)) return true;
  return copiedFiles.includes(name) || isLicence(name) || /^model-\d{5}-of-\d{5}\.safetensors$/.test(name);
}

function isModelFileOr(keep: readonly string[] = []): (name: string) => boolean {
  return (name) => isModelFile(name) || keep.includes(name);
}

/** Refuses an output folder that holds files of others; to be called before hours of work. */
export function checkModelTarget(out: string, keep?: readonly string[]): void {
  checkReplaceable(resolve(out), isModelFileOr(keep));
}

export interface TensorToWrite extends TensorSpec {
  bytes: Uint8Array;
}

export interface ModelWriterOptions {
  /** config.json of the model, as text: numbers keep their spelling. */
  configText: string;
  /** Keys of config.json to set; undefined removes one. */
  configChanges?: JsonObject;
  /** Where tokenizer, generation config and licence are copied from; it may not be the output. */
  sourceFolder?: string;
  card: ModelCard;
  /** A shard is closed before it would grow beyond this; one group of tensors may be larger. */
  shardBytesMax?: number;
  /** Files beside the model (a run's metrics) that an existing output folder keeps. */
  keep?: readonly string[];
  /** For tests that play a full disk. */
  write?: WriteCall;
}

export interface WrittenModel {
  path: string;
  tensorCount: number;
  /** Of the tensors, without headers. */
  byteLength: number;
  files: string[];
}

export class ModelWriter {
  private readonly target: string;
  private readonly staging: string;
  private readonly options: ModelWriterOptions;
  private readonly shards: { path: string; names: string[] }[] = [];
  private spool: SafetensorsSpool | undefined;
  private byteLength = 0;

  constructor(out: string, options: ModelWriterOptions) {
    this.target = resolve(out);
    this.options = options;
    checkModelTarget(out, options.keep);
    const source = options.sourceFolder;
    if (source !== undefined && existsSync(this.target) && realpathSync(this.target) === realpathSync(source)) {
      const message = `${out}: expected an output folder other than the source model`;
      throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
    }
    this.staging = partialName(this.target);
    this.guard(() => {
      mkdirSync(dirname(this.target), { recursive: true });
      mkdirSync(this.staging);
    });
  }

  /**
   * Tensors that stay in one shard. A 4-bit weight and its quant state must be one group: transformers
   * loads shard by shard and does not look for the rest in another.
   */
  add(group: readonly TensorToWrite[]): void {
    const bytes = group.reduce((sum, tensor) => sum + tensor.bytes.length, 0);
    const limit = this.options.shardBytesMax ?? shardBytesDefault;
    this.guard(() => {
      if (this.spool && this.spool.byteLength + bytes > limit) this.closeShard();
      this.spool ??= this.openShard();
      for (const tensor of group) {
        this.spool.add(tensor, tensor.bytes);
        this.shards.at(-1)?.names.push(tensor.name);
      }
    });
    this.byteLength += bytes;
  }

  /** Checks the new folder and puts it in its place. */
  finish(): WrittenModel {
    return this.guard(() => {
      this.closeShard();
      const { configText, configChanges = {}, card } = this.options;
      const config = { ...parseForRewriting(configText, op, "config.json"), ...configChanges };
      writeFileSync(join(this.staging, "config.json"), printSorted(config), { flush: true });
      this.copyFromSource();
      writeFileSync(join(this.staging, "README.md"), printModelCard(card), { flush: true });
      this.nameShards();
      openModelFolder(this.staging).close();
      const files = readdirSync(this.staging).sort();
      this.copyKept();
      publishFolder(this.staging, this.target, isModelFileOr(this.options.keep));
      const tensorCount = this.shards.reduce((sum, shard) => sum + shard.names.length, 0);
      return { path: this.target, tensorCount, byteLength: this.byteLength, files };
    });
  }

  /** Drops what was written; harmless after finish(). */
  abort(): void {
    this.spool?.abort();
    this.spool = undefined;
    rmSync(this.staging, { recursive: true, force: true });
  }

  private copyKept(): void {
    for (const name of this.options.keep ?? []) {
      const kept = join(this.target, name);
      if (existsSync(kept)) copyFileSync(kept, join(this.staging, name));
    }
  }

  private openShard(): SafetensorsSpool {
    const path = join(this.staging, `shard-${this.shards.length + 1}.safetensors`);
    this.shards.push({ path, names: [] });
    return new SafetensorsSpool(path, this.options.write ? { write: this.options.write } : {});
  }

  private closeShard(): void {
    this.spool?.finish();
    this.spool = undefined;
  }

  private copyFromSource(): void {
    const source = this.options.sourceFolder;
    if (source === undefined) return;
    for (const name of readdirSync(source)) {
      if (copiedFiles.includes(name) || isLicence(name)) copyFileSync(join(source, name), join(this.staging, name));
    }
  }

  private nameShards(): void {
    const [only, ...more] = this.shards;
    if (only && more.length === 0) {
      renameSync(only.path, join(this.staging, weightsFileName));
      return;
    }
    const map: [string, string][] = [];
    const number = (n: number) => String(n).padStart(5, "0");
    for (const [i, shard] of this.shards.entries()) {
      const name = `model-${number(i + 1)}-of-${number(this.shards.length)}.safetensors`;
      renameSync(shard.path, join(this.staging, name));
      for (const tensor of shard.names) map.push([tensor, name]);
    }
    const weights = llamaWeights(readModelConfig(this.staging).config);
    const parameters = [...weights.values()].reduce((sum, shape) => sum + elementsOf(shape), 0);
    const metadata = { total_parameters: parameters, total_size: this.byteLength };
    const index = printSorted({ metadata, weight_map: Object.fromEntries(map) });
    writeFileSync(join(this.staging, indexFileName), index, { flush: true });
  }

  private guard<T>(work: () => T): T {
    try {
      return work();
    } catch (thrown) {
      this.abort();
      throw NibbleError.from(thrown, op);
    }
  }
}

/** Writes a whole model from a stream of groups; an error or an abort of the stream leaves the old folder. */
export async function writeModelFolder(
  out: string,
  options: ModelWriterOptions,
  groups: AsyncIterable<readonly TensorToWrite[]> | Iterable<readonly TensorToWrite[]>,
): Promise<WrittenModel> {
  const writer = new ModelWriter(out, options);
  try {
    for await (const group of groups) writer.add(group);
    return writer.finish();
  } finally {
    writer.abort();
  }
}

/** config.json's quantization_config, key for key as transformers writes it for bitsandbytes. */
export function quantizationConfig(settings: {
  quantType: StoredQuantType;
  doubleQuant: boolean;
  computeDType: FloatDType;
  /** Linear layers that stay as they are, by name; null: the head, which transformers leaves out by itself. */
  skipModules?: readonly string[] | null;
}): JsonObject {
  return {
    _load_in_4bit: true,
    _load_in_8bit: false,
    bnb_4bit_compute_dtype: settings.computeDType,
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: settings.quantType,
    bnb_4bit_use_double_quant: settings.doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: settings.skipModules ? [...settings.skipModules] : null,
    llm_int8_threshold: pythonFloat(6),
    load_in_4bit: true,
    load_in_8bit: false,
    // bitsandbytes has no int4; a method that transformers does not know makes it refuse and say so.
    quant_method: settings.quantType === "int4" ? "nibble" : "bitsandbytes",
  };
}
