// A model of random weights in 4 bits on a device, made and quantized matrix by matrix: of the 16-bit model one matrix is
// there at a time, and the host has none of it.
import { convert, cuda, type Device, normalFill, Tensor, type Weight } from "#native";
import { type LlamaConfig, type LlamaLinear, llamaLinearShape } from "#packages/hub";
import type { LinearLayer, NormLayer } from "../../packages/engine/layers.ts";
import { denseWeight } from "../../packages/engine/model-load.ts";
import { type LayerMaker, type LlamaModel, makeBlock } from "../../packages/engine/models/llama.ts";
import { defaultQuant, quantizeMatrix } from "../../packages/engine/quantize-tensor.ts";
import { ropeTables } from "../../packages/engine/rope.ts";

export interface RandomModelOptions {
  device: Device;
  /** Rows of the rope tables. */
  positions: number;
  /** Seconds that quantizing took, without making the weights; each matrix waited for. */
  onQuantized?: (matrix: { seconds: number; elements: number }) => void;
}

const std = 0.02;

export function finish(device: Device): void {
  if (device === "cuda") cuda.synchronize();
}

class RandomMaker implements LayerMaker {
  private readonly config: LlamaConfig;
  private readonly options: RandomModelOptions;
  private stream = 0;

  constructor(config: LlamaConfig, options: RandomModelOptions) {
    this.config = config;
    this.options = options;
  }

  matrix(out: number, inFeatures: number, kind: "weights" | "workspace"): Tensor {
    const { device } = this.options;
    const drawn = Tensor.empty("float32", [out, inFeatures], { device, kind: "workspace" });
    normalFill(drawn, { mean: 0, std, seed: 1, stream: this.stream++ });
    const t = Tensor.empty("bfloat16", [out, inFeatures], { device, kind });
    convert(drawn, t);
    drawn.free();
    return t;
  }

  private quantized(out: number, inFeatures: number): Weight {
    const { device, onQuantized } = this.options;
    const source = this.matrix(out, inFeatures, "workspace");
    if (onQuantized === undefined) return quantizeMatrix(source, "random", defaultQuant, device);
    finish(device);
    const started = performance.now();
    const weight = quantizeMatrix(source, "random", defaultQuant, device);
    finish(device);
    onQuantized({ seconds: (performance.now() - started) / 1000, elements: out * inFeatures });
    return weight;
  }

  linear(at: string, linear: LlamaLinear): LinearLayer {
    const [out, inFeatures] = llamaLinearShape(this.config, linear);
    return { name: `${at}.${linear}`, weight: this.quantized(out, inFeatures), bias: null, lora: null, trained: null };
  }

  norm(): NormLayer {
    const ones = new Float32Array(this.config.hiddenSize).fill(1);
    const weight = Tensor.fromFloat32(ones, [ones.length], { device: this.options.device, kind: "weights" });
    return { weight, eps: this.config.rmsNormEps, trained: null };
  }
}

/** freeModel frees it. */
export function randomModel(config: LlamaConfig, options: RandomModelOptions): LlamaModel {
  const { vocabSize, hiddenSize, layerCount, rope, headDim } = config;
  const maker = new RandomMaker(config, options);
  const embed = maker.matrix(vocabSize, hiddenSize, "weights");
  // The largest tensors first, as long as there is room to draw them in float32.
  const head = denseWeight(maker.matrix(vocabSize, hiddenSize, "weights"));
  const blocks = Array.from({ length: layerCount }, (_, i) => makeBlock(i, maker));
  return {
    config,
    embed,
    embedTrained: null,
    blocks,
    finalNorm: maker.norm(),
    head: { name: "lm_head", weight: head, bias: null, lora: null, trained: null },
    tables: ropeTables(rope, headDim, options.positions, options.device),
  };
}
