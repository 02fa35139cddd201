// A model of a configuration's shapes on the meta device: as model-load.ts would load it, but with no weights and no
// memory. What a step takes can be counted on it.
import { type DType, dynamicMap, Tensor, type Weight } from "#native";
import { type LlamaConfig, type LlamaLinear, llamaLinearShape } from "#packages/hub";
import type { LinearLayer, NormLayer } from "./layers.ts";
import { denseWeight } from "./model-load.ts";
import { type LayerMaker, type LlamaModel, makeBlock } from "./models/llama.ts";
import { nestedBlock, type QuantOptions, quantizeMatrix } from "./quantize-tensor.ts";
import { ropeTables } from "./rope.ts";

/** How a model folder stores its weights. */
export interface StoredWeights {
  /** Of all that is not in 4 bits; where it is quantized, also the dtype before. */
  dtype: DType;
  /** Of the linear layers; null: not in 4 bits. */
  quant: QuantOptions | null;
}

export interface ShapeOptions {
  stored: StoredWeights;
  /** As in LoadOptions. */
  quant: QuantOptions | null;
  float32: boolean;
  /** Rows of the rope tables. */
  positions: number;
}

const device = "meta";
const weights = { device, kind: "weights" } as const;

class ShapeLoader implements LayerMaker {
  private readonly config: LlamaConfig;
  private readonly options: ShapeOptions;

  constructor(config: LlamaConfig, options: ShapeOptions) {
    this.config = config;
    this.options = options;
  }

  /** As WeightReader has it: the file's own pages, or a copy where it will be trained. */
  private read(dtype: DType, shape: readonly number[]): Tensor {
    return this.options.float32 ? Tensor.empty(dtype, shape, weights) : Tensor.mappedShape(dtype, shape);
  }

  /** Read as it is stored, then widened where it is kept as float32. */
  plain(shape: readonly number[], float32: boolean): Tensor {
    const { dtype } = this.options.stored;
    const t = this.read(dtype, shape);
    if (!float32 || dtype === "float32") return t;
    const wide = Tensor.empty("float32", shape, weights);
    t.free();
    return wide;
  }

  private weight(out: number, inFeatures: number, name: string): Weight {
    const { stored, quant, float32 } = this.options;
    if (stored.quant) return this.quantized(out, inFeatures, stored.quant);
    if (quant === null) return denseWeight(this.plain([out, inFeatures], float32));
    return quantizeMatrix(this.read(stored.dtype, [out, inFeatures]), name, quant, device);
  }

  /** As it comes from a 4-bit folder. */
  private quantized(out: number, inFeatures: number, { type, blockSize, doubleQuant }: QuantOptions): Weight {
    const count = out * inFeatures;
    const blocks = Math.ceil(count / blockSize);
    const data = this.read("uint8", [Math.ceil(count / 2)]);
    const absmax = this.read(doubleQuant ? "uint8" : "float32", [blocks]);
    const nested = () => ({
      absmax: this.read("float32", [Math.ceil(blocks / nestedBlock)]),
      map: this.read("float32", [dynamicMap().length]),
      offset: 0,
    });
    const quant = { dtype: this.options.stored.dtype, type, blockSize, absmax, nested: doubleQuant ? nested() : null };
    return { out, in: inFeatures, data, quant };
  }

  linear(at: string, linear: LlamaLinear): LinearLayer {
    const [out, inFeatures] = llamaLinearShape(this.config, linear);
    const name = `${at}.${linear}`;
    const biased = linear.startsWith("self_attn.") ? this.config.attentionBias : this.config.mlpBias;
    const bias = biased ? this.plain([out], true) : null;
    return { name, weight: this.weight(out, inFeatures, name), bias, lora: null, trained: null };
  }

  norm(): NormLayer {
    return { weight: this.plain([this.config.hiddenSize], true), eps: this.config.rmsNormEps, trained: null };
  }
}

/** In the order of loadModel, so that what loading takes for a while is counted too. The caller frees the model. */
export function shapeModel(config: LlamaConfig, options: ShapeOptions): LlamaModel {
  const { vocabSize, hiddenSize, layerCount, tieWordEmbeddings, rope, headDim } = config;
  const loader = new ShapeLoader(config, options);
  const embed = loader.plain([vocabSize, hiddenSize], options.float32);
  const blocks = Array.from({ length: layerCount }, (_, i) => makeBlock(i, loader));
  const headData = tieWordEmbeddings ? embed : loader.plain([vocabSize, hiddenSize], options.float32);
  return {
    config,
    embed,
    embedTrained: null,
    blocks,
    finalNorm: loader.norm(),
    head: { name: "lm_head", weight: denseWeight(headData), bias: null, lora: null, trained: null },
    tables: ropeTables(rope, headDim, options.positions, device),
  };
}
