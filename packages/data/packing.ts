// Which rows share a sequence: first-fit decreasing (Johnson, "Near-optimal bin packing algorithms", 1973), so that
// micro-batches are full and of one size. Rows in a sequence do not see each other: they stay documents of their own
// (packages/engine/batch.ts). The plan depends on lengths and capacity alone, so a resumed run makes the same one; its
// digest says so.
import { createHash } from "node:crypto";

/** Rows in sequences, one sequence after the other. */
export interface PackingPlan {
  /** Tokens of a sequence at most. */
  capacity: number;
  /** Numbers of the rows. */
  rows: Uint32Array;
  /** Sequence s is rows[starts[s]] to rows[starts[s + 1] - 1]. */
  starts: Uint32Array;
  /** "sha256:…" of all of the above and of the rows' lengths. */
  digest: string;
}

/** The most that is free in each part of the open sequences: the first that fits is found in log time. */
class FreeSpace {
  private readonly size: number;
  private readonly most: Int32Array;

  constructor(sequences: number, capacity: number) {
    this.size = 2 ** Math.ceil(Math.log2(Math.max(1, sequences)));
    this.most = new Int32Array(2 * this.size).fill(capacity);
  }

  /** Takes `length` from the first sequence that has as much free, and gives its number. */
  take(length: number): number {
    let node = 1;
    while (node < this.size) node = (this.most[2 * node] ?? 0) >= length ? 2 * node : 2 * node + 1;
    const sequence = node - this.size;
    this.most[node] = (this.most[node] ?? 0) - length;
    for (node >>= 1; node >= 1; node >>= 1) {
      this.most[node] = Math.max(this.most[2 * node] ?? 0, this.most[2 * node + 1] ?? 0);
    }
    return sequence;
  }
}

/**
 * @param rows numbers of the rows to pack.
 * @param lengthOf tokens of a row, from 1 to capacity.
 */
export function packRows(rows: Uint32Array, lengthOf: (row: number) => number, capacity: number): PackingPlan {
  const order = byLength(rows, lengthOf, capacity);
  const free = new FreeSpace(rows.length, capacity);
  const sequenceOf = new Uint32Array(rows.length);
  let sequences = 0;
  for (const [i, row] of order.entries()) {
    const sequence = free.take(lengthOf(row));
    sequenceOf[i] = sequence;
    sequences = Math.max(sequences, sequence + 1);
  }
  const starts = new Uint32Array(sequences + 1);
  for (const sequence of sequenceOf) starts[sequence + 1] = (starts[sequence + 1] ?? 0) + 1;
  for (let s = 0; s < sequences; s++) starts[s + 1] = (starts[s + 1] ?? 0) + (starts[s] ?? 0);
  const packed = new Uint32Array(rows.length);
  const next = starts.slice();
  for (const [i, row] of order.entries()) {
    const at = next[sequenceOf[i] ?? 0] ?? 0;
    packed[at] = row;
    next[sequenceOf[i] ?? 0] = at + 1;
  }
  return { capacity, rows: packed, starts, digest: digestOf(capacity, packed, packed.map(lengthOf), starts) };
}

/** The longest first, rows of one length in their order: a counting sort. */
function byLength(rows: Uint32Array, lengthOf: (row: number) => number, capacity: number): Uint32Array {
  const before = new Uint32Array(capacity + 2);
  for (const row of rows) {
    const length = lengthOf(row);
    if (length < 1 || length > capacity) {
      throw new RangeError(`[pack] row ${row}: expected 1 to ${capacity} tokens, got ${length}`);
    }
    before[capacity - length + 1] = (before[capacity - length + 1] ?? 0) + 1;
  }
  for (let i = 1; i < before.length; i++) before[i] = (before[i] ?? 0) + (before[i - 1] ?? 0);
  const sorted = new Uint32Array(rows.length);
  for (const row of rows) {
    const slot = capacity - lengthOf(row);
    const at = before[slot] ?? 0;
    sorted[at] = row;
    before[slot] = at + 1;
  }
  return sorted;
}

function digestOf(capacity: number, ...arrays: readonly Uint32Array[]): string {
  const hash = createHash("sha256").update(`capacity ${capacity}\n`);
  for (const { buffer, byteOffset, byteLength } of arrays) hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  return `sha256:${hash.digest("hex")}`;
}
