// One matrix from 16 or 32 bits to 4: codes and block constants in native memory.

import {
  countNonfinite,
  type Device,
  dynamicMap,
  freeOnThrow,
  type QuantType,
  quantize4,
  quantizeAbsmax,
  Tensor,
  type Weight,
} from "#native";
import { NibbleError } from "#packages/errors";

export interface QuantOptions {
  type: QuantType;
  /** 32 … 4096. */
  blockSize: number;
  doubleQuant: boolean;
}

/** QLoRA's own choice (arXiv:2305.14314 §3). */
export const defaultQuant: QuantOptions = { type: "nf4", blockSize: 64, doubleQuant: true };

/** Block constants that share one constant of their own (QLoRA §3). */
export const nestedBlock = 256;
/** Refuses NaN and Inf: a block with one of them would lose all its other values. */
export function refuseNonfinite(t: Tensor, name: string): void {
  const bad = countNonfinite(t);
  if (bad === 0) return;
  const message = `${name}: expected finite values, got ${bad} NaN or Inf among ${t.count}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "quantize", details: { tensor: name } });
}

/**
 * Quantizes `source` [out, in] and frees it. The dtype of the source is remembered: decoded values are
 * rounded to it.
 * @throws INVALID_ARGUMENT with NaN or Inf in the matrix.
 */
export function quantizeMatrix(source: Tensor, name: string, options: QuantOptions, device: Device): Weight {
  try {
    return freeOnThrow(() => quantized(source, name, options, device));
  } finally {
    source.free();
  }
}

function quantized(source: Tensor, name: string, options: QuantOptions, device: Device): Weight {
  const [out = 0, inFeatures = 0] = source.shape;
  const at = { device, kind: "weights" } as const;
  const blocks = Math.ceil(source.count / options.blockSize);
  const codes = Tensor.empty("uint8", [Math.ceil(source.count / 2)], at);
  const absmax = Tensor.empty("float32", [blocks], at);
  quantize4(source, codes, absmax, options.type, options.blockSize);
  // A block's constant is not finite where one of its values is not, so the matrix need not be read for that.
  if (countNonfinite(absmax) > 0) refuseNonfinite(source, name);
  const quant = { dtype: source.dtype, type: options.type, blockSize: options.blockSize };
  if (!options.doubleQuant) return { out, in: inFeatures, data: codes, quant: { ...quant, absmax, nested: null } };
  const absmax8 = Tensor.empty("uint8", [blocks], at);
  const nestedAbsmax = Tensor.empty("float32", [Math.ceil(blocks / nestedBlock)], at);
  const offset = Tensor.empty("float32", [1], { device, kind: "workspace" });
  quantizeAbsmax(absmax, absmax8, nestedAbsmax, offset);
  const values = dynamicMap();
  const map = Tensor.fromFloat32(values, [values.length], at);
  const nested = { absmax: nestedAbsmax, map, offset: offset.toFloat32()[0] ?? 0 };
  offset.free();
  absmax.free();
  return { out, in: inFeatures, data: codes, quant: { ...quant, absmax: absmax8, nested } };
}

export function freeWeight(w: Weight): void {
  w.data.free();
  if (w.quant === null) return;
  w.quant.absmax.free();
  w.quant.nested?.absmax.free();
  w.quant.nested?.map.free();
}

/** Bytes that the matrix takes, constants included. */
export function weightBytes(w: Weight): number {
  const { quant } = w;
  const nested = quant?.nested ? quant.nested.absmax.byteLength + quant.nested.map.byteLength : 0;
  return w.data.byteLength + (quant?.absmax.byteLength ?? 0) + nested;
}
