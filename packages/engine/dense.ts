// Weights as plain numbers: 4-bit ones decoded, an adapter added. What merging and exporting write.
import {
  convert,
  type Device,
  dequantize4,
  dequantizeAbsmax,
  float32Bytes,
  linearBackward,
  type MemoryKind,
  scale,
  Tensor,
  type Weight,
} from "#native";
import type { LoraLayer } from "./layers.ts";

type Quant = NonNullable<Weight["quant"]>;

function widened(t: Tensor, shape: readonly number[], kind: MemoryKind): Tensor {
  const wide = Tensor.empty("float32", shape, { device: t.device, kind });
  convert(t, wide);
  return wide;
}

/** The tensor in float32; one of another dtype is used up. */
export function asFloat32(t: Tensor, kind: MemoryKind): Tensor {
  if (t.dtype === "float32") return t;
  const wide = widened(t, t.shape, kind);
  t.free();
  return wide;
}

/** Its values, whatever float type it has. */
export function floatsOf(t: Tensor): Float32Array {
  if (t.dtype === "float32") return t.toFloat32();
  const wide = widened(t, t.shape, "workspace");
  const values = wide.toFloat32();
  wide.free();
  return values;
}

/** Block constants in float32; the weight's own where they are not double quantized. */
function constantsOf({ absmax, nested }: Quant, device: Device): { values: Tensor; free: () => void } {
  if (nested === null) return { values: absmax, free: () => {} };
  const values = Tensor.empty("float32", absmax.shape, { device, kind: "workspace" });
  const offset = Tensor.fromFloat32(Float32Array.of(nested.offset), [1], { device, kind: "workspace" });
  dequantizeAbsmax(absmax, nested.absmax, nested.map, offset, values);
  offset.free();
  return { values, free: () => values.free() };
}

function decoded(codes: Tensor, quant: Quant, shape: number[], device: Device): Tensor {
  const values = Tensor.empty(quant.dtype, shape, { device, kind: "workspace" });
  const constants = constantsOf(quant, device);
  dequantize4(codes, constants.values, values, quant.type, quant.blockSize);
  constants.free();
  return values;
}

/** float32 [out, in], decoded values rounded to the dtype before quantization, as the kernels see them. The caller frees it. */
export function denseValues({ out, in: inFeatures, data, quant }: Weight): Tensor {
  const { device } = data;
  if (quant === null) return widened(data, [out, inFeatures], "workspace");
  return asFloat32(decoded(data, quant, [out, inFeatures], device), "workspace");
}

/** Rows of `values` times the factors. */
function scaleRows(values: Tensor, factor: Tensor): void {
  const [of, factors] = [values.toFloat32(), factor.toFloat32()];
  const width = of.length / factors.length;
  for (const [row, f] of factors.entries()) {
    for (let i = row * width; i < (row + 1) * width; i++) of[i] = of[i]! * f;
  }
  values.write(float32Bytes(of));
}

/** values += scaling · B·A (LoRA, arXiv:2106.09685 §4.1), then DoRA's factors if there are any; in float32. */
export function addAdapter(values: Tensor, { a, b, scaling, factor }: LoraLayer): void {
  const scaled = widened(b, b.shape, "workspace");
  scale(scaled, scaling);
  const [rank = 0, inFeatures = 0] = a.shape;
  // d_x of a layer whose weight is A and whose d_y is B.
  const nothing = { x: null, lora: null, h: null, dA: null, dB: null, dW: null, dBias: null };
  const w: Weight = { out: rank, in: inFeatures, data: a, quant: null };
  linearBackward({ ...nothing, dY: scaled, w, dX: values, accumulateDx: true });
  scaled.free();
  if (factor) scaleRows(values, factor);
}
