// Embedding, norms, rope, activations and element-by-element helpers; see the files of the same names in ops/.
import { addon } from "./addon.ts";
import { handleOf } from "./linear.ts";
import type { Tensor } from "./tensor.ts";

const norms = ["rms", "layer"] as const;
const activations = ["silu", "gelu", "gelu_tanh", "relu"] as const;
export type Norm = (typeof norms)[number];
export type Activation = (typeof activations)[number];

/** y[n] = table[ids[n]]; gathers rows of any [M, C] tensor. */
export function embeddingForward(table: Tensor, ids: Tensor, y: Tensor): void {
  addon.embeddingForward(table.handle, ids.handle, y.handle);
}

/** dTable[ids[n]] += dY[n]. */
export function embeddingBackward(dY: Tensor, ids: Tensor, dTable: Tensor): void {
  addon.embeddingBackward(dY.handle, ids.handle, dTable.handle);
}

export function normForward(args: {
  kind: Norm;
  x: Tensor;
  residual: Tensor | null;
  weight: Tensor;
  bias: Tensor | null;
  eps: number;
  y: Tensor;
  sum: Tensor | null;
  mean: Tensor | null;
  rstd: Tensor;
}): void {
  const { kind, x, residual, weight, bias, eps, y, sum, mean, rstd } = args;
  const inputs = [norms.indexOf(kind), x.handle, handleOf(residual), weight.handle, handleOf(bias), eps];
  addon.normForward(...inputs, y.handle, handleOf(sum), handleOf(mean), rstd.handle);
}

export function normBackward(args: {
  kind: Norm;
  dY: Tensor;
  dSum: Tensor | null;
  s: Tensor;
  weight: Tensor;
  mean: Tensor | null;
  rstd: Tensor;
  dS: Tensor;
  dWeight: Tensor | null;
  dBias: Tensor | null;
}): void {
  const { kind, dY, dSum, s, weight, mean, rstd, dS, dWeight, dBias } = args;
  const inputs = [norms.indexOf(kind), dY.handle, handleOf(dSum), s.handle, weight.handle, handleOf(mean), rstd.handle];
  addon.normBackward(...inputs, dS.handle, handleOf(dWeight), handleOf(dBias));
}

/** In place on x [N, heads * D]; `inverse` is the backward pass. */
export function rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, inverse = false): void {
  addon.rope(x.handle, positions.handle, cos.handle, sin.handle, inverse);
}

/** y = act(g) * u, or act(g) when u is null. */
export function activationForward(kind: Activation, g: Tensor, u: Tensor | null, y: Tensor): void {
  addon.activationForward(activations.indexOf(kind), g.handle, handleOf(u), y.handle);
}

export function activationBackward(
  kind: Activation,
  args: { dY: Tensor; g: Tensor; u: Tensor | null; dG: Tensor; dU: Tensor | null; y: Tensor | null },
): void {
  const { dY, g, u, dG, dU, y } = args;
  const outputs = [dG.handle, handleOf(dU), handleOf(y)] as const;
  addon.activationBackward(activations.indexOf(kind), dY.handle, g.handle, handleOf(u), ...outputs);
}

/** y += x */
export function add(x: Tensor, y: Tensor): void {
  addon.add(x.handle, y.handle);
}

/** y *= factor */
export function scale(y: Tensor, factor: number): void {
  addon.scale(y.handle, factor);
}

/** y = x, rounded to y's dtype. */
export function convert(x: Tensor, y: Tensor): void {
  addon.convert(x.handle, y.handle);
}

/** y uniform in [low, high); index i depends on (seed, stream, i) only. */
export function uniformFill(y: Tensor, args: { low: number; high: number; seed: number; stream: number }): void {
  addon.randomFill(y.handle, false, args.low, args.high, args.seed, args.stream);
}

export function normalFill(y: Tensor, args: { mean: number; std: number; seed: number; stream: number }): void {
  addon.randomFill(y.handle, true, args.mean, args.std, args.seed, args.stream);
}
