// A model folder into native memory: weights stay 16-bit, come pre-quantized, or are quantized tensor by
// tensor on the way, so that the 16-bit model never exists whole. What is used as the file has it stays the
// file's: mapped, not copied.

import { codeValues, type Device, freeOnThrow, type Tensor, type Weight } from "#native";
import { NibbleError } from "#packages/errors";
import type { LlamaLinear, ModelFolder, ModelHasher, StoredQuantState, TensorToWrite } from "#packages/hub";
import { asFloat32 } from "./dense.ts";
import type { LinearLayer, NormLayer } from "./layers.ts";
import { type LayerMaker, type LlamaModel, linearsOf, makeBlock } from "./models/llama.ts";
import {
  defaultQuant,
  freeWeight,
  nestedBlock,
  type QuantOptions,
  quantizeMatrix,
  refuseNonfinite,
  weightBytes,
} from "./quantize-tensor.ts";
import { weightTensors } from "./quantized-tensors.ts";
import { ropeTables } from "./rope.ts";
import { WeightReader } from "./weight-reader.ts";

const op = "load_model";

export interface LoadOptions {
  device: Device;
  /** Quantizes a 16-bit folder's linear layers while loading; null keeps them. Pre-quantized folders stay as they are. */
  quant: QuantOptions | null;
  /** Rows of the rope tables: the longest sequence that will be seen. Default: max_position_embeddings. */
  positions?: number;
  /** Linear layers, embedding and head as float32: full-parameter training. */
  float32?: boolean;
  signal?: AbortSignal;
  /** Sees every tensor that the model computes with, as a quantized folder would hold it: for the digest. */
  hasher?: ModelHasher;
}

function specOf(folder: ModelFolder, name: string): Pick<TensorToWrite, "dtype" | "shape"> {
  const { dtype, shape } = folder.info(name);
  return { dtype, shape };
}

/** A stored 4-bit weight as it is; its code tables must be those that the kernels decode with. */
function loadQuantized(folder: ModelFolder, state: StoredQuantState, reader: WeightReader): Weight {
  const { tensors, nested, shape, dtype, quantType, blockSize } = state;
  const [out, inFeatures] = shape;
  checkTable(folder, tensors.quantMap, codeValues(quantType));
  const codes = reader.tensor(tensors.weight);
  const absmax = reader.tensor(tensors.absmax);
  const quant = { dtype, type: quantType, blockSize, absmax };
  if (nested === null || tensors.nestedAbsmax === null || tensors.nestedQuantMap === null) {
    refuseNonfinite(absmax, tensors.absmax);
    return { out, in: inFeatures, data: codes, quant: { ...quant, nested: null } };
  }
  if (nested.blockSize !== nestedBlock) {
    const message = `${tensors.absmax}: nested_blocksize: expected ${nestedBlock}, got ${nested.blockSize}`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
  }
  const constants = reader.tensor(tensors.nestedAbsmax);
  refuseNonfinite(constants, tensors.nestedAbsmax);
  const map = reader.tensor(tensors.nestedQuantMap);
  refuseNonfinite(map, tensors.nestedQuantMap);
  return {
    out,
    in: inFeatures,
    data: codes,
    quant: { ...quant, nested: { absmax: constants, map, offset: nested.offset } },
  };
}

function checkTable(folder: ModelFolder, name: string, expected: Float32Array): void {
  const bytes = folder.read(name);
  const got = new Float32Array(bytes.buffer, bytes.byteOffset, expected.length);
  const at = expected.findIndex((value, i) => value !== got[i]);
  if (at < 0) return;
  const message = `${name}[${at}]: expected ${expected[at]}, got ${got[at]}: codes of another table cannot be read`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
}

class Loader implements LayerMaker {
  private readonly folder: ModelFolder;
  private readonly options: LoadOptions;
  private readonly reader: WeightReader;

  constructor(folder: ModelFolder, options: LoadOptions, reader: WeightReader) {
    this.folder = folder;
    this.options = options;
    this.reader = reader;
  }

  /** A plain tensor, refused when it holds NaN or Inf. */
  plain(name: string, float32: boolean): Tensor {
    const t = this.reader.tensor(name);
    refuseNonfinite(t, name);
    this.options.hasher?.begin({ name, ...specOf(this.folder, name) });
    if (this.options.hasher) for (const piece of t.pieces(this.reader.piece)) this.options.hasher.update(piece);
    return float32 ? asFloat32(t, "weights") : t;
  }

