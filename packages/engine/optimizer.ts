// AdamW over a list of parameters, with the global norm clipped first as torch.nn.utils.clip_grad_norm_ does.
import { type AdamwState, adamw, sumSquares, Tensor } from "#native";
import { NibbleError } from "#packages/errors";
import type { Parameter } from "./parameters.ts";

export interface AdamwOptions {
  beta1: number;
  beta2: number;
  eps: number;
  /** On matrices and vectors alike, as the reference recipe does. */
  weightDecay: number;
  /** 0 = no clipping. */
  maxGradNorm: number;
}

export class Adamw {
  private readonly parameters: readonly Parameter[];
  private readonly options: AdamwOptions;
  private readonly states: AdamwState[];
  private step_ = 0;

  constructor(parameters: readonly Parameter[], options: AdamwOptions) {
    this.parameters = parameters;
    this.options = options;
    const zeros = ({ value }: Parameter) =>
      Tensor.empty("float32", value.shape, { device: value.device, kind: "optimizer" }).zero();
    this.states = parameters.map((p) => ({ m: zeros(p), v: zeros(p), mAbsmax: null, vAbsmax: null }));
  }

  /** L2 norm over all gradients, in double precision. */
  gradNorm(): number {
    return Math.sqrt(this.parameters.reduce((sum, p) => sum + sumSquares(p.grad), 0));
  }

  /**
   * One update; gradients are cleared afterwards. Returns the norm before clipping.
   * @throws INTERNAL when the norm is not finite: the parameters are left as they were.
   */
  update(lr: number): number {
    const norm = this.gradNorm();
    if (!Number.isFinite(norm)) {
      const message = `gradient norm: expected a finite number, got ${norm} at step ${this.step_ + 1}; a lower learning rate may help`;
      throw new NibbleError(message, { code: "INTERNAL", op: "adamw" });
    }
    const { maxGradNorm, beta1, beta2, eps, weightDecay } = this.options;
    const gradScale = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
    this.step_++;
    this.parameters.forEach((p, i) => {
      const state = this.states[i];
      if (state) adamw(p.value, p.grad, state, { lr, beta1, beta2, eps, weightDecay, gradScale, step: this.step_ });
      p.grad.zero();
    });
    return norm;
  }

  free(): void {
    for (const { m, v } of this.states) {
      m.free();
      v.free();
    }
    this.states.length = 0;
  }
}
