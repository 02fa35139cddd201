// The output layer and its loss: the CPU backend, in each instruction set of this machine, against the
// reference backend; the reference against finite differences.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { chooseIsa, type Device, type DType, linearCrossEntropy, setThreadCount, supportedIsas } from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { Bench, numbers, seeded, valuesOf, type WeightForm } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

interface Case {
  rows: number;
  vocabulary: number;
  width: number;
  form: WeightForm;
  dtype: DType;
  /** Share of the rows that have a label. */
  labelled: number;
  gradients: boolean;
  /** Rows count with weights from 0 to 3. */
  weighted?: boolean;
  /** Labels are all but certain: the label's own gradient is then a small difference. */
  certain?: boolean;
}

const dense: WeightForm = { dtype: "float32", quant: null };
const nf4: WeightForm = { dtype: "bfloat16", quant: { type: "nf4", blockSize: 64, nested: true } };
const base: Case = {
  ...{ rows: 6, vocabulary: 50, width: 24, form: dense, dtype: "float32", labelled: 0.7, gradients: true },
};
const cases: Case[] = [
  base,
  { ...base, rows: 0 },
  { ...base, rows: 1, vocabulary: 1, width: 1, labelled: 1 },
  { ...base, labelled: 0 },
  { ...base, gradients: false },
  { ...base, weighted: true },
  { ...base, weighted: true, gradients: false },
  { ...base, rows: 90, vocabulary: 517, width: 130, weighted: true, dtype: "bfloat16", form: nf4 },
  { ...base, dtype: "bfloat16", form: { dtype: "bfloat16", quant: null } },
  { ...base, rows: 37, vocabulary: 333, width: 175, form: nf4, dtype: "bfloat16", labelled: 0.4 },
  { ...base, rows: 90, vocabulary: 517, width: 130, labelled: 0.9 },
  { ...base, rows: 70, vocabulary: 70_001, width: 8, labelled: 1 }, // more than one part of d_w
  { ...base, rows: 300, vocabulary: 2100, width: 40, labelled: 1, dtype: "bfloat16", form: nf4 }, // several blocks and tasks
  // Products in quarters, but for the last block: runs of rows, and an odd one.
  { ...base, rows: 211, vocabulary: 1100, width: 128, labelled: 1, dtype: "bfloat16", form: nf4 },
  { ...base, rows: 260, vocabulary: 600, width: 192, weighted: true, dtype: "bfloat16", form: nf4 },
  {
    ...base,
    rows: 9,
    vocabulary: 600,
    width: 32,
    labelled: 1,
    dtype: "bfloat16",
    form: { dtype: "bfloat16", quant: null },
    certain: true,
  },
];

/** 0, 0.75, 1.5, 2.25, 3, 0, … */
const fiveWeights = (row: number) => (row % 5) * 0.75;

function run(c: Case, device: Device, weightOf = fiveWeights): Record<string, Float32Array> {
  const bench = new Bench(device);
  const rng = seeded(c.rows + c.width);
  const inputs = numbers(rng, c.rows * c.width);
  const values = numbers(rng, c.vocabulary * c.width).map((v) => v * 4);
  const w = bench.weight(values, c.vocabulary, c.width, c.form);
  // Row i is a multiple of word i's vector: x.w is then some 13 for it, and some 2 for others.
  if (c.certain) for (let i = 0; i < inputs.length; i++) inputs[i] = values[i]! * 0.1;
  const x = bench.of(inputs, [c.rows, c.width], c.dtype);
  const label = () => (rng() < c.labelled ? Math.floor(rng() * c.vocabulary) : -100);
  const labels = bench.of(Float32Array.from({ length: c.rows }, c.certain ? (_, i) => i : label), [c.rows], "int32");
  const weights = c.weighted
    ? bench.of(
        Float32Array.from({ length: c.rows }, (_, i) => weightOf(i)),
        [c.rows],
      )
    : null;
  const loss = bench.filled(Number.NaN, [c.rows]);
  const dX = bench.filled(Number.NaN, [c.rows, c.width], c.dtype);
  const dW = bench.filled(0.5, [c.vocabulary, c.width]);
  const trained = c.form.quant === null && c.gradients;
  const gradients = { dX: c.gradients ? dX : null, dW: trained ? dW : null };
  linearCrossEntropy({ x, w, labels, weights, scale: 0.25, loss, ...gradients });
  const outputs = { loss: valuesOf(loss), dX: c.gradients ? valuesOf(dX) : new Float32Array(), dW: valuesOf(dW) };
  bench.free();
  return outputs;
}

