// A block of a Llama model over the paged cache in one call; see ops/llama_block.h.
import { addon } from "./addon.ts";
import { type AttentionShape, shapeArguments } from "./attention.ts";
import { packWeight, type Weight } from "./linear.ts";
import type { Tensor } from "./tensor.ts";

/** The layers with matrices, in the order of LlamaLinear in ops/llama_block.h. */
export const llamaLinears = ["q", "k", "v", "o", "gate", "up", "down"] as const;

export interface LlamaBlockWeights
  extends Record<(typeof llamaLinears)[number], { weight: Weight; bias: Tensor | null }> {
  inputNorm: { weight: Tensor; eps: number };
  postNorm: { weight: Tensor; eps: number };
}

/** An adapter's matrices at one layer, which lie at `offset` of a tensor that holds all of them: [rank, in], then B turned [rank, out]. */
export interface LlamaLora {
  /** In elements. */
  offset: number;
  rank: number;
  in: number;
  out: number;
  scaling: number;
  /** Of scaleColumns. */
  factor: Tensor | null;
}

/** An adapter for the rows [begin, end). */
export interface LlamaSegment {
  begin: number;
  end: number;
  /** As packLlamaLora gave it. */
  lora: Float64Array;
}

const handle = (t: Tensor | null): number => t?.handle ?? -1;

/** What a block is, as numbers: made once, for many calls. The tensors must live as long as it is used. */
export function packLlamaBlock(block: LlamaBlockWeights): Float64Array {
  const { inputNorm, postNorm } = block;
  const linears = llamaLinears.flatMap((name) => {
    const { weight, bias } = block[name];
    return [...packWeight(weight), handle(bias)];
  });
  return Float64Array.from([inputNorm.weight.handle, postNorm.weight.handle, inputNorm.eps, postNorm.eps, ...linears]);
}

/**
 * What an adapter has at one block as numbers, in the order of llamaLinears: made once, for many calls. Null: it leaves the
 * layer out. The tensors must live as long as it is used.
 */
export function packLlamaLora(matrices: Tensor, lora: readonly (LlamaLora | null)[]): Float64Array {
  const numbers = lora.flatMap((l) => (l ? [l.offset, l.rank, l.in, l.out, l.scaling, handle(l.factor)] : noLora));
  return Float64Array.from([matrices.handle, ...numbers]);
}

const noLora = [-1, 0, 0, 0, 0, -1];

export function packLlamaSegments(segments: readonly LlamaSegment[]): Float64Array {
  const numbers = new Float64Array(segments.reduce((sum, { lora }) => sum + 2 + lora.length, 0));
  let at = 0;
  for (const { begin, end, lora } of segments) {
    numbers.set([begin, end], at);
    numbers.set(lora, at + 2);
    at += 2 + lora.length;
  }
  return numbers;
}

export interface LlamaBlockCall {
  /** In and out [N, C]. */
  x: Tensor;
  cos: Tensor;
  sin: Tensor;
  position: Tensor;
  slot: Tensor;
  sequence: Tensor;
  blockTable: Tensor;
  kCache: Tensor;
  vCache: Tensor;
  /** Those of the block that is called next with the same block table: memory is asked for them ahead. */
  next?: { kCache: Tensor; vCache: Tensor } | null;
}

/** `block` and `segments` as packLlamaBlock and packLlamaSegments gave them. */
export function llamaBlock(
  block: Float64Array,
  segments: Float64Array,
  shape: AttentionShape,
  { x, cos, sin, position, slot, sequence, blockTable, kCache, vCache, next }: LlamaBlockCall,
): void {
  const tensors = [x, cos, sin, position, slot, sequence, blockTable, kCache, vCache].map((t) => t.handle);
  const ahead = [next?.kCache.handle ?? null, next?.vCache.handle ?? null];
  addon.llamaBlock(block, segments, ...shapeArguments(shape), ...tensors, ...ahead);
}
