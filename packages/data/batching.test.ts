import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BatchCursor, type BatchOptions } from "./batching.ts";
import { permutation, philox } from "./philox.ts";

test("Philox gives the numbers of Random123's known-answer tests", () => {
  const hex = (numbers: readonly number[]) => numbers.map((n) => n.toString(16).padStart(8, "0")).join(" ");
  const ones = 0xffffffff;
  assert.equal(hex(philox([0, 0, 0, 0], [0, 0])), "6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  assert.equal(hex(philox([ones, ones, ones, ones], [ones, ones])), "408f276d 41c83b0e a20bc7c6 6d5451fd");
  const pi = philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
  assert.equal(hex(pi), "d16cfe09 94fdcceb 5001e420 24126ea1");
});

test("a permutation holds every number once and depends on seed and stream", () => {
  const one = permutation(1000, 42, 0);
  assert.deepEqual(
    [...one].sort((a, b) => a - b),
    [...Array(1000).keys()],
  );
  const others = [permutation(1000, 42, 1), permutation(1000, 43, 0), permutation(1000, 42 + 2 ** 32, 0)];
  for (const other of others) assert.notDeepEqual(other, one);
  assert.deepEqual(permutation(1000, 42, 0), one);
  // Of a random permutation about one element stays in place; a broken one leaves many.
  assert.ok(one.filter((value, i) => value === i).length < 8);
});

const base: BatchOptions = { rowCount: 10, batchSize: 2, gradAccum: 2, seed: 42, shuffle: false };

test("without shuffling, in order; the last step of an epoch is short", () => {
  const cursor = new BatchCursor(base);
  assert.equal(cursor.stepsPerEpoch, 3);
  const steps = [1, 2, 3, 4].map(() => cursor.next());
  assert.deepEqual(steps, [
    {
      epoch: 0,
      microBatches: [
        [0, 1],
        [2, 3],
      ],
    },
    {
      epoch: 0,
      microBatches: [
        [4, 5],
        [6, 7],
      ],
    },
    { epoch: 0, microBatches: [[8, 9]] },
    {
      epoch: 1,
      microBatches: [
        [0, 1],
        [2, 3],
      ],
    },
  ]);
});

const options = fc.record({
  rowCount: fc.integer({ min: 1, max: 40 }),
  batchSize: fc.integer({ min: 1, max: 7 }),
  gradAccum: fc.integer({ min: 1, max: 4 }),
  seed: fc.maxSafeNat(),
  shuffle: fc.boolean(),
});

test("each epoch has every row once, in another order when shuffled", () => {
  const check = fc.property(options, (o) => {
    const cursor = new BatchCursor(o);
    for (const epoch of [0, 1]) {
      const steps = Array.from({ length: cursor.stepsPerEpoch }, () => cursor.next());
      assert.ok(steps.every((step) => step.epoch === epoch));
      const rows = steps.flatMap((step) => step.microBatches.flat());
      assert.deepEqual(
        [...rows].sort((a, b) => a - b),
        [...Array(o.rowCount).keys()],
      );
    }
  });
  fc.assert(check, { numRuns: 100 });
  const first = new BatchCursor({ ...base, rowCount: 100, batchSize: 100, shuffle: true });
  assert.notDeepEqual(first.next().microBatches, first.next().microBatches);
});

test("a saved cursor continues with the same rows, through JSON", () => {
  const check = fc.property(options, fc.nat(12), (o, done) => {
    const cursor = new BatchCursor(o);
    for (let i = 0; i < done; i++) cursor.next();
    const other = new BatchCursor(o);
    other.restore(JSON.parse(JSON.stringify(cursor.state())));
    for (let i = 0; i < 5; i++) assert.deepEqual(other.next(), cursor.next());
  });
  fc.assert(check, { numRuns: 100 });
});

test("a state of other data or settings is refused, and so are senseless sizes", () => {
  const state = new BatchCursor(base).state();
  const cursor = new BatchCursor({ ...base, rowCount: 11 });
  assert.throws(() => cursor.restore(state), {
    code: "FAILED_PRECONDITION",
    message: /rowCount: expected 11 .* got 10/,
  });
  assert.throws(() => new BatchCursor({ ...base, rowCount: 0 }), /rowCount: expected a whole number >= 1, got 0/);
  assert.throws(() => new BatchCursor({ ...base, seed: -1 }), /seed/);
});
