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

export function adamw(p: Tensor, g: Tensor, state: AdamwState, hyper: AdamwHyper): void {
  const { lr, beta1, beta2, eps, weightDecay, gradScale, step } = hyper;
  const tensors = [
    p.handle,
    g.handle,
    state.m.handle,
    state.v.handle,
    handleOf(state.mAbsmax),
    handleOf(state.vAbsmax),
  ];
  addon.adamw(...tensors, lr, beta1, beta2, eps, weightDecay, gradScale, step);
}

/** Sum of the squares of all tensors, which lie on one device, in double precision. A device is waited for once. */
export function sumSquares(...all: readonly Tensor[]): number {
  return addon.sumSquares(...all.map((x) => x.handle));
}
