// The autograd tape: values with gradients, and the backward steps in the order in which they were
// recorded. A tape owns every tensor made on it and frees them together (dispose), so no garbage
// collector decides when activations go. It knows no layers: ops.ts does.
import { add, type Device, type DType, type MemoryKind, Tensor } from "#native";

/** A value on a tape and, once the backward pass reached it, its gradient. */
export interface Var {
  /** Only the tape sets it: another tensor of the same numbers after forgetCheap(). */
  value: Tensor;
  readonly requiresGrad: boolean;
  grad: Tensor | null;
  /**
   * Set where the value comes back only with the backward step of the op that made it: what then runs. Other ops'
   * steps leave here what needs the value.
   */
  late: (() => void)[] | null;
}

export interface TapeOptions {
  device: Device;
  /** Of activations. */
  dtype: DType;
  /** False: nothing is recorded, as in inference and in the first pass under gradient checkpointing. */
  recording: boolean;
}

export class Tape {
  readonly options: TapeOptions;
  private readonly owned = new Set<Tensor>();
  private readonly steps: (() => void)[] = [];
  private readonly cheap: { of: Var; make: (() => void) | null }[] = [];
  private forgotten = false;

  constructor(options: TapeOptions) {
    this.options = options;
  }

  get recording(): boolean {
    return this.options.recording;
  }

  /** A tensor that lives until dispose(), release() or disown(). Not cleared. */
  empty(shape: readonly number[], dtype: DType = this.options.dtype, kind: MemoryKind = "activations"): Tensor {
    const t = Tensor.empty(dtype, shape, { device: this.options.device, kind });
    this.owned.add(t);
    return t;
  }

  variable(value: Tensor, requiresGrad: boolean): Var {
    return { value, requiresGrad: requiresGrad && this.recording, grad: null, late: null };
  }

  /** Keeps `step` for the backward pass; it runs after every step recorded later. */
  record(step: () => void): void {
    if (this.recording) this.steps.push(step);
  }

  /** Says that `make` fills v.value again, the same bits, from values that stay: the backward pass may do without it till then. */
  remakable(v: Var, make: () => void): void {
    if (this.recording) this.cheap.push({ of: v, make });
  }

  /** Says that the backward step of the op that made v can fill its value again, and will where v.late is set. */
  remadeByStep(v: Var): void {
    if (this.recording) this.cheap.push({ of: v, make: null });
  }

  /** Frees what is cheap to make again; backward() makes it. */
  forgetCheap(): void {
    this.forgotten = true;
    for (const { of, make } of this.cheap) {
      this.release(of.value);
      if (!make) of.late = [];
    }
  }

  private remake(): void {
    for (const { of, make } of this.cheap) {
      if (!make) continue;
      of.value = this.empty(of.value.shape, of.value.dtype);
      make();
    }
  }

  /** Frees one tensor early. */
  release(t: Tensor): void {
    if (this.owned.delete(t)) t.free();
  }

  /** Frees gradients that nothing needs any more, before the end. */
  releaseGradients(of: readonly Var[]): void {
    for (const { grad } of of) if (grad) this.release(grad);
  }

  /** Hands a tensor over to the caller, who frees it. */
  disown(t: Tensor): Tensor {
    this.owned.delete(t);
    return t;
  }

  /** Runs the recorded steps backwards. The gradients of the roots have been set before. */
  backward(): void {
    if (this.forgotten) this.remake();
    for (let step = this.steps.pop(); step; step = this.steps.pop()) step();
  }

  /** The tensor that receives a gradient of `v`, and whether it must be added to what is there. */
  gradient(v: Var): { tensor: Tensor; accumulate: boolean } {
    if (v.grad) return { tensor: v.grad, accumulate: true };
    v.grad = this.empty(v.value.shape, v.value.dtype);
    return { tensor: v.grad, accumulate: false };
  }

  /**
   * Adds a ready gradient to `v`. A first gradient is taken as it is, not copied: it may be shared with a
   * variable whose own producer has no use for it any more (see ops.ts, addNorm).
   */
  addGradient(v: Var, gradient: Tensor): void {
    if (!v.requiresGrad) return;
    if (v.grad) add(gradient, v.grad);
    else v.grad = gradient;
  }

  dispose(): void {
    Tensor.freeAll([...this.owned]);
    this.owned.clear();
    this.steps.length = 0;
    this.cheap.length = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
