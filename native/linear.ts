// Linear layers over dense or 4-bit weights, LoRA included; see ops/linear.h and ops/cross_entropy.h.
import { addon } from "./addon.ts";
import { type QuantType, quantTypes } from "./quantize.ts";
import { type DType, dtypes, type Tensor } from "./tensor.ts";

/** A matrix [out, in]; see ops/weight.h. `quant` is null for a dense one. */
export interface Weight {
  readonly out: number;
  readonly in: number;
  /** Dense: [out, in] float32 | bfloat16 | float16. 4-bit: codes uint8 [(out * in + 1) / 2]. */
  readonly data: Tensor;
  readonly quant: WeightQuant | null;
}

export interface WeightQuant {
  /** dtype before quantization: decoded values are rounded to it. */
  readonly dtype: DType;
  readonly type: QuantType;
  readonly blockSize: number;
  /** float32 [blocks], or uint8 [blocks] when double quantized. */
  readonly absmax: Tensor;
  readonly nested: { readonly absmax: Tensor; readonly map: Tensor; readonly offset: number } | null;
}

export interface Dropout {
  /** Probability of a zero, in [0, 1). */
  p: number;
  seed: number;
  /** Tells the masks of one step apart: layer and position of the op. */
  stream: number;
}

export const noDropout: Dropout = { p: 0, seed: 0, stream: 0 };

/** An adapter's share of a linear layer. a [R, in], b [out, R], float32. */
export interface LoraArgs {
  a: Tensor;
  b: Tensor;
  scaling: number;
  dropout: Dropout;
}

export interface LinearForward {
  x: Tensor;
  w: Weight;
  bias: Tensor | null;
  lora: LoraArgs | null;
  /** out [N, R] float32; null without an adapter. */
  h: Tensor | null;
  y: Tensor;
}

export interface LinearBackward {
  dY: Tensor;
  x: Tensor | null;
  w: Weight;
  lora: LoraArgs | null;
  h: Tensor | null;
  dX: Tensor | null;
  accumulateDx: boolean;
  dA: Tensor | null;
  dB: Tensor | null;
  dW: Tensor | null;
  dBias: Tensor | null;
}

export interface CrossEntropy {
  x: Tensor;
  w: Weight;
  labels: Tensor;
  /** float32 [N]; null: each row counts once. */
  weights: Tensor | null;
  scale: number;
  loss: Tensor;
  dX: Tensor | null;
  dW: Tensor | null;
}

export const handleOf = (t: Tensor | null): number | null => t?.handle ?? null;

const packedWeights = new WeakMap<Weight, Float64Array>();

function weightNumbers(w: Weight): number[] {
  const q = w.quant;
  if (q === null) return [w.out, w.in, w.data.handle, 0, 0, 0, 0, -1, -1, -1, 0];
  const { absmax, map, offset = 0 } = q.nested ?? {};
  const constants = [q.absmax.handle, absmax?.handle ?? -1, map?.handle ?? -1, offset];
  return [
    w.out,
    w.in,
    w.data.handle,
    1,
    dtypes.indexOf(q.dtype),
    quantTypes.indexOf(q.type),
    q.blockSize,
    ...constants,
  ];
}

/** What a weight is, as numbers, made once for many calls; read by Numbers::weight in binding/numbers.h. */
export function packWeight(w: Weight): Float64Array {
  const known = packedWeights.get(w);
  if (known) return known;
  const packed = Float64Array.from(weightNumbers(w));
  packedWeights.set(w, packed);
  return packed;
}

/** Six positions: a, b, scaling, p, seed, stream; read by Arguments::lora. */
function loraArguments(lora: LoraArgs | null): (number | null)[] {
  if (lora === null) return [null, null, 1, 0, 0, 0];
  const { p, seed, stream } = lora.dropout;
  return [lora.a.handle, lora.b.handle, lora.scaling, p, seed, stream];
}

/** One to four layers of one x: together they share its way into the cache and the waits for threads. */
export function linearForward(...layers: LinearForward[]): void {
  addon.linearForward(
    ...layers.flatMap(({ x, w, bias, lora, h, y }) => {
      const own = [x.handle, handleOf(bias), handleOf(h), y.handle];
      return [packWeight(w), ...loraArguments(lora), ...own];
    }),
  );
}

/** One to four layers whose dX is one tensor: their sum; accumulateDx of the first counts. */
export function linearBackward(...layers: LinearBackward[]): void {
  addon.linearBackward(
    ...layers.flatMap(({ dY, x, w, lora, h, dX, accumulateDx, dA, dB, dW, dBias }) => {
      const outputs = [handleOf(dX), accumulateDx, handleOf(dA), handleOf(dB), handleOf(dW), handleOf(dBias)];
      return [packWeight(w), ...loraArguments(lora), dY.handle, handleOf(x), handleOf(h), ...outputs];
    }),
  );
}

/** y[rows] += scaling * (x[rows] Aᵀ) B for rows [begin, end). */
export interface LoraAdd {
  x: Tensor;
  /** [R, in] float32 or bfloat16. */
  a: Tensor;
  /** [R, out], dtype of a: LoRA's B turned. */
  b: Tensor;
  scaling: number;
  begin: number;
  end: number;
  y: Tensor;
}

/** Any number of adapters, at any layers, whose rows of y are apart. */
export function loraAdds(...adds: LoraAdd[]): void {
  addon.loraAdds(
    ...adds.flatMap(({ x, a, b, scaling, begin, end, y }) => {
      return [x.handle, a.handle, b.handle, scaling, begin, end, y.handle];
    }),
  );
}

/** y[rows] = bias + factor · (y[rows] − bias) for rows [begin, end): DoRA's magnitudes. factor and bias float32 [out]. */
export function scaleColumns(args: {
  factor: Tensor;
  bias: Tensor | null;
  begin: number;
  end: number;
  y: Tensor;
}): void {
  const { factor, bias, begin, end, y } = args;
  addon.scaleColumns(factor.handle, handleOf(bias), begin, end, y.handle);
}

export function linearCrossEntropy(args: CrossEntropy): void {
  const { x, w, labels, weights, scale, loss, dX, dW } = args;
  addon.linearCrossEntropy(
    packWeight(w),
    x.handle,
    labels.handle,
    handleOf(weights),
    scale,
    loss.handle,
    handleOf(dX),
    handleOf(dW),
  );
}
