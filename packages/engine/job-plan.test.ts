import assert from "node:assert/strict";
import { test } from "node:test";
import { planJob } from "./job-plan.ts";

const row = (length: number, trained: number) => ({
  inputIds: new Int32Array(length),
  labels: Int32Array.from({ length }, (_, i) => (i < length - trained ? -100 : 1)),
});
const recipe = { steps: null, epochs: 2, warmup: 0.5, batchSize: 2, gradAccum: 2, seed: 1, shuffle: false };
const rows = [row(10, 3), row(4, 2), row(20, 1), row(2, 2), row(5, 4)];

test("steps, tokens and their squares of a whole run", () => {
  const plan = planJob(recipe, rows, []);
  assert.deepEqual([plan.steps, plan.warmupSteps], [4, 2]);
  // A label of a row's first token is no prediction: row(2, 2) trains one token.
  assert.deepEqual(plan.counts, { tokens: 2 * 41, trainedTokens: 2 * 11, squares: 2 * (100 + 16 + 400 + 4 + 25) });
  const oneStep = planJob({ ...recipe, steps: 1 }, rows, []);
  assert.equal(oneStep.counts.tokens, 36);
});

test("the micro-batches with most tokens and with most trained tokens", () => {
  const plan = planJob(recipe, rows, rows.slice(0, 3));
  assert.deepEqual(plan.trained, [
    [rows[2], rows[3]],
    [rows[0], rows[1]],
  ]);
  assert.deepEqual(plan.evaluated, [[rows[2]], [rows[0], rows[1]]]);
  assert.deepEqual(planJob({ ...recipe, batchSize: 9 }, rows, []).trained, [rows]);
});
