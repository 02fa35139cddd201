// AdamW over a list of parameters, its state in 32 or 8 bits and, when paged, in spill files; the global norm is
// clipped first as torch.nn.utils.clip_grad_norm_ does.
import { type AdamwHyper, type AdamwState, adamw, convert, freeOnThrow, sumSquares, Tensor, zeroAll } from "#native";
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
const elementsMin8bit = 4096;
/** Elements that share one constant of 8-bit state. */
const block8 = 256;
/**
 * Bytes of one moment from which it is paged: less is not worth a file. bitsandbytes pages from 100,000 elements,
 * which would leave most adapters of small models out.
 */
const pagedBytesMin = 16_384;

export const isPaged = (optimizer: TrainRecipe["optimizer"]): boolean => optimizer.startsWith("paged_");
const is8bit = (optimizer: TrainRecipe["optimizer"]): boolean => optimizer.endsWith("8bit");

interface State extends AdamwState {
  /** Of a value in bfloat16: float32, which small updates add up in. Null: the value itself is float32. */
  master: Tensor | null;
}

/** Moments of zero, and the value in float32 where it is not. */
function newState({ value }: Parameter, { optimizer, pagingDir }: AdamwOptions): State {
  const { device, shape, count } = value;
  const at = { device, kind: "optimizer" } as const;
  const eight = is8bit(optimizer) && count >= elementsMin8bit;
  const perElement = (dtype: "uint8" | "float32"): Tensor => {
    const bytes = dtype === "uint8" ? count : 4 * count;
    if (isPaged(optimizer) && bytes >= pagedBytesMin) return Tensor.empty(dtype, shape, { ...at, pagingDir });
    return Tensor.empty(dtype, shape, at);
  };
  const moment = (): Tensor => {
    const t = perElement(eight ? "uint8" : "float32");
    // What is paged is zero as it comes; writing zeros would make it take memory.
    const isSpilled = isPaged(optimizer) && t.byteLength >= pagedBytesMin;
    return isSpilled ? t : t.zero();
  };
  const constants = () => (eight ? Tensor.empty("float32", [Math.ceil(count / block8)], at).zero() : null);
  const master = value.dtype === "float32" ? null : perElement("float32");
  if (master) convert(value, master);
  return { m: moment(), v: moment(), mAbsmax: constants(), vAbsmax: constants(), master };
}

/** The gradient in float32; `free` gives back what was made for that. */
function wideGradient({ grad }: Parameter): { grad: Tensor; free: () => void } {
  if (grad.dtype === "float32") return { grad, free: () => {} };
  const wide = Tensor.empty("float32", grad.shape, { device: grad.device, kind: "workspace" });
  convert(grad, wide);
  return { grad: wide, free: () => wide.free() };
}

export class Adamw {
  private readonly parameters: readonly Parameter[];
  private readonly options: AdamwOptions;
  private readonly states: State[];
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
    this.run({ lr, beta1, beta2, eps, weightDecay, gradScale, step: this.step_ });
    zeroAll(this.parameters.map((p) => p.grad));
    return norm;
  }

  private run(hyper: AdamwHyper): void {
    const { parameters, states } = this;
    const isWide = parameters.every(({ value, grad }) => value.dtype === "float32" && grad.dtype === "float32");
    if (isWide && !isPaged(this.options.optimizer)) {
      adamw(hyper, ...states.map((state, i) => ({ ...state, p: parameters[i]!.value, g: parameters[i]!.grad })));
      return;
    }
    this.advise(0, "soon");
    states.forEach((state, i) => {
      // The disk works ahead: the next parameter's state is read while this one's is used.
      this.advise(i + 1, "soon");
      const p = parameters[i]!;
      const { grad, free } = wideGradient(p);
      adamw(hyper, { ...state, p: state.master ?? p.value, g: grad });
      if (state.master) convert(state.master, p.value);
      free();
      this.advise(i, "later");
    });
  }

  private advise(index: number, use: "soon" | "later"): void {
    const state = this.states[index];
    if (state === undefined || !isPaged(this.options.optimizer)) return;
    for (const t of [state.m, state.v, state.master]) t?.advise(use);
  }

  /** The moments of a parameter, for checkpoints and tests. */
  stateOf(parameter: Parameter): AdamwState | undefined {
    return this.states[this.parameters.indexOf(parameter)];
  }

  free(): void {
    for (const { m, v, mAbsmax, vAbsmax, master } of this.states) {
      for (const t of [m, v, mAbsmax, vAbsmax, master]) t?.free();
    }
    this.states.length = 0;
  }
}
