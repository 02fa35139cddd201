// An adapter merged into its base: a folder without adapter, in 16 bits or quantized again. A QLoRA adapter was
// trained on the values that the 4-bit codes decode to, and makes up for their error; so it is those that it is added
// to, unless the caller wants the original weights. Either way the logits of what was written are compared with those
// of base and adapter apart.
import { join } from "node:path";
import { convert, Tensor } from "#native";
import { NibbleError } from "#packages/errors";
import {
  type FloatDType,
  type ModelFolder,
  openModelFolder,
  printModelCard,
  quantizationConfig,
  replaceFile,
  type TensorToWrite,
  writeModelFolder,
} from "#packages/hub";
import { type BaseAndAdapter, loadBaseAndAdapter } from "./base-and-adapter.ts";
import { addAdapter, denseValues } from "./dense.ts";
import type { LinearLayer } from "./layers.ts";
import { type LogitDrift, logitDrift, probeLogits } from "./logit-drift.ts";
import { withoutAdapter } from "./lora.ts";
import { freeModel, loadModel } from "./model-load.ts";
import { namedTensors, TensorReader } from "./model-save.ts";
import type { LlamaModel } from "./models/llama.ts";
import { freeWeight, type QuantOptions, quantizeMatrix } from "./quantize-tensor.ts";
import { weightTensors } from "./quantized-tensors.ts";
import { roundByChance } from "./round-by-chance.ts";

const op = "merge";

export interface MergeOptions {
  modelDir: string;
  adapterDir: string;
  outDir: string;
  /** How a 16-bit folder was quantized while the adapter was trained; null: it was not. */
  quant: QuantOptions | null;
  /** What the adapter is added to: the values that it was trained on, or those before quantization. */
  into: "trained" | "original";
  /** Null: as plain numbers. */
  requantize: QuantOptions | null;
  /** Of what is written, or of what is quantized again; null: the base's own before quantization. */
  dtype: FloatDType | null;
  signal?: AbortSignal;
  onProgress?: (progress: TensorProgress) => void;
}

export interface TensorProgress {
  tensorsDone: number;
  tensorsTotal: number;
}

export interface MergeReport {
  outDir: string;
  into: MergeOptions["into"];
  /** Of the base that the adapter was trained on. */
  baseDigest: string;
  /** Null: the adapter does not say what it was trained on. */
  trainedOnBase: true | null;
  dtype: FloatDType;
  /** To the nearest code, or by chance, where that lost too much of the adapter. Null unless quantized again. */
  rounding: Rounding | null;
  adaptedLayers: number;
  bytesWritten: number;
  /** Of what was written, from base and adapter apart. */
  drift: LogitDrift;
  /** Of the base without the adapter's matrices, beside which a drift is much or little. Null unless quantized again. */
  driftWithout: LogitDrift | null;
  seconds: number;
}

export type Rounding = "nearest" | "chance";

/** More than this share of the divergence that the adapter makes is too much to lose to rounding. */
const lossMax = 0.1;

function fail(message: string): never {
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
}

/** The linear layers' weights with the adapter in them, one at a time. */
class Merger {
  private readonly reader: TensorReader;
  private readonly options: MergeOptions;
  private readonly dtype: FloatDType;
  private readonly rounding: Rounding;
  private rounded = 0;

  constructor(options: MergeOptions, dtype: FloatDType, rounding: Rounding) {
    this.options = options;
    this.dtype = dtype;
    this.rounding = rounding;
    this.reader = new TensorReader(dtype);
  }

  /** `layer` has the values, `lora` rides on it. */
  linear({ name, weight, lora }: LinearLayer): TensorToWrite[] {
    const values = denseValues(weight);
    if (lora !== null) addAdapter(values, lora);
    const group = this.options.requantize ? this.quantized(name, values) : [this.plain(`${name}.weight`, values)];
    values.free();
    return group;
  }

  plain(name: string, t: Tensor): TensorToWrite {
    return this.reader.toWrite(name, t);
  }

  /** Through the 16-bit type, as a 16-bit folder would be quantized. */
  private quantized(name: string, values: Tensor): TensorToWrite[] {
    const options = this.options.requantize ?? fail("no quantization");
    if (this.rounding === "chance") roundByChance(values, options, this.rounded++);
    const rounded = Tensor.empty(this.dtype, values.shape, { device: values.device, kind: "workspace" });
    convert(values, rounded);
    const weight = quantizeMatrix(rounded, name, options, values.device);
    const group = weightTensors(name, weight);
    freeWeight(weight);
    return group;
  }
}

async function* groups(model: LlamaModel, merger: Merger, { signal, onProgress }: MergeOptions) {
  const all = [...namedTensors(model)];
  for (const [i, { name, tensor, layer }] of all.entries()) {
    signal?.throwIfAborted();
    yield layer ? merger.linear(layer) : [merger.plain(name, tensor)];
    onProgress?.({ tensorsDone: i + 1, tensorsTotal: all.length });
    await new Promise(setImmediate); // a cancellation gets its turn
  }
}

