import assert from "node:assert/strict";
import { test } from "node:test";
import { packExamples } from "./batch.ts";

const ids = (...values: number[]) => Int32Array.from(values);

test("documents are laid end to end; labels move one to the left within each", () => {
  const batch = packExamples([
    { inputIds: ids(5, 6, 7), labels: ids(-100, 6, 7) },
    { inputIds: ids(8, 9), labels: ids(8, 9) },
  ]);
  assert.deepEqual([...batch.ids], [5, 6, 7, 8, 9]);
  // The label of a document's first token has nothing before it: it trains nothing, not its neighbour.
  assert.deepEqual([...batch.labels], [6, 7, -100, 9, -100]);
  assert.deepEqual([...batch.positions], [0, 1, 2, 0, 1]);
  assert.deepEqual([...batch.starts], [0, 3, 5]);
  assert.equal(batch.trainedTokens, 3);
  assert.equal(batch.weights, null);
});

test("rows of several weights are one batch, each token with its row's weight", () => {
  const batch = packExamples([
    { inputIds: ids(5, 6, 7), labels: ids(-100, 6, 7), weight: 0.5 },
    { inputIds: ids(8, 9), labels: ids(8, 9) },
    { inputIds: ids(3), labels: null, weight: 7 },
  ]);
  assert.deepEqual([...batch.weights!], [0.5, 0.5, 0.5, 1, 1, 7]);
  assert.equal(batch.trainedTokens, 3);
  assert.equal(batch.weightSum, 2 * 0.5 + 1);
});

test("labels of another length are refused", () => {
  assert.throws(() => packExamples([{ inputIds: ids(1, 2), labels: ids(1) }]), /expected 2 as there are tokens, got 1/);
});
