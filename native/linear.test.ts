// Linear layers, adapters and the output layer's loss: the CPU backend, in each instruction set of this
// machine, against the reference backend; the reference against finite differences.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  chooseIsa,
  type Device,
  type Dropout,
  type DType,
  linearBackward,
  linearForward,
  loraAdds,
  noDropout,
  scaleColumns,
  setThreadCount,
  supportedIsas,
} from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { Bench, numbers, seeded, valuesOf, type WeightForm } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

interface Case {
  seed: number;
  rows: number;
  out: number;
  in: number;
  rank: number;
  weight: WeightForm;
  activation: DType;
  dropout: Dropout;
  bias: boolean;
  accumulate: boolean;
  /** Every third activation is a subnormal number. */
  subnormals?: boolean;
}

type Outputs = Record<string, Float32Array>;

/** Every output of the forward and the backward pass of one case. */
function run(c: Case, device: Device): Outputs {
  const bench = new Bench(device);
  const rng = seeded(c.seed);
  const random = (shape: number[], dtype: DType = "float32") =>
    bench.of(numbers(rng, shape[0]! * (shape[1] ?? 1)), shape, dtype);
  const inputs = numbers(rng, c.rows * c.in).map((v, i) => (c.subnormals && i % 3 === 0 ? v * 2 ** -127 : v));
  const x = bench.of(inputs, [c.rows, c.in], c.activation);
  const w = bench.weight(numbers(rng, c.out * c.in), c.out, c.in, c.weight);
  const dY = random([c.rows, c.out], c.activation);
  const a = random([c.rank, c.in]);
  const b = random([c.out, c.rank]);
  const dX = random([c.rows, c.in], c.activation);
  const [dA, dB, dW] = [random([c.rank, c.in]), random([c.out, c.rank]), random([c.out, c.in])];
  const [bias, dBias] = [random([c.out]), random([c.out])];
  const h = bench.filled(Number.NaN, [c.rows, c.rank]);
  const y = bench.filled(Number.NaN, [c.rows, c.out], c.activation);
  const adapted = c.rank > 0;
  const dense = c.weight.quant === null;
  const lora = adapted ? { a, b, scaling: 0.75, dropout: c.dropout } : null;
  linearForward({ x, w, bias: c.bias ? bias : null, lora, h: adapted ? h : null, y });
  linearBackward({
    ...{ dY, x, w, lora, h: adapted ? h : null, dX, accumulateDx: c.accumulate },
    ...{ dA: adapted ? dA : null, dB: adapted ? dB : null, dW: dense ? dW : null, dBias: c.bias ? dBias : null },
  });
  const added = random([c.rows, c.out], c.activation);
  const [begin, end] = [Math.floor(c.rows / 3), Math.ceil((c.rows * 4) / 5)];
  if (adapted) loraAdds({ x, a, b: random([c.rank, c.out]), scaling: -0.5, begin, end, y: added });
  const scaled = random([c.rows, c.out], c.activation);
  scaleColumns({ factor: dBias, bias: c.bias ? bias : null, begin, end, y: scaled });
  const tensors = { y, h, dX, dA, dB, dW, dBias, added, scaled };
  const outputs = Object.fromEntries(Object.entries(tensors).map(([name, t]) => [name, valuesOf(t)]));
  bench.free();
  return outputs;
}

/** Largest error allowed is a share of the largest value, and half a unit in the last place of the dtype. */
function close(actual: Outputs, expected: Outputs, c: Case): void {
  for (const [name, want] of Object.entries(expected)) {
    const got = actual[name]!;
    const rounded = c.activation === "bfloat16" && ["y", "dX", "added", "scaled"].includes(name);
    const top = want.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    for (let i = 0; i < want.length; i++) {
      // An adapter's h or d_h may lie on the other side of a rounding boundary.
      const adapted = c.activation === "bfloat16" && c.rank > 0 ? 2 ** -10 * top : 0;
      const allowed = 4e-6 * top + adapted + (rounded ? 2 ** -7 * Math.abs(want[i]!) : 0);
      const ok = Math.abs(got[i]! - want[i]!) <= allowed;
      if (!ok) assert.fail(`${name}[${i}]: expected ${want[i]} ± ${allowed}, got ${got[i]} in ${JSON.stringify(c)}`);
    }
  }
}

