// The layers as data: what a linear layer or a norm holds. No wrapper classes: an adapter is a field.
import { type LoraArgs, noDropout, type Tensor, type Weight } from "#native";
import type { Parameter } from "./parameters.ts";

/** An adapter's matrices on one linear layer. Frozen in inference: then they are no parameters. */
export interface LoraLayer {
  a: Tensor;
  b: Tensor;
  scaling: number;
  /** Probability; used while training only. */
  dropout: number;
  /** float32 [out]: what DoRA multiplies the layer's output by, base and adapter together. Null: plain LoRA. */
  factor: Tensor | null;
  /** Tells the dropout masks of a step apart. */
  stream: number;
  trained: { a: Parameter; b: Parameter } | null;
  /** float32 copies of what is bfloat16, while its block runs (wide-adapter.ts). */
  wide: { a: Tensor; b: Tensor; dA: Tensor | null; dB: Tensor | null } | null;
}

export interface LinearLayer {
  /** Module path, as in the checkpoint: "model.layers.0.self_attn.q_proj". */
  name: string;
  weight: Weight;
  bias: Tensor | null;
  lora: LoraLayer | null;
  /** Full-parameter training; the weight is then dense float32. */
  trained: { weight: Parameter; bias: Parameter | null } | null;
}

export interface NormLayer {
  weight: Tensor;
  eps: number;
  trained: Parameter | null;
}

/** Arguments of linear4's adapter. `dropoutSeed` null: not training. */
export function loraArgs(lora: LoraLayer | null, dropoutSeed: number | null): LoraArgs | null {
  if (lora === null) return null;
  const { scaling, dropout, stream } = lora;
  const { a, b } = lora.wide ?? lora;
  const drops = dropoutSeed !== null && dropout > 0;
  return { a, b, scaling, dropout: drops ? { p: dropout, seed: dropoutSeed, stream } : noDropout };
}

/** What the backward pass adds the gradients of A and B to; null where they are not trained. */
export function loraGradients(lora: LoraLayer | null): { dA: Tensor | null; dB: Tensor | null } {
  if (lora?.wide) return lora.wide;
  return { dA: lora?.trained?.a.grad ?? null, dB: lora?.trained?.b.grad ?? null };
}
