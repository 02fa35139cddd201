import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BatchCursor } from "./batching.ts";
import { ExampleStore } from "./example-store.ts";
import { packRows } from "./packing.ts";
import { splitRows, TrainingSet } from "./training-set.ts";

const all = (count: number) => Uint32Array.from({ length: count }, (_, i) => i);
const pack = (lengths: readonly number[], capacity: number) => {
  const plan = packRows(all(lengths.length), (row) => lengths[row] ?? 0, capacity);
  const sequences = Array.from({ length: plan.starts.length - 1 }, (_, s) => [
    ...plan.rows.subarray(plan.starts[s], plan.starts[s + 1]),
  ]);
  return { plan, sequences };
};

/** First-fit decreasing as the textbook has it. */
function textbook(lengths: readonly number[], capacity: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => (lengths[b] ?? 0) - (lengths[a] ?? 0) || a - b);
  const sequences: number[][] = [];
  const used = (rows: readonly number[]) => rows.reduce((n, row) => n + (lengths[row] ?? 0), 0);
  for (const row of order) {
    const fit = sequences.find((rows) => used(rows) + (lengths[row] ?? 0) <= capacity);
    if (fit) fit.push(row);
    else sequences.push([row]);
  }
  return sequences;
}

test("first-fit decreasing: the longest first, each into the first sequence with room", () => {
  assert.deepEqual(pack([3, 7, 5, 5, 2, 10], 10).sequences, [[5], [1, 0], [2, 3], [4]]);
  assert.deepEqual(pack([], 10).sequences, []);
  const lengths = fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 60 });
  fc.assert(fc.property(lengths, (list) => assert.deepEqual(pack(list, 40).sequences, textbook(list, 40))));
});

test("the digest is that of rows, lengths and capacity, and nothing else", () => {
  const lengths = [3, 7, 5, 5, 2, 10];
  const { digest } = pack(lengths, 10).plan;
  assert.match(digest, /^sha256:[0-9a-f]{64}$/);
  assert.equal(pack(lengths, 10).plan.digest, digest);
  for (const other of [
    pack(lengths, 11),
    pack([3, 7, 5, 5, 2, 9], 10),
    pack([...lengths, 1], 10),
    pack([7, 3, 5, 5, 2, 10], 10),
  ]) {
    assert.notEqual(other.plan.digest, digest);
  }
});

test("a row that is longer than a sequence is a defect that is said", () => {
  assert.throws(() => pack([11], 10), /row 0: expected 1 to 10 tokens, got 11/);
  assert.throws(() => pack([0], 10), /got 0/);
});

test("a saved place in a packed set is not taken for one of another plan", () => {
  const options = { rowCount: 4, batchSize: 1, gradAccum: 1, seed: 1, shuffle: true };
  const state = new BatchCursor({ ...options, plan: "sha256:a" }).state();
  new BatchCursor({ ...options, plan: "sha256:a" }).restore(state);
  for (const plan of ["sha256:b", null]) {
    assert.throws(() => new BatchCursor({ ...options, plan }).restore(state), {
      code: "FAILED_PRECONDITION",
      message: /plan: expected .* got sha256:a/,
    });
  }
});

const example = (length: number) => ({
  inputIds: Int32Array.from({ length }, (_, i) => length * 100 + i),
  labels: new Int32Array(length).fill(-100, 0, 1),
  weight: 1,
});

test("a packed set gives whole rows, each once", () => {
  const lengths = [3, 7, 5, 5, 2, 10];
  const set = TrainingSet.whole(ExampleStore.of(lengths.map(example)), 10);
  assert.deepEqual([set.count, set.rowCount], [4, 6]);
  assert.deepEqual(
    set.examplesOf([1, 3]).map(({ inputIds }) => inputIds.length),
    [7, 3, 2],
  );
  assert.equal(set.examplesOf([0, 1, 2, 3]).length, 6);
});

test("rows are split by seed, in the order of the file, none in both", () => {
  const { train, evaluation } = splitRows(1000, 0.1, 42);
  assert.deepEqual([train.length, evaluation.length], [900, 100]);
  assert.deepEqual([...new Set([...train, ...evaluation])].length, 1000);
  for (const part of [train, evaluation])
    assert.deepEqual(
      [...part],
      [...part].sort((a, b) => a - b),
    );
  assert.deepEqual(splitRows(1000, 0.1, 42), { train, evaluation });
  assert.notDeepEqual(splitRows(1000, 0.1, 43).evaluation, evaluation);
  assert.deepEqual(splitRows(3, 0, 1), { train: all(3), evaluation: all(0) });
  // Something is trained and something held out, however few there are.
  assert.deepEqual(
    [splitRows(2, 0.99, 1), splitRows(5, 0.01, 1)].map((s) => [s.train.length, s.evaluation.length]),
    [
      [1, 1],
      [4, 1],
    ],
  );
});