const dense = (dtype: DType): WeightForm => ({ dtype, quant: null });
const base: Case = {
  ...{ seed: 1, rows: 5, out: 24, in: 40, rank: 0, weight: dense("float32"), activation: "float32" },
  ...{ dropout: noDropout, bias: false, accumulate: false },
};

/** Cases that each meet one corner, then random ones. */
function cases(): Case[] {
  const some: Case[] = [
    base,
    { ...base, rows: 0, rank: 2 },
    { ...base, rows: 1, out: 1, in: 1, rank: 1 },
    { ...base, rows: 33, out: 67, in: 700, rank: 8, bias: true },
    { ...base, rows: 150, out: 530, in: 300, rank: 3, dropout: { p: 0.1, seed: 7, stream: 3 } },
    { ...base, rows: 40, out: 64, in: 64, rank: 300 },
    { ...base, rows: 20, out: 70, in: 130, rank: 8, subnormals: true },
    {
      ...base,
      rows: 20,
      out: 70,
      in: 130,
      rank: 8,
      subnormals: true,
      activation: "bfloat16",
      weight: dense("bfloat16"),
    },
  ];
  // Enough rows, columns and depth for products in quarters: runs of rows, an odd one; depth in one block and in several, of which
  // some are not worth it; columns in several panels.
  const trained: Case = { ...base, activation: "bfloat16", rank: 8, weight: dense("bfloat16") };
  const quant = { type: "nf4" as const, blockSize: 64, nested: true };
  some.push(
    { ...trained, rows: 96, out: 128, in: 256, weight: { dtype: "bfloat16", quant } },
    { ...trained, rows: 193, out: 192, in: 320, bias: true, accumulate: true },
    { ...trained, rows: 131, out: 320, in: 128, dropout: { p: 0.1, seed: 7, stream: 3 } },
    { ...trained, rows: 98, out: 64, in: 2048, accumulate: true, weight: { dtype: "float32", quant } },
    { ...trained, rows: 100, out: 1152, in: 64, rank: 0, weight: dense("float32") },
  );
  const rng = seeded(20240501);
  const pick = <T>(...options: T[]): T => options[Math.floor(rng() * options.length)]!;
  for (let seed = 2; seed < 90; seed++) {
    const quant = {
      type: pick("nf4", "fp4", "int4") as "nf4" | "fp4" | "int4",
      blockSize: pick(32, 64, 128, 4096),
      nested: pick(true, false),
    };
    some.push({
      seed,
      rows: pick(1, 2, 3, 4, 5, 7, 16, 29),
      out: pick(1, 5, 16, 31, 33, 96, 100),
      in: pick(1, 7, 32, 63, 64, 100, 176, 257),
      rank: pick(0, 1, 4, 8, 17),
      weight: { dtype: pick("float32", "bfloat16", "float16"), quant: pick(quant, quant, null) },
      activation: pick("float32", "bfloat16"),
      dropout: pick(noDropout, { p: 0.25, seed, stream: 5 }),
      bias: pick(true, false),
      accumulate: pick(true, false),
    });
  }
  return some;
}

describe("linear: cpu against reference", () => {
  const expected = cases().map((c) => ({ c, outputs: run(c, "reference") }));
  for (const name of supportedIsas()) {
    test(name, () => {
      chooseIsa(name);
      for (const { c, outputs } of expected) close(run(c, "cpu"), outputs, c);
    });
    test(`${name}: the number of threads changes no bit`, () => {
      chooseIsa(name);
      for (const { c } of expected.filter((_, i) => i < 6 || i % 10 === 0)) {
        const [one, ...more] = [1, 2, 4].map((threads) => {
          setThreadCount(threads);
          return run(c, "cpu");
        });
        for (const other of more) assert.deepEqual(other, one);
      }
    });
  }
});

