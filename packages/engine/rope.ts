// Rotary tables with the scaling variants of Llama checkpoints. Names and formulas: RoPE (arXiv:2104.09864);
// linear (arXiv:2306.15595); dynamic NTK; YaRN (arXiv:2309.00071) §3; Llama 3's piecewise scaling.

import { type Device, Tensor } from "#native";
import type { Rope, RopeScaling } from "#packages/hub";
import type { RopeTables } from "./ops.ts";

/** Inverse frequencies [D / 2] and the factor on cos and sin, for sequences of up to `positions` tokens. */
export function ropeFrequencies(
  rope: Rope,
  headDim: number,
  positions: number,
): { inverse: Float64Array; factor: number } {
  const base = (theta: number) => Float64Array.from({ length: headDim / 2 }, (_, j) => theta ** ((-2 * j) / headDim));
  const { theta, scaling } = rope;
  switch (scaling.type) {
    case "default":
      return { inverse: base(theta), factor: 1 };
    case "linear":
      return { inverse: base(theta).map((f) => f / scaling.factor), factor: 1 };
    case "dynamic":
      return { inverse: base(dynamicTheta(theta, scaling, headDim, positions)), factor: 1 };
    case "llama3":
      return { inverse: base(theta).map((f) => llama3Frequency(f, scaling)), factor: 1 };
    case "yarn":
      return yarn(base(theta), theta, scaling, headDim);
  }
}

type Scaling<T extends RopeScaling["type"]> = Extract<RopeScaling, { type: T }>;

function dynamicTheta(theta: number, s: Scaling<"dynamic">, headDim: number, positions: number): number {
  const trained = s.originalMaxPositionEmbeddings;
  const length = Math.max(positions, trained);
  return theta * ((s.factor * length) / trained - (s.factor - 1)) ** (headDim / (headDim - 2));
}

function llama3Frequency(frequency: number, s: Scaling<"llama3">): number {
  const wavelength = (2 * Math.PI) / frequency;
  const trained = s.originalMaxPositionEmbeddings;
  if (wavelength < trained / s.highFreqFactor) return frequency;
  if (wavelength > trained / s.lowFreqFactor) return frequency / s.factor;
  const smooth = (trained / wavelength - s.lowFreqFactor) / (s.highFreqFactor - s.lowFreqFactor);
  return ((1 - smooth) * frequency) / s.factor + smooth * frequency;
}

function yarnFactor(s: Scaling<"yarn">): number {
  const mscale = (scale: number) => (s.factor <= 1 ? 1 : 0.1 * scale * Math.log(s.factor) + 1);
  if (s.attentionFactor !== null) return s.attentionFactor;
  if (s.mscale && s.mscaleAllDim) return mscale(s.mscale) / mscale(s.mscaleAllDim);
  return mscale(1);
}

function yarn(inverse: Float64Array, theta: number, s: Scaling<"yarn">, headDim: number) {
  // The dimension whose wave turns `turns` times within the trained length.
  const dimension = (turns: number) =>
    (headDim * Math.log(s.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [from, to] = [dimension(s.betaFast), dimension(s.betaSlow)];
  const low = Math.max(s.truncate ? Math.floor(from) : from, 0);
  const high = Math.min(s.truncate ? Math.ceil(to) : to, headDim - 1);
  const width = high === low ? 0.001 : high - low;
  const blended = inverse.map((f, j) => {
    const ramp = Math.min(Math.max((j - low) / width, 0), 1);
    return (f / s.factor) * ramp + f * (1 - ramp);
  });
  return { inverse: blended, factor: yarnFactor(s) };
}

/** cos and sin for positions 0 … positions - 1. */
export function ropeTables(rope: Rope, headDim: number, positions: number, device: Device): RopeTables {
  const { inverse, factor } = ropeFrequencies(rope, headDim, positions);
  const half = headDim / 2;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  // The reference stack rounds frequency and angle to float32; the golden logits are those.
  const rounded = Float32Array.from(inverse);
  for (let p = 0; p < positions; p++) {
    for (let j = 0; j < half; j++) {
      const angle = Math.fround(p * (rounded[j] ?? 0));
      cos[p * half + j] = Math.cos(angle) * factor;
      sin[p * half + j] = Math.sin(angle) * factor;
    }
  }
  const upload = (values: Float32Array) => Tensor.fromFloat32(values, [positions, half], { device, kind: "weights" });
  return { cos: upload(cos), sin: upload(sin) };
}
