// AdamW over a list of parameters, its state in 32 or 8 bits and, when paged, in spill files; the global norm is
// clipped first as torch.nn.utils.clip_grad_norm_ does.
import { type AdamwState, adamw, freeOnThrow, sumSquares, Tensor } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import type { Parameter } from "./parameters.ts";

export interface AdamwOptions {
  optimizer: TrainRecipe["optimizer"];
  /** Folder of spill files; it must exist when the optimizer is a paged one. */
  pagingDir: string;
  beta1: number;
  beta2: number;
  eps: number;
  /** On matrices and vectors alike, as the reference recipe does. */
  weightDecay: number;
  /** 0 = no clipping. */
  maxGradNorm: number;
}

/** Elements from which 8-bit state is used: bitsandbytes' min_8bit_size. */
export const elementsMin8bit = 4096;
/** Elements that share one constant of 8-bit state. */
const block8 = 256;
/**
 * Bytes of one moment from which it is paged: less is not worth a file. bitsandbytes pages from 100,000 elements,
 * which would leave most adapters of small models out.
 */
export const pagedBytesMin = 16_384;

export const isPaged = (optimizer: TrainRecipe["optimizer"]): boolean => optimizer.startsWith("paged_");
const is8bit = (optimizer: TrainRecipe["optimizer"]): boolean => optimizer.endsWith("8bit");

/** Moments of zero. */
function newState({ value }: Parameter, { optimizer, pagingDir }: AdamwOptions): AdamwState {
  const { device, shape, count } = value;
  const at = { device, kind: "optimizer" } as const;
  const eight = is8bit(optimizer) && count >= elementsMin8bit;
  const moment = (): Tensor => {
    const bytes = eight ? count : 4 * count;
    // What is paged is zero as it comes; writing zeros would make it take memory.
    if (isPaged(optimizer) && bytes >= pagedBytesMin) {
      return Tensor.empty(eight ? "uint8" : "float32", shape, { ...at, pagingDir });
    }
    return Tensor.empty(eight ? "uint8" : "float32", shape, at).zero();
  };
  const constants = () => (eight ? Tensor.empty("float32", [Math.ceil(count / block8)], at).zero() : null);
  return { m: moment(), v: moment(), mAbsmax: constants(), vAbsmax: constants() };
}

export class Adamw {
  private readonly parameters: readonly Parameter[];
  private readonly options: AdamwOptions;
  private readonly states: AdamwState[];
  private step_ = 0;

  /** @throws RESOURCE_EXHAUSTED when there is no memory, or no room on the disk, for the state. */
  constructor(parameters: readonly Parameter[], options: AdamwOptions) {
    this.parameters = parameters;
    this.options = options;
    this.states = freeOnThrow(() => parameters.map((p) => newState(p, options)));
  }

  /** L2 norm over all gradients, in double precision. */
  gradNorm(): number {
    return Math.sqrt(sumSquares(...this.parameters.map((p) => p.grad)));
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
    this.advise(0, "soon");
    this.parameters.forEach((p, i) => {
      // The disk works ahead: the next parameter's state is read while this one's is used.
      this.advise(i + 1, "soon");
      const state = this.states[i];
      if (state) adamw(p.value, p.grad, state, { lr, beta1, beta2, eps, weightDecay, gradScale, step: this.step_ });
      this.advise(i, "later");
      p.grad.zero();
    });
    return norm;
  }

  private advise(index: number, use: "soon" | "later"): void {
    const state = this.states[index];
    if (state === undefined || !isPaged(this.options.optimizer)) return;
    state.m.advise(use);
    state.v.advise(use);
  }

  /** The moments of a parameter, for checkpoints and tests. */
  stateOf(parameter: Parameter): AdamwState | undefined {
    return this.states[this.parameters.indexOf(parameter)];
  }

  free(): void {
    for (const { m, v, mAbsmax, vAbsmax } of this.states) {
      for (const t of [m, v, mAbsmax, vAbsmax]) t?.free();
    }
    this.states.length = 0;
  }
}
