// AdamW with 32-bit or blockwise 8-bit state; see ops/optimizer.h.
import { addon } from "./addon.ts";
import { handleOf } from "./linear.ts";
import type { Tensor } from "./tensor.ts";

export interface AdamwState {
  m: Tensor;
  v: Tensor;
  /** float32 [ceil(n / 256)] when m and v are uint8, else null. */
  mAbsmax: Tensor | null;
  vAbsmax: Tensor | null;
}

/** A parameter, which is updated, and its gradient, float32 both. */
export interface AdamwParameter extends AdamwState {
  p: Tensor;
  g: Tensor;
}

export interface AdamwHyper {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** Multiplies the gradient first: clipping. */
  gradScale: number;
  /** 1, 2, … */
  step: number;
}

/** One step of all parameters, which lie on one device. When an argument is refused, none has changed. */
export function adamw(hyper: AdamwHyper, ...all: readonly AdamwParameter[]): void {
  const { lr, beta1, beta2, eps, weightDecay, gradScale, step } = hyper;
  const tensors = all.flatMap(({ p, g, m, v, mAbsmax, vAbsmax }) => {
    return [p.handle, g.handle, m.handle, v.handle, handleOf(mAbsmax), handleOf(vAbsmax)];
  });
  addon.adamw(lr, beta1, beta2, eps, weightDecay, gradScale, step, ...tensors);
}

/** Sum of the squares of all tensors, which lie on one device, in double precision. A device is waited for once. */
export function sumSquares(...all: readonly Tensor[]): number {
  return addon.sumSquares(...all.map((x) => x.handle));
}