describe("linear: cpu", () => {
  for (const name of supportedIsas()) {
    // Some models have tokens a thousand times as large as others: those beside them must not pay for it.
    test(`${name}: a huge row takes nothing from the rows beside it`, () => {
      chooseIsa(name);
      const [rows, out, width, rank] = [192, 64, 128, 4];
      const forward = (device: Device) => {
        const bench = new Bench(device);
        const rng = seeded(4);
        const values = numbers(rng, rows * width).map((v, i) => (Math.floor(i / width) === 7 ? v * 2 ** 20 : v));
        const w = bench.weight(numbers(rng, out * width), out, width, dense("float32"));
        const [a, b] = [bench.filled(0, [rank, width]), bench.filled(0, [out, rank])];
        const y = bench.filled(Number.NaN, [rows, out], "bfloat16");
        const lora = { a, b, scaling: 1, dropout: noDropout };
        linearForward({
          x: bench.of(values, [rows, width], "bfloat16"),
          w,
          bias: null,
          lora,
          h: bench.filled(0, [rows, rank]),
          y,
        });
        const got = valuesOf(y);
        bench.free();
        return got;
      };
      const [got, want] = [forward("cpu"), forward("reference")];
      const ofRow = (values: Float32Array, row: number) => values.subarray(row * out, (row + 1) * out);
      for (let row = 0; row < rows; row++) {
        const top = ofRow(want, row).reduce((m, v) => Math.max(m, Math.abs(v)), 0);
        for (const [j, v] of ofRow(want, row).entries()) {
          const off = Math.abs(ofRow(got, row)[j]! - v);
          assert.ok(off <= 2 ** -7 * Math.abs(v) + 1e-5 * top, `y[${row}, ${j}]: expected ${v}, off by ${off}`);
        }
      }
    });
    // Without an adapter, as in inference: batches of any make-up give a sequence the same words.
    test(`${name}: a row's bits do not depend on the rows beside it`, () => {
      chooseIsa(name);
      const rng = seeded(3);
      const [rows, out, width, part] = [200, 128, 256, 50];
      const bench = new Bench("cpu");
      const w = bench.weight(numbers(rng, out * width), out, width, dense("bfloat16"));
      const values = numbers(rng, rows * width);
      const forward = (from: number, count: number) => {
        const x = bench.of(values.slice(from * width, (from + count) * width), [count, width], "bfloat16");
        const y = bench.filled(Number.NaN, [count, out], "bfloat16");
        linearForward({ x, w, bias: null, lora: null, h: null, y });
        return [...valuesOf(y)];
      };
      const parts = [0, 1, 2, 3].flatMap((i) => forward(i * part, part));
      assert.deepEqual(forward(0, rows), parts);
      bench.free();
    });
  }
});

describe("linear: gradients of the reference", () => {
  test("agree with finite differences", () => {
    const c: Case = { ...base, rows: 3, out: 5, in: 6, rank: 2, dropout: { p: 0.3, seed: 11, stream: 2 } };
    const rng = seeded(5);
    const values = {
      x: numbers(rng, 18),
      w: numbers(rng, 30),
      a: numbers(rng, 12),
      b: numbers(rng, 10),
      bias: numbers(rng, 5),
    };
    const dYValues = numbers(rng, 15);
    /** sum(dY * y), and its gradients when asked for. */
    const evaluate = (v: typeof values, gradients: boolean) => {
      const bench = new Bench("reference");
      const [x, a, b] = [bench.of(v.x, [3, 6]), bench.of(v.a, [2, 6]), bench.of(v.b, [5, 2])];
      const w = bench.weight(v.w, 5, 6, dense("float32"));
      const lora = { a, b, scaling: 2, dropout: c.dropout };
      const [h, y, dY] = [bench.filled(0, [3, 2]), bench.filled(0, [3, 5]), bench.of(dYValues, [3, 5])];
      linearForward({ x, w, bias: bench.of(v.bias, [5]), lora, h, y });
      const loss = valuesOf(y).reduce((sum, value, i) => sum + value * dYValues[i]!, 0);
      const grads = {
        x: bench.filled(0, [3, 6]),
        w: bench.filled(0, [5, 6]),
        a: bench.filled(0, [2, 6]),
        b: bench.filled(0, [5, 2]),
        bias: bench.filled(0, [5]),
      };
      if (gradients) {
        const { x: dX, w: dW, a: dA, b: dB, bias: dBias } = grads;
        linearBackward({ dY, x, w, lora, h, dX, accumulateDx: false, dA, dB, dW, dBias });
      }
      const out = Object.fromEntries(Object.entries(grads).map(([name, t]) => [name, valuesOf(t)]));
      bench.free();
      return { loss, grads: out };
    };
    const { grads } = evaluate(values, true);
    for (const name of ["x", "w", "a", "b", "bias"] as const) {
      for (let i = 0; i < values[name].length; i++) {
        const step = (by: number) => {
          const moved = values[name].slice();
          moved[i]! += by;
          return evaluate({ ...values, [name]: moved }, false).loss;
        };
        const slope = (step(0.125) - step(-0.125)) / 0.25; // y is linear in each input: a large step is exact
        const got = grads[name]![i]!;
        assert.ok(Math.abs(slope - got) < 1e-4, `d_${name}[${i}]: finite difference ${slope}, got ${got}`);
      }
    }
  });
});