function close(got: Record<string, Float32Array>, want: Record<string, Float32Array>, c: Case): void {
  for (const [name, expected] of Object.entries(want)) {
    const top = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    for (let i = 0; i < expected.length; i++) {
      // With bfloat16, a logit's gradient may lie on the other side of a rounding boundary, and the softmax's weights
      // are rounded as operands of d_x.
      const weights = name === "dX" ? 2 ** -8 * top : 1e-4 * top;
      const rounded = name !== "loss" && c.dtype === "bfloat16" ? 2 ** -7 * Math.abs(expected[i]!) + weights : 0;
      const ofLogits = c.certain ? 2e-6 : 0; // units in the last place of logits of some 20
      const allowed = 2e-5 * top + rounded + ofLogits; // sums of 70,001 terms in float32
      const ok = Math.abs(got[name]![i]! - expected[i]!) <= allowed;
      if (!ok) assert.fail(`${name}[${i}]: expected ${expected[i]}, got ${got[name]![i]} in ${JSON.stringify(c)}`);
    }
  }
}

describe("linear_cross_entropy: cpu against reference", () => {
  const expected = cases.map((c) => run(c, "reference"));
  for (const name of supportedIsas()) {
    test(name, () => {
      chooseIsa(name);
      for (const [i, c] of cases.entries()) close(run(c, "cpu"), expected[i]!, c);
    });
    test(`${name}: the number of threads changes no bit`, () => {
      chooseIsa(name);
      for (const c of cases) {
        const [one, ...more] = [1, 2, 4].map((threads) => {
          setThreadCount(threads);
          return run(c, "cpu");
        });
        for (const other of more) assert.deepEqual(other, one);
      }
    });
  }
});

test("linear_cross_entropy: gradients of the reference agree with finite differences", () => {
  const rng = seeded(9);
  const start = { x: numbers(rng, 8), w: numbers(rng, 20) };
  const evaluate = (values: typeof start) => {
    const bench = new Bench("reference");
    const loss = bench.filled(0, [2]);
    const [dX, dW] = [bench.filled(0, [2, 4]), bench.filled(0, [5, 4])];
    const w = bench.weight(values.w, 5, 4, dense);
    const labels = bench.of(new Float32Array([3, 0]), [2], "int32");
    const weights = bench.of(new Float32Array([0.5, 2]), [2]);
    linearCrossEntropy({ x: bench.of(values.x, [2, 4]), w, labels, weights, scale: 0.5, loss, dX, dW });
    const total = 0.5 * (valuesOf(loss)[0]! + valuesOf(loss)[1]!);
    const grads = { x: valuesOf(dX), w: valuesOf(dW) };
    bench.free();
    return { total, grads };
  };
  const { grads } = evaluate(start);
  for (const name of ["x", "w"] as const) {
    for (let i = 0; i < start[name].length; i++) {
      const at = (by: number) => {
        const moved = start[name].slice();
        moved[i]! += by;
        return evaluate({ ...start, [name]: moved }).total;
      };
      const slope = (at(0.01) - at(-0.01)) / 0.02;
      assert.ok(Math.abs(slope - grads[name][i]!) < 1e-3, `d_${name}[${i}]: ${slope}, got ${grads[name][i]}`);
    }
  }
});

test("linear_cross_entropy: a label beyond the vocabulary is refused by row", () => {
  const bench = new Bench("cpu");
  const w = bench.weight(numbers(seeded(1), 20), 5, 4, dense);
  const labels = bench.of(new Float32Array([3, 5]), [2], "int32");
  const outputs = { loss: bench.filled(0, [2]), dX: null, dW: null };
  const args = { x: bench.filled(0, [2, 4]), w, labels, weights: null, scale: 1, ...outputs };
  assert.throws(() => linearCrossEntropy(args), /labels: expected below 5, got 5 in row 1/);
  bench.free();
});

test("linear_cross_entropy: weights of 1 change no bit; a weight is the row's share of loss and gradients", () => {
  const c: Case = { ...base, rows: 30, labelled: 1 };
  const plain = run(c, "cpu");
  const weighted = run({ ...c, weighted: true }, "cpu");
  for (let i = 0; i < c.rows; i++) {
    const weight = fiveWeights(i);
    const about = (got: number, want: number) => assert.ok(Math.abs(got - weight * want) < 1e-5, `row ${i}`);
    about(weighted["loss"]![i]!, plain["loss"]![i]!);
    for (let j = i * c.width; j < (i + 1) * c.width; j++) about(weighted["dX"]![j]!, plain["dX"]![j]!);
  }
  assert.deepEqual(
    run({ ...c, weighted: true }, "cpu", () => 1),
    plain,
  );
});

test("linear_cross_entropy: weights that are no weights are refused by row; so are too few", () => {
  const bench = new Bench("cpu");
  const w = bench.weight(numbers(seeded(1), 20), 5, 4, dense);
  const labels = bench.of(new Float32Array([3, 4]), [2], "int32");
  const args = { x: bench.filled(0, [2, 4]), w, labels, scale: 1, loss: bench.filled(0, [2]), dX: null, dW: null };
  const withWeights = (...values: number[]) => {
    linearCrossEntropy({ ...args, weights: bench.of(new Float32Array(values), [values.length]) });
  };
  for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => withWeights(1, bad), /weights: expected a finite number from 0, got .* in row 1/);
  }
  assert.throws(() => withWeights(1), /weights: expected 2/);
  bench.free();
});
