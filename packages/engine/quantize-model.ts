// A 16-bit model folder into a 4-bit one that transformers loads, tensor by tensor (QLoRA §3): linear
// layers of the blocks are quantized, embedding, norms, biases and head stay as they are.

import { memory } from "#native";
import { NibbleError } from "#packages/errors";
import {
  elementsOf,
  type FloatDType,
  type LlamaConfig,
  llamaModules,
  type ModelFolder,
  ModelHasher,
  openModelFolder,
  quantizationConfig,
  repoOfSnapshot,
  type TensorToWrite,
  writeModelFolder,
} from "#packages/hub";
import { freeWeight, type QuantOptions, quantizeMatrix, refuseNonfinite } from "./quantize-tensor.ts";
import { weightTensors } from "./quantized-tensors.ts";
import { WeightReader } from "./weight-reader.ts";

const op = "quantize";

export interface QuantizeModelOptions {
  modelDir: string;
  outDir: string;
  quant: QuantOptions;
  /** A shard is closed before it grows beyond this many bytes. */
  shardBytesMax?: number;
  /** Linear layers to leave as they are, by the last part of their name; the head is always one. */
  skipModules?: readonly string[];
  /** The type that the checkpoint names for computing with it. Default: the type of its linear layers. */
  computeDType?: FloatDType;
  signal?: AbortSignal;
  onProgress?: (progress: QuantizeProgress) => void;
}

export interface QuantizeProgress {
  tensor: string;
  tensorsDone: number;
  tensorsTotal: number;
  bytesRead: number;
  bytesTotal: number;
  bytesWritten: number;
}

export interface QuantizeReport {
  outDir: string;
  digest: string;
  parameters: number;
  quantizedParameters: number;
  /** Weights of the model, and how many of them are in 4 bits now. */
  tensors: number;
  quantizedTensors: number;
  /** Of the quantized matrices, constants included. */
  bitsPerParameter: number;
  bytesRead: number;
  bytesWritten: number;
  seconds: number;
  /** Most bytes that tensors took in native memory at any time. */
  peakBytes: number;
}

class ModelQuantizer {
  readonly hasher = new ModelHasher();
  readonly folder: ModelFolder;
  private readonly reader: WeightReader;
  private readonly options: QuantizeModelOptions;
  private readonly linears: ReadonlyMap<string, [number, number]>;
  private readonly bytesTotal: number;
  private done = 0;
  quantizedTensors = 0;
  bytesRead = 0;
  bytesWritten = 0;
  parameters = 0;
  quantizedParameters = 0;
  quantizedBytes = 0;

  constructor(folder: ModelFolder, options: QuantizeModelOptions) {
    this.folder = folder;
    this.reader = new WeightReader(folder, "cpu", { mapped: true });
    this.options = options;
    this.linears = linearsToQuantize(folder.config, options.skipModules ?? []);
    this.bytesTotal = [...folder.tensors.values()].reduce((sum, { info }) => sum + info.byteLength, 0);
  }

  /** One group of output tensors for each input tensor, in the order of the files. */
  async *groups(): AsyncGenerator<TensorToWrite[]> {
    for (const name of this.folder.tensors.keys()) {
      this.options.signal?.throwIfAborted();
      const { shape, byteLength } = this.folder.info(name);
      const module = name.endsWith(".weight") ? name.slice(0, -".weight".length) : "";
      const group = this.linears.has(module) ? this.quantized(module) : this.plain(name);
      for (const tensor of group) {
        this.hasher.add(tensor, tensor.bytes);
        this.bytesWritten += tensor.bytes.length;
      }
      this.parameters += elementsOf(shape);
      this.bytesRead += byteLength;
      this.done++;
      yield group;
      this.report(name);
      await new Promise(setImmediate); // a cancellation gets its turn
    }
  }

  private quantized(module: string): TensorToWrite[] {
    const source = this.reader.tensor(`${module}.weight`);
    const weight = quantizeMatrix(source, `${module}.weight`, this.options.quant, "cpu");
    const group = weightTensors(module, weight);
    freeWeight(weight);
    this.quantizedTensors++;
    this.quantizedParameters += weight.out * weight.in;
    this.quantizedBytes += group.filter((t) => !t.name.includes("quant_")).reduce((sum, t) => sum + t.bytes.length, 0);
    return group;
  }

