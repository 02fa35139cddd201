// What a run goes through: sequences of rows of a store, a row each, or several where they are packed; and the part of
// the rows that is held out to evaluate on.
import { ExampleStore, type StoredExample } from "./example-store.ts";
import { type PackingPlan, packRows } from "./packing.ts";
import { permutation } from "./philox.ts";

export class TrainingSet {
  readonly store: ExampleStore;
  /** Null: each row is a sequence. */
  readonly plan: PackingPlan | null;
  private readonly rows: Uint32Array;

  /** @param capacity pack rows into sequences of so many tokens; null: do not. */
  constructor(store: ExampleStore, rows: Uint32Array, capacity: number | null = null) {
    this.store = store;
    this.plan = capacity === null ? null : packRows(rows, (row) => store.lengthOf(row), capacity);
    this.rows = this.plan?.rows ?? rows;
  }

  static of(examples: Iterable<StoredExample>): TrainingSet {
    return TrainingSet.whole(ExampleStore.of(examples));
  }

  static whole(store: ExampleStore, capacity: number | null = null): TrainingSet {
    return new TrainingSet(
      store,
      Uint32Array.from({ length: store.count }, (_, i) => i),
      capacity,
    );
  }

  /** Sequences. */
  get count(): number {
    return this.plan ? this.plan.starts.length - 1 : this.rows.length;
  }

  get rowCount(): number {
    return this.rows.length;
  }

  /** Numbers of a sequence's rows in the store. */
  rowsOf(sequence: number): Uint32Array {
    const [start, end] = this.plan
      ? [this.plan.starts[sequence], this.plan.starts[sequence + 1]]
      : [sequence, sequence + 1];
    return this.rows.subarray(start, end);
  }

  /** The rows of some sequences, read anew. */
  examplesOf(sequences: readonly number[]): StoredExample[] {
    return sequences.flatMap((sequence) => Array.from(this.rowsOf(sequence), (row) => this.store.get(row)));
  }
}

/** Its own stream of the seed: the order of the epochs does not depend on what is held out. */
const splitStream = 0xe7a1;

/** Row numbers to train on and to evaluate on, both in the order of the file; which is which depends on seed and count. */
export function splitRows(
  count: number,
  fraction: number,
  seed: number,
): { train: Uint32Array; evaluation: Uint32Array } {
  const held = fraction > 0 ? Math.min(count - 1, Math.max(1, Math.round(count * fraction))) : 0;
  const order = permutation(count, seed, splitStream);
  return { train: order.slice(held).sort(), evaluation: order.slice(0, held).sort() };
}
