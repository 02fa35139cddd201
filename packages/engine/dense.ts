// Weights as plain numbers: 4-bit ones decoded, an adapter added. What merging and exporting write.
import {
  convert,
  type Device,
  dequantize4,
  dequantizeAbsmax,
  linearBackward,
  scale,
  Tensor,
  type Weight,
} from "#native";
import type { LoraLayer } from "./layers.ts";

type Quant = NonNullable<Weight["quant"]>;

/** Block constants in float32; the weight's own where they are not double quantized. */
function constantsOf({ absmax, nested }: Quant, device: Device): { values: Tensor; free: () => void } {
  if (nested === null) return { values: absmax, free: () => {} };
  const values = Tensor.empty("float32", absmax.shape, { device, kind: "workspace" });
  const bytes = new Uint8Array(new Float32Array([nested.offset]).buffer);
  const offset = Tensor.fromBytes(bytes, "float32", [1], { device, kind: "workspace" });
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
  const values = quant === null ? data : decoded(data, quant, [out, inFeatures], device);
  if (values !== data && values.dtype === "float32") return values;
  const wide = Tensor.empty("float32", [out, inFeatures], { device, kind: "workspace" });
  convert(values, wide);
  if (values !== data) values.free();
  return wide;
}

/** Rows of `values` times the factors. */
function scaleRows(values: Tensor, factor: Tensor): void {
  const [of, factors] = [values.toFloat32(), factor.toFloat32()];
  const width = of.length / factors.length;
  for (const [row, f] of factors.entries()) {
    for (let i = row * width; i < (row + 1) * width; i++) of[i] = of[i]! * f;
  }
  values.write(new Uint8Array(of.buffer));
}

/** values += scaling · B·A (LoRA, arXiv:2106.09685 §4.1), then DoRA's factors if there are any; in float32. */
export function addAdapter(values: Tensor, { a, b, scaling, factor }: LoraLayer): void {
  const scaled = Tensor.empty("float32", b.shape, { device: b.device, kind: "workspace" });
  convert(b, scaled);
  scale(scaled, scaling);
  const [rank = 0, inFeatures = 0] = a.shape;
  // d_x of a layer whose weight is A and whose d_y is B.
  const nothing = { x: null, lora: null, h: null, dA: null, dB: null, dW: null, dBias: null };
  const w: Weight = { out: rank, in: inFeatures, data: a, quant: null };
  linearBackward({ ...nothing, dY: scaled, w, dX: values, accumulateDx: true });
  scaled.free();
  if (factor) scaleRows(values, factor);
}