  private plain(name: string): TensorToWrite[] {
    const { dtype, shape } = this.folder.info(name);
    if (isFloat(dtype)) {
      const values = this.reader.tensor(name);
      refuseNonfinite(values, name);
      values.free();
    }
    return [{ name, dtype, shape, bytes: this.folder.read(name) }];
  }

  close(): void {
    this.reader.close();
  }

  private report(tensor: string): void {
    const { done, bytesRead, bytesTotal, bytesWritten } = this;
    const tensorsTotal = this.folder.tensors.size;
    this.options.onProgress?.({ tensor, tensorsDone: done, tensorsTotal, bytesRead, bytesTotal, bytesWritten });
  }
}

function linearsToQuantize(config: LlamaConfig, skipModules: readonly string[]): Map<string, [number, number]> {
  const skipped = new Set(skipModules);
  skipped.delete("lm_head");
  const all = [...llamaModules(config)];
  const lastPart = (module: string) => module.slice(module.lastIndexOf(".") + 1);
  const unknown = [...skipped].filter((name) => !all.some(([module]) => lastPart(module) === name));
  if (unknown.length > 0) {
    const message = `skip_modules: expected names of linear layers, got ${unknown.join(", ")}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "skip_modules" } });
  }
  const chosen = all.filter(([module]) => !skipped.has(lastPart(module)));
  if (chosen.length > 0) return new Map(chosen);
  const message = "skip_modules: expected a linear layer to be left, got all of them";
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "skip_modules" } });
}

const isFloat = (dtype: string) => dtype === "float32" || dtype === "bfloat16" || dtype === "float16";

export async function quantizeModel(options: QuantizeModelOptions): Promise<QuantizeReport> {
  const { modelDir, outDir, quant } = options;
  const started = performance.now();
  memory.resetPeak();
  using folder = openModelFolder(modelDir);
  if (folder.isQuantized) {
    const message = `${modelDir}: expected a 16- or 32-bit model, got one that is quantized already`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
  }
  const work = new ModelQuantizer(folder, options);
  const [first] = llamaModules(folder.config).keys();
  const dtype = folder.info(`${first}.weight`).dtype;
  const ownDType = dtype === "bfloat16" || dtype === "float16" ? dtype : "float32";
  const computeDType = options.computeDType ?? ownDType;
  const skipped = (options.skipModules ?? []).filter((name) => name !== "lm_head");
  const skipModules = skipped.length > 0 ? [...skipped, "lm_head"] : null;
  const settings = { quantType: quant.type, doubleQuant: quant.doubleQuant, computeDType, skipModules };
  const writer = {
    configText: folder.configText,
    configChanges: { quantization_config: quantizationConfig(settings) },
    sourceFolder: modelDir,
    card: quantizedCard(modelDir, quant),
    ...(options.shardBytesMax === undefined ? {} : { shardBytesMax: options.shardBytesMax }),
  };
  try {
    await writeModelFolder(outDir, writer, work.groups());
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  } finally {
    work.close();
  }
  return {
    outDir,
    digest: work.hasher.digest(folder.config),
    parameters: work.parameters,
    quantizedParameters: work.quantizedParameters,
    tensors: folder.tensors.size,
    quantizedTensors: work.quantizedTensors,
    bitsPerParameter: (8 * work.quantizedBytes) / work.quantizedParameters,
    bytesRead: work.bytesRead,
    bytesWritten: work.bytesWritten,
    seconds: (performance.now() - started) / 1000,
    peakBytes: memory.report().peakTotal,
  };
}

function quantizedCard(modelDir: string, { type, blockSize, doubleQuant }: QuantOptions) {
  const baseModel = repoOfSnapshot(modelDir)?.id ?? "";
  const name = baseModel || (modelDir.split(/[\\/]/).filter(Boolean).at(-1) ?? "model");
  const how = `${type.toUpperCase()}, blocks of ${blockSize}${doubleQuant ? ", double quantization" : ""}`;
  return {
    title: `${name} in 4 bits`,
    summary: `The linear layers of ${name} in 4 bits (${how}); embeddings, norms and head as they were.`,
    figures: [],
    baseModel,
    tags: ["4-bit", type],
  };
}
