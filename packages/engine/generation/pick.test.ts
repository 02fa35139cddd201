import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Tensor } from "#native";
import { NibbleError } from "#packages/errors";
import { likeliest, logSumExp, pick } from "./pick.ts";
import type { GenerationRequest } from "./sequence.ts";

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

const whole: GenerationRequest = {
  ...{ inputIds: [0], maxNewTokens: 99, sampling: greedy, adapter: null, stopIds: [], wantLogits: false },
};

function picked(values: number[], answer: number[], request: Partial<GenerationRequest>) {
  const logits = Tensor.fromBytes(
    new Uint8Array(Float32Array.from([...values.map(() => 0), ...values]).buffer),
    "float32",
    [2, values.length],
    { device: "cpu", kind: "activations" },
  );
  try {
    const ids = [...whole.inputIds, ...answer];
    const [token] = pick([{ from: { logits, row: 1 }, request: { ...whole, ...request }, ids }]);
    if (token === undefined || token instanceof NibbleError) throw token;
    return token;
  } finally {
    logits.free();
  }
}

test("a frequency penalty counts, a presence penalty does not, and neither looks at the prompt", () => {
  const values = [5, 4.5, 4, 0];
  assert.equal(picked(values, [], { frequencyPenalty: 2 }).id, 0);
  assert.equal(picked(values, [0], { frequencyPenalty: 0.6 }).id, 1);
  assert.equal(picked(values, [0, 1], { frequencyPenalty: 0.4 }).id, 0);
  assert.equal(picked(values, [0, 0, 1], { frequencyPenalty: 0.4 }).id, 0);
  assert.equal(picked(values, [0, 0, 1], { frequencyPenalty: 0.6 }).id, 2);
  assert.equal(picked(values, [0, 0, 0], { presencePenalty: 0.4 }).id, 0);
  assert.equal(picked(values, [0], { presencePenalty: 0.6 }).id, 1);
  assert.equal(picked(values, [3], { presencePenalty: -6 }).id, 3);
});

test("log-probabilities are the model's, whatever is penalized or forbidden", () => {
  const values = [2, 1, 0, -1];
  const plain = picked(values, [], {});
  const constraint = { mask: Int32Array.of(0b1100), isReady: true, accept: () => {}, ready: async () => {} };
  const forced = picked(values, [2], { constraint, presencePenalty: 3, topLogprobs: 2 });
  assert.equal(forced.id, 3);
  const total = Math.log(values.reduce((sum, v) => sum + Math.exp(v), 0));
  assert.ok(Math.abs(plain.logprob - (2 - total)) < 1e-6);
  assert.ok(Math.abs(forced.logprob - (-1 - total)) < 1e-6);
  assert.deepEqual(
    forced.top.map(({ id }) => id),
    [0, 1],
  );
  assert.ok(Math.abs(forced.top[1]!.logprob - (1 - total)) < 1e-6);
});

test("a draw that fails leaves the others their tokens", () => {
  const bytes = new Uint8Array(Float32Array.from([0, Number.NaN, 1, 0]).buffer);
  const logits = Tensor.fromBytes(bytes, "float32", [2, 2], { device: "cpu", kind: "activations" });
  const broken = {
    get mask(): Int32Array {
      throw new RangeError("no mask");
    },
    isReady: true,
    accept: () => {},
    ready: async () => {},
  };
  const draw = (row: number, request: Partial<GenerationRequest> = {}) => ({
    ...{ from: { logits, row }, request: { ...whole, ...request }, ids: [0] },
  });
  const drawn = pick([draw(0), draw(1), draw(1, { constraint: broken })]);
  logits.free();
  const said = drawn.map((one) => (one instanceof NibbleError ? one.message : one.id));
  assert.match(String(said[0]), /finite numbers/);
  assert.equal(said[1], 0);
  assert.match(String(said[2]), /no mask/);
});

test("the likeliest are those of a sort", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 1, maxLength: 40 }), fc.nat(12), (list, k) => {
      const values = Float32Array.from(list);
      const sorted = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b).slice(0, k);
      const total = logSumExp(values);
      const best = likeliest(values, k, total);
      assert.deepEqual(
        best.map(({ id }) => id),
        sorted,
      );
      for (const { id, logprob } of best) assert.ok(Math.abs(logprob - (values[id]! - total)) < 1e-9);
    }),
  );
});