  linear(block: string, module: LlamaLinear): LinearLayer {
    const name = `${block}.${module}`;
    this.options.signal?.throwIfAborted();
    const biasName = `${name}.bias`;
    const bias = this.folder.tensors.has(biasName) ? this.plain(biasName, true) : null;
    return { name, weight: this.weight(name), bias, lora: null, trained: null };
  }

  private weight(name: string): Weight {
    const { quant, float32 = false, hasher } = this.options;
    const state = this.folder.quantState(name);
    if (state && float32) {
      const message = "full-parameter training needs a 16-bit model, this one is quantized";
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    // A quantized folder's plain linear layers were left out on purpose (llm_int8_skip_modules).
    const stays = quant === null || this.folder.isQuantized;
    if (!state && stays) return denseWeight(this.plain(`${name}.weight`, float32));
    const weight = state ? loadQuantized(this.folder, state, this.reader) : this.quantize(`${name}.weight`, quant);
    if (hasher) for (const tensor of this.stored(name, weight, state)) hasher.add(tensor, tensor.bytes);
    return weight;
  }

  private quantize(name: string, quant: QuantOptions | null): Weight {
    return quantizeMatrix(this.reader.tensor(name), name, quant ?? defaultQuant, this.options.device);
  }

  /** As the folder stores it, or would store it: the digests of both are the same. */
  private stored(name: string, weight: Weight, state: StoredQuantState | undefined): TensorToWrite[] {
    if (!state) return weightTensors(name, weight);
    const names = Object.values(state.tensors).filter((tensor) => tensor !== null);
    return names.map((tensor) => ({ name: tensor, ...specOf(this.folder, tensor), bytes: this.folder.read(tensor) }));
  }

  norm(name: string): NormLayer {
    const weight = this.plain(`${name}.weight`, true);
    return { weight, eps: this.folder.config.rmsNormEps, trained: null };
  }
}

export function denseWeight(data: Tensor): Weight {
  return { out: data.shape[0] ?? 0, in: data.shape[1] ?? 0, data, quant: null };
}

/** Loads every weight; the caller frees the model. The folder may be closed afterwards. An error leaves no memory behind. */
export function loadModel(folder: ModelFolder, options: LoadOptions): LlamaModel {
  return freeOnThrow(() => load(folder, options));
}

function load(folder: ModelFolder, options: LoadOptions): LlamaModel {
  const { config } = folder;
  const { device, float32 = false } = options;
  // What is trained is written to: it cannot be a file's own pages.
  using reader = new WeightReader(folder, device, { mapped: !float32 });
  const loader = new Loader(folder, options, reader);
  const embed = loader.plain("model.embed_tokens.weight", float32);
  const blocks = Array.from({ length: config.layerCount }, (_, i) => makeBlock(i, loader));
  const headData = config.tieWordEmbeddings ? embed : loader.plain("lm_head.weight", float32);
  return {
    config,
    embed,
    embedTrained: null,
    blocks,
    finalNorm: loader.norm("model.norm"),
    head: { name: "lm_head", weight: denseWeight(headData), bias: null, lora: null, trained: null },
    tables: ropeTables(config.rope, config.headDim, options.positions ?? config.maxPositionEmbeddings, device),
  };
}

/** Frees the base; adapters and gradients belong to those who made them. */
export function freeModel(model: LlamaModel): void {
  for (const layer of model.blocks) {
    for (const { weight, bias } of linearsOf(layer)) {
      freeWeight(weight);
      bias?.free();
    }
    layer.inputNorm.weight.free();
    layer.postNorm.weight.free();
  }
  model.finalNorm.weight.free();
  if (model.head.weight.data !== model.embed) model.head.weight.data.free();
  model.embed.free();
  model.tables.cos.free();
  model.tables.sin.free();
}

/** Parameters and bits per parameter of the linear layers that quantization is about. */
export function linearFootprint(model: LlamaModel): { parameters: number; bytes: number; bitsPerParameter: number } {
  const weights = model.blocks.flatMap(linearsOf).map((l) => l.weight);
  const parameters = weights.reduce((sum, w) => sum + w.out * w.in, 0);
  const bytes = weights.reduce((sum, w) => sum + weightBytes(w), 0);
  return { parameters, bytes, bitsPerParameter: (bytes * 8) / parameters };
}
