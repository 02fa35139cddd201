// A model folder into native memory: weights stay 16-bit, come pre-quantized, or are quantized tensor by
// tensor on the way, so that the 16-bit model never exists whole.

import { convert, type Device, Tensor, type Weight } from "#native";
import { expect, NibbleError } from "#packages/errors";
import type { FloatDType, ModelFolder, StoredDType, StoredQuantState } from "#packages/hub";
import type { LinearLayer, NormLayer } from "./layers.ts";
import type { LlamaBlock, LlamaModel } from "./models/llama.ts";
import { linearsOf } from "./models/llama.ts";
import { freeWeight, type QuantOptions, quantizeMatrix, refuseNonfinite, weightBytes } from "./quantize-tensor.ts";
import { ropeTables } from "./rope.ts";

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
}

const floats = new Set<StoredDType>(["float32", "bfloat16", "float16"]);

function upload(folder: ModelFolder, name: string, device: Device): Tensor {
  const { dtype, shape } = folder.info(name);
  expect(floats.has(dtype) || dtype === "uint8", op, `${name}: expected a float tensor, got ${dtype}`);
  return Tensor.fromBytes(folder.read(name), dtype as FloatDType | "uint8", shape, { device, kind: "weights" });
}

function asFloat32(t: Tensor): Tensor {
  if (t.dtype === "float32") return t;
  const wide = Tensor.empty("float32", t.shape, { device: t.device, kind: "weights" });
  convert(t, wide);
  t.free();
  return wide;
}

/** A plain tensor, refused when it holds NaN or Inf. */
function loadPlain(folder: ModelFolder, name: string, device: Device, float32: boolean): Tensor {
  const t = upload(folder, name, device);
  refuseNonfinite(t, name);
  return float32 ? asFloat32(t) : t;
}

/** A stored 4-bit weight as it is. */
function loadQuantized(folder: ModelFolder, state: StoredQuantState, device: Device): Weight {
  const { tensors, nested, shape, dtype, quantType, blockSize } = state;
  const [out, inFeatures] = shape;
  const codes = upload(folder, tensors.weight, device);
  const absmax = upload(folder, tensors.absmax, device);
  const quant = { dtype, type: quantType, blockSize, absmax };
  if (nested === null || tensors.nestedAbsmax === null || tensors.nestedQuantMap === null) {
    return { out, in: inFeatures, data: codes, quant: { ...quant, nested: null } };
  }
  const constants = upload(folder, tensors.nestedAbsmax, device);
  const map = upload(folder, tensors.nestedQuantMap, device);
  return {
    out,
    in: inFeatures,
    data: codes,
    quant: { ...quant, nested: { absmax: constants, map, offset: nested.offset } },
  };
}

class Loader {
  private readonly folder: ModelFolder;
  private readonly options: LoadOptions;

  constructor(folder: ModelFolder, options: LoadOptions) {
    this.folder = folder;
    this.options = options;
  }

  linear(name: string): LinearLayer {
    this.options.signal?.throwIfAborted();
    const biasName = `${name}.bias`;
    const bias = this.folder.tensors.has(biasName) ? loadPlain(this.folder, biasName, this.options.device, true) : null;
    return { name, weight: this.weight(name), bias, lora: null, trained: null };
  }

  private weight(name: string): Weight {
    const { device, quant, float32 = false } = this.options;
    const state = this.folder.quantState(name);
    if (state) {
      if (!float32) return loadQuantized(this.folder, state, device);
      const message = "full-parameter training needs a 16-bit model, this one is quantized";
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    const plain = upload(this.folder, `${name}.weight`, device);
    if (quant !== null) return quantizeMatrix(plain, `${name}.weight`, quant, device);
    refuseNonfinite(plain, `${name}.weight`);
    return denseWeight(float32 ? asFloat32(plain) : plain);
  }

  norm(name: string): NormLayer {
    const weight = loadPlain(this.folder, `${name}.weight`, this.options.device, true);
    return { weight, eps: this.folder.config.rmsNormEps, trained: null };
  }

  block(layer: number): LlamaBlock {
    const at = `model.layers.${layer}`;
    return {
      inputNorm: this.norm(`${at}.input_layernorm`),
      q: this.linear(`${at}.self_attn.q_proj`),
      k: this.linear(`${at}.self_attn.k_proj`),
      v: this.linear(`${at}.self_attn.v_proj`),
      o: this.linear(`${at}.self_attn.o_proj`),
      postNorm: this.norm(`${at}.post_attention_layernorm`),
      gate: this.linear(`${at}.mlp.gate_proj`),
      up: this.linear(`${at}.mlp.up_proj`),
      down: this.linear(`${at}.mlp.down_proj`),
    };
  }
}

export function denseWeight(data: Tensor): Weight {
  return { out: data.shape[0] ?? 0, in: data.shape[1] ?? 0, data, quant: null };
}

/** Loads every weight; the caller frees the model. The folder may be closed afterwards. */
export function loadModel(folder: ModelFolder, options: LoadOptions): LlamaModel {
  const { config } = folder;
  const { device, float32 = false } = options;
  const loader = new Loader(folder, options);
  const embed = loadPlain(folder, "model.embed_tokens.weight", device, float32);
  const blocks = Array.from({ length: config.layerCount }, (_, i) => loader.block(i));
  const headData = config.tieWordEmbeddings ? embed : loadPlain(folder, "lm_head.weight", device, float32);
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
