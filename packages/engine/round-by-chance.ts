// Stochastic rounding to 4-bit codes (Gupta et al., arXiv:1502.02551 §3.1), for values that lie on the codes' grid already and
// had little added: to the nearest code every small addition is lost, while here each moves a code with the probability that
// keeps its expectation. What is low-rank, as LoRA's additions are, then adds up again over a row's many inputs.
import { codeValues, float32Bytes, Tensor, uniformFill } from "#native";
import type { QuantOptions } from "./quantize-tensor.ts";

const seed = 1;

/**
 * Replaces float32 `values` by values of codes times their block's largest, which quantizing to the nearest code keeps.
 * @param stream tells tensors apart: what is drawn depends on it and the index only.
 */
export function roundByChance(values: Tensor, { type, blockSize }: QuantOptions, stream: number): void {
  const draws = Tensor.empty("float32", values.shape, { device: values.device, kind: "workspace" });
  uniformFill(draws, { low: 0, high: 1, seed, stream });
  const [of, chances] = [values.toFloat32(), draws.toFloat32()];
  draws.free();
  const codes = codeValues(type)
    .filter((code) => Math.abs(code) <= 1) // int4's −8/7 is never made
    .toSorted();
  for (let from = 0; from < of.length; from += blockSize) {
    const end = Math.min(from + blockSize, of.length);
    let absmax = 0;
    for (let i = from; i < end; i++) absmax = Math.max(absmax, Math.abs(of[i]!));
    if (absmax === 0) continue;
    for (let i = from; i < end; i++) of[i] = absmax * drawn(codes, of[i]! / absmax, chances[i]!);
  }
  values.write(float32Bytes(of));
}

/** One of the two codes beside `x`, the nearer one with the greater probability. */
function drawn(codes: Float32Array, x: number, chance: number): number {
  let above = x > codes[codes.length >> 1]! ? codes.length >> 1 : 1;
  while (above < codes.length - 1 && codes[above]! < x) above++;
  const low = codes[above - 1]!;
  const high = codes[above]!;
  return chance * (high - low) < x - low ? high : low;
}