describe("linear: bad arguments", () => {
  const bench = new Bench("cpu");
  after(() => bench.free());
  const zeros = (...shape: number[]) => bench.filled(0, shape);
  const w = bench.weight(numbers(seeded(1), 24 * 40), 24, 40, dense("float32"));
  const quantized = bench.weight(numbers(seeded(1), 24 * 40), 24, 40, {
    dtype: "float32",
    quant: { type: "nf4", blockSize: 64, nested: false },
  });
  const good = { x: zeros(3, 40), w, bias: null, lora: null, h: null, y: zeros(3, 24) };
  const lora = { a: zeros(2, 40), b: zeros(24, 2), scaling: 1, dropout: noDropout };
  const backward = {
    ...{ dY: zeros(3, 24), x: null, w, lora: null, h: null, dX: null, accumulateDx: false },
    ...{ dA: null, dB: null, dW: null, dBias: null },
  };
  const quant = quantized.quant!;
  const wrong: [RegExp, () => void][] = [
    [/\[linear_forward\] x: expected shape \[3,40\], got \[3,41\]/, () => linearForward({ ...good, x: zeros(3, 41) })],
    [/y: expected shape \[3,24\], got \[2,24\]/, () => linearForward({ ...good, y: zeros(2, 24) })],
    [
      /y: expected dtype float32, got bfloat16/,
      () => linearForward({ ...good, y: bench.filled(0, [3, 24], "bfloat16") }),
    ],
    [/bias: expected 24 elements, got 23/, () => linearForward({ ...good, bias: zeros(23) })],
    [/h: expected a tensor \[3,2\], got none/, () => linearForward({ ...good, lora })],
    [/h: expected none without an adapter/, () => linearForward({ ...good, h: zeros(3, 2) })],
    [
      /lora.b: expected shape \[24,2\], got \[24,3\]/,
      () => linearForward({ ...good, lora: { ...lora, b: zeros(24, 3) }, h: zeros(3, 2) }),
    ],
    [
      /dropout.p: expected a number in \[0, 1\), got 1/,
      () => linearForward({ ...good, lora: { ...lora, dropout: { p: 1, seed: 0, stream: 0 } }, h: zeros(3, 2) }),
    ],
    [/w.data: expected shape \[24,39\]/, () => linearForward({ ...good, w: { ...w, in: 39 }, x: zeros(3, 39) })],
    [
      /w.absmax: expected 30 elements, got 15/,
      () => linearForward({ ...good, w: { ...quantized, quant: { ...quant, blockSize: 32 } } }),
    ],
    [
      /w.block_size: expected one of/,
      () => linearForward({ ...good, w: { ...quantized, quant: { ...quant, blockSize: 60 } } }),
    ],
    [
      /w: expected nested absmax and map/,
      () => linearForward({ ...good, w: { ...quantized, quant: { ...quant, absmax: bench.uint8(15) } } }),
    ],
    [
      /d_w: expected a dense weight/,
      () => linearBackward({ ...backward, w: quantized, x: zeros(3, 40), dW: zeros(24, 40) }),
    ],
    [/x: expected a tensor \[3,40\], got none/, () => linearBackward({ ...backward, dW: zeros(24, 40) })],
    [/d_a, d_b: expected none without an adapter/, () => linearBackward({ ...backward, dA: zeros(2, 40) })],
    [
      /rows: expected 0 <= begin <= end <= 3, got 2 and 4/,
      () => loraAdds({ x: good.x, a: lora.a, b: zeros(2, 24), scaling: 1, begin: 2, end: 4, y: good.y }),
    ],
    [
      /factor: expected 24 elements, got 23/,
      () => scaleColumns({ factor: zeros(23), bias: null, begin: 0, end: 1, y: good.y }),
    ],
    [/rows: expected 0 <= begin/, () => scaleColumns({ factor: zeros(24), bias: null, begin: 2, end: 4, y: good.y })],
  ];
  for (const [message, act] of wrong) {
    test(message.source, () => {
      assert.throws(act, (error: Error) => message.test(error.message) && "code" in error);
    });
  }

  test("tensors of two devices", () => {
    const other = new Bench("reference");
    assert.throws(() => linearForward({ ...good, y: other.filled(0, [3, 24]) }), /y: expected a tensor on cpu/);
    other.free();
  });
});
