import assert from "node:assert/strict";
import { test } from "node:test";
import { ExampleStore, TrainingSet } from "#packages/data";
import { planJob } from "./job-plan.ts";

const row = (length: number, trained: number) => ({
  inputIds: new Int32Array(length),
  labels: Int32Array.from({ length }, (_, i) => (i < length - trained ? -100 : 1)),
  weight: 1,
});
const recipe = { steps: null, epochs: 2, warmup: 0.5, batchSize: 2, gradAccum: 2, seed: 1, shuffle: false };
const rows = [row(10, 3), row(4, 2), row(20, 1), row(2, 2), row(5, 4)];
const set = TrainingSet.of(rows);
const none = TrainingSet.of([]);

test("steps, tokens and their squares of a whole run", () => {
  const plan = planJob(recipe, set, none);
  assert.deepEqual([plan.steps, plan.warmupSteps], [4, 2]);
  // A label of a row's first token is no prediction: row(2, 2) trains one token.
  assert.deepEqual(plan.counts, { tokens: 2 * 41, trainedTokens: 2 * 11, squares: 2 * (100 + 16 + 400 + 4 + 25) });
  const oneStep = planJob({ ...recipe, steps: 1 }, set, none);
  assert.equal(oneStep.counts.tokens, 36);
});

test("the micro-batches with most tokens and with most trained tokens", () => {
  const plan = planJob(recipe, set, TrainingSet.of(rows.slice(0, 3)));
  assert.deepEqual(plan.trained, [
    [rows[2], rows[3]],
    [rows[0], rows[1]],
  ]);
  assert.deepEqual(plan.evaluated, [[rows[2]], [rows[0], rows[1]]]);
  assert.deepEqual(planJob({ ...recipe, batchSize: 9 }, set, none).trained, [rows]);
});

test("packed rows are counted by sequence, and their squares by row", () => {
  const packed = TrainingSet.whole(ExampleStore.of(rows), 20);
  const plan = planJob({ ...recipe, epochs: 1, batchSize: 1, gradAccum: 1 }, packed, none);
  // 20; 10 + 5 + 4; 2 would fit behind no first-fit sequence but one of its own.
  assert.deepEqual([packed.count, plan.steps], [3, 3]);
  assert.deepEqual(plan.counts, { tokens: 41, trainedTokens: 11, squares: 100 + 16 + 400 + 4 + 25 });
  assert.deepEqual(plan.trained[0], [rows[2]]);
});