/** The type of the linear layers before quantization. */
function storedDType(folder: ModelFolder): FloatDType {
  const state = folder.quantStates.values().next().value;
  return (state?.dtype ?? folder.info("model.embed_tokens.weight").dtype) as FloatDType;
}

function card(options: MergeOptions, figures: readonly (readonly [string, string | number])[]) {
  const { modelDir, adapterDir, into, requantize } = options;
  const values = into === "trained" ? "the values that it was trained on" : "the weights before quantization";
  return {
    title: "Merged model",
    summary: `${adapterDir} merged into ${values} of ${modelDir}${requantize ? ", and quantized again" : ""}, with Nibble.`,
    figures,
    baseModel: "",
    tags: ["nibble", "merged", ...(requantize ? ["4-bit", requantize.type] : [])],
  };
}

function driftFigures({ positions, maxDifference, maxLogit, meanDivergence, sameTop }: LogitDrift) {
  return [
    [
      `largest difference of a logit at ${positions} positions`,
      `${maxDifference.toPrecision(3)} of ${maxLogit.toPrecision(3)}`,
    ],
    ["mean divergence from base and adapter apart, nats", meanDivergence.toPrecision(3)],
    ["same most likely token", `${(100 * sameTop).toFixed(1)} %`],
  ] as const;
}

function configChanges({ config }: LlamaModel, dtype: FloatDType, requantize: QuantOptions | null) {
  const tables = { vocab_size: config.vocabSize, tie_word_embeddings: config.tieWordEmbeddings };
  const plain = { ...tables, dtype, torch_dtype: undefined, quantization_config: undefined };
  if (requantize === null) return plain;
  const { type: quantType, doubleQuant } = requantize;
  return { ...plain, quantization_config: quantizationConfig({ quantType, doubleQuant, computeDType: dtype }) };
}

async function write(model: LlamaModel, folder: ModelFolder, options: MergeOptions, rounding: Rounding) {
  const dtype = options.dtype ?? storedDType(folder);
  const merger = new Merger(options, dtype, rounding);
  const writer = {
    configText: folder.configText,
    configChanges: configChanges(model, dtype, options.requantize),
    sourceFolder: options.modelDir,
    card: card(options, []),
  };
  const { byteLength } = await writeModelFolder(options.outDir, writer, groups(model, merger, options));
  return { dtype, rounding: options.requantize && rounding, bytesWritten: byteLength };
}

function logitsOfFolder(dir: string): Float32Array {
  using folder = openModelFolder(dir);
  const model = loadModel(folder, { device: "cpu", quant: null });
  try {
    return probeLogits(model);
  } finally {
    freeModel(model);
  }
}

/** Rounds to the nearest code, and by chance where that loses the adapter and chance loses less. */
async function withLeastLoss<T extends { drift: LogitDrift }>(
  attempt: (rounding: Rounding) => Promise<T>,
  without: LogitDrift | null,
): Promise<T> {
  const nearest = await attempt("nearest");
  const loss = nearest.drift.meanDivergence;
  if (without === null || loss <= lossMax * without.meanDivergence) return nearest;
  const byChance = await attempt("chance");
  return byChance.drift.meanDivergence < loss ? byChance : attempt("nearest");
}

/** @throws FAILED_PRECONDITION for an adapter of another base, or an original that is not there. */
export async function mergeAdapter(options: MergeOptions): Promise<MergeReport> {
  const started = performance.now();
  const { modelDir, into, outDir } = options;
  using folder = openModelFolder(modelDir);
  if (into === "original" && folder.isQuantized) {
    fail(`${modelDir}: expected a 16-bit folder to merge into its original weights, got one in 4 bits`);
  }
  const base = loadBaseAndAdapter(folder, options);
  let original: BaseAndAdapter | null = null;
  try {
    const { vocabSize } = base.model.config;
    const apart = probeLogits(base.model);
    const without = options.requantize ? withoutAdapter(base.model, () => probeLogits(base.model)) : null;
    if (into === "original") original = loadBaseAndAdapter(folder, { ...options, quant: null }, base.digest);
    const driftWithout = without && logitDrift(apart, without, vocabSize);
    const { model } = original ?? base;
    const attempt = async (rounding: Rounding) => {
      const written = await write(model, folder, options, rounding);
      return { ...written, drift: logitDrift(apart, logitsOfFolder(outDir), vocabSize) };
    };
    const written = await withLeastLoss(attempt, driftWithout);
    replaceFile(join(outDir, "README.md"), printModelCard(card(options, driftFigures(written.drift))));
    return {
      outDir,
      into,
      baseDigest: base.digest,
      trainedOnBase: base.namesBase,
      adaptedLayers: base.adaptedLayers,
      ...written,
      driftWithout,
      seconds: (performance.now() - started) / 1000,
    };
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  } finally {
    original?.free();
    base.free();
  }
}
