// 4-bit quantization and double quantization; see ops/quantize4.h.
import { addon } from "./addon.ts";
import type { Tensor } from "./tensor.ts";

export const quantTypes = ["nf4", "fp4", "int4"] as const;
export type QuantType = (typeof quantTypes)[number];

/** codes uint8 [(n+1)/2], absmax float32 [ceil(n/blockSize)]. */
export function quantize4(input: Tensor, codes: Tensor, absmax: Tensor, type: QuantType, blockSize: number): void {
  addon.quantize4(input.handle, codes.handle, absmax.handle, quantTypes.indexOf(type), blockSize);
}

export function dequantize4(codes: Tensor, absmax: Tensor, output: Tensor, type: QuantType, blockSize: number): void {
  addon.dequantize4(codes.handle, absmax.handle, output.handle, quantTypes.indexOf(type), blockSize);
}

/** Double quantization of block constants: codes uint8 [m], nestedAbsmax float32 [ceil(m/256)], offset float32 [1]. */
export function quantizeAbsmax(absmax: Tensor, codes: Tensor, nestedAbsmax: Tensor, offset: Tensor): void {
  addon.quantizeAbsmax(absmax.handle, codes.handle, nestedAbsmax.handle, offset.handle);
}

/** map float32 [256]: the checkpoint's nested_quant_map. */
export function dequantizeAbsmax(
  codes: Tensor,
  nestedAbsmax: Tensor,
  map: Tensor,
  offset: Tensor,
  absmax: Tensor,
): void {
  addon.dequantizeAbsmax(codes.handle, nestedAbsmax.handle, map.handle, offset.handle, absmax.handle);
}

/** NaN and Inf in a float tensor. */
export function countNonfinite(input: Tensor): number {
  return addon.countNonfinite(input.handle);
}

/** Values of the 16 codes, as a checkpoint's quant_map holds them. */
export function codeValues(type: QuantType): Float32Array {
  return addon.codeValues(quantTypes.indexOf(type));
}

/** The 256 values of the signed dynamic map: a checkpoint's nested_quant_map. */
export function dynamicMap(): Float32Array {
  return addon.dynamicMap();
}
