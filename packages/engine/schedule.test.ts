import assert from "node:assert/strict";
import { test } from "node:test";
import { learningRate, schedules } from "./schedule.ts";

test("warm-up rises from 0 to the rate, for every schedule", () => {
  for (const kind of schedules) {
    const at = (step: number) => learningRate(step, { kind, lr: 2, warmupSteps: 4, steps: 12 });
    assert.deepEqual([0, 1, 2, 3, 4].map(at), [0, 0.5, 1, 1.5, 2]);
  }
});

test("the shapes after the warm-up", () => {
  const at = (kind: (typeof schedules)[number], step: number) =>
    learningRate(step, { kind, lr: 2, warmupSteps: 4, steps: 12 });
  assert.deepEqual([at("constant", 8), at("linear", 8), at("linear", 12)], [2, 1, 0]);
  assert.ok(Math.abs(at("cosine", 8) - 1) < 1e-12);
  assert.ok(Math.abs(at("cosine", 6) - (1 + Math.SQRT1_2)) < 1e-12);
  assert.equal(at("cosine", 12), 0);
});
