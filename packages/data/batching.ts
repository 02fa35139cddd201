// Which rows a step trains on. The order of an epoch depends on seed and epoch alone, so the whole
// future of a run is two numbers: saved, they continue it with the same rows. It knows no tokens.
import { NibbleError } from "#packages/errors";
import { permutation } from "./philox.ts";

export interface BatchOptions {
  rowCount: number;
  /** Rows of a micro-batch. */
  batchSize: number;
  /** Micro-batches of a step. */
  gradAccum: number;
  seed: number;
  shuffle: boolean;
  /** Digest of the packing plan that the row numbers are sequences of; null: they are rows. */
  plan?: string | null;
}

/** Everything that the rest of the order depends on. */
export interface CursorState extends Required<BatchOptions> {
  epoch: number;
  /** Rows of this epoch that are used up. */
  position: number;
}

export interface StepRows {
  /** From 0. */
  epoch: number;
  /** At most gradAccum lists of at most batchSize row numbers; an epoch's last step may have fewer. */
  microBatches: number[][];
}

const op = "batching";

export class BatchCursor {
  private readonly options: Required<BatchOptions>;
  private epoch = 0;
  private position = 0;
  private order: Uint32Array | undefined;

  constructor(options: BatchOptions) {
    for (const key of ["rowCount", "batchSize", "gradAccum"] as const) {
      if (Number.isSafeInteger(options[key]) && options[key] >= 1) continue;
      throw new RangeError(`[${op}] ${key}: expected a whole number >= 1, got ${options[key]}`);
    }
    if (!Number.isSafeInteger(options.seed) || options.seed < 0) {
      throw new RangeError(`[${op}] seed: expected a whole number >= 0, got ${options.seed}`);
    }
    this.options = { ...options, plan: options.plan ?? null };
  }

  get stepsPerEpoch(): number {
    const { rowCount, batchSize, gradAccum } = this.options;
    return Math.ceil(rowCount / (batchSize * gradAccum));
  }

  /** The rows of the next step. Every row comes once an epoch; no step spans two epochs. */
  next(): StepRows {
    const { rowCount, batchSize, gradAccum, seed, shuffle } = this.options;
    const { epoch } = this;
    this.order ??= shuffle ? permutation(rowCount, seed, epoch) : Uint32Array.from({ length: rowCount }, (_, i) => i);
    const microBatches: number[][] = [];
    while (microBatches.length < gradAccum && this.position < rowCount) {
      const rows = Array.from(this.order.subarray(this.position, this.position + batchSize));
      microBatches.push(rows);
      this.position += rows.length;
    }
    if (this.position === rowCount) {
      this.epoch++;
      this.position = 0;
      this.order = undefined;
    }
    return { epoch, microBatches };
  }

  state(): CursorState {
    return { ...this.options, epoch: this.epoch, position: this.position };
  }

  /** Continues where `state` was taken; other rows, sizes or seeds would be another order and are refused. */
  restore(state: CursorState): void {
    for (const key of ["rowCount", "batchSize", "gradAccum", "seed", "shuffle", "plan"] as const) {
      if (state[key] === this.options[key]) continue;
      const message = `${key}: expected ${this.options[key]} as when the state was saved, got ${state[key]}`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    this.epoch = state.epoch;
    this.position = state.position;
    this.order = undefined;
  }
}
