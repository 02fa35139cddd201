// AdamW: state bytes against what bitsandbytes 0.50.2 (CPU backend, AdamW8bit, seeded gradients) wrote in six
// steps, 32-bit state against a replay in double precision; sums of squares.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  type AdamwHyper,
  type AdamwParameter,
  adamw,
  chooseIsa,
  type Device,
  type DType,
  setThreadCount,
  sumSquares,
  supportedIsas,
  type Tensor,
} from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { type GoldenTensor, readGolden } from "../test/support/safetensors-golden.ts";
import { Bench, numbers, seeded, valuesOf } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

const golden = readGolden(new URL("../test/golden/adamw8bit.safetensors", import.meta.url));
const goldenHyper = { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, gradScale: 1 };

function get(name: string): GoldenTensor {
  const t = golden.get(name);
  assert.ok(t, `golden file has no ${name}`);
  return t;
}

/** Values of a golden float32 or bfloat16 tensor. */
function floats(name: string): Float32Array {
  const { bytes, dtype } = get(name);
  if (dtype === "F32") return new Float32Array(bytes.slice().buffer);
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes.slice().buffer), (b) => b << 16).buffer);
}

function same(t: Tensor, name: string): void {
  assert.ok(Buffer.compare(t.read(), get(name).bytes) === 0, `${name}: bytes differ from bitsandbytes'`);
}

function largestDifference(actual: Float32Array, expected: Float32Array): number {
  return actual.reduce((m, v, i) => Math.max(m, Math.abs(v - expected[i]!)), 0);
}

/** Six steps of 8-bit AdamW; state after each and, for float32 parameters, the last parameters. */
function replay8(name: string, device: Device): void {
  const bench = new Bench(device);
  const start = floats(`${name}.p0`);
  const blocks = Math.ceil(start.length / 256);
  const p = bench.of(start, [start.length]);
  const [m, v] = [bench.uint8(start.length).zero(), bench.uint8(start.length).zero()];
  const [mAbsmax, vAbsmax] = [bench.filled(0, [blocks]), bench.filled(0, [blocks])];
  for (let step = 1; step <= 6; step++) {
    const g = bench.of(floats(`${name}.g${step - 1}`), [start.length]);
    adamw({ ...goldenHyper, step }, { p, g, m, v, mAbsmax, vAbsmax });
    same(m, `${name}.state1.${step}`);
    same(v, `${name}.state2.${step}`);
    same(mAbsmax, `${name}.absmax1.${step}`);
    same(vAbsmax, `${name}.absmax2.${step}`);
  }
  if (get(`${name}.p6`).dtype === "F32") {
    const difference = largestDifference(valuesOf(p), floats(`${name}.p6`));
    assert.ok(difference <= 1e-8, `${name}: parameters differ by ${difference}`);
  }
  bench.free();
}

function replay32(device: Device): void {
  const bench = new Bench(device);
  const start = floats("small_4095.p0");
  const p = bench.of(start, [start.length]);
  const [m, v] = [bench.filled(0, [start.length]), bench.filled(0, [start.length])];
  for (let step = 1; step <= 6; step++) {
    const g = bench.of(floats(`small_4095.g${step - 1}`), [start.length]);
    adamw({ ...goldenHyper, step }, { p, g, m, v, mAbsmax: null, vAbsmax: null });
  }
  // The reference rounds to float32 once a step, and otherwise than bitsandbytes.
  const allowed = device === "cpu" ? 0 : 5e-9;
  assert.ok(largestDifference(valuesOf(p), floats("small_4095.p6")) <= 1e-8 + 10 * allowed, "parameters");
  assert.ok(largestDifference(valuesOf(m), floats("small_4095.state1.6")) <= allowed, "first moments");
  assert.ok(largestDifference(valuesOf(v), floats("small_4095.state2.6")) <= allowed, "second moments");
  bench.free();
}

describe("adamw: bitsandbytes golden steps", () => {
  const check = (device: Device) => {
    replay8("p5000", device);
    replay8("p4096_bf16", device);
    replay32(device);
  };
  test("reference", () => check("reference"));
  for (const name of supportedIsas()) {
    test(`cpu/${name}`, () => {
      chooseIsa(name);
      check("cpu");
    });
  }
});

interface Doubles {
  p: Float64Array;
  m: Float64Array;
  v: Float64Array;
}

/** PyTorch's order, in double precision. */
function stepInDoubles(s: Doubles, g: Float32Array, h: AdamwHyper): void {
  for (let i = 0; i < s.p.length; i++) {
    const scaled = g[i]! * h.gradScale;
    s.m[i] = h.beta1 * s.m[i]! + (1 - h.beta1) * scaled;
    s.v[i] = h.beta2 * s.v[i]! + (1 - h.beta2) * scaled * scaled;
    const root = Math.sqrt(s.v[i]!) / Math.sqrt(1 - h.beta2 ** h.step);
    s.p[i] = s.p[i]! * (1 - h.lr * h.weightDecay) - ((h.lr / (1 - h.beta1 ** h.step)) * s.m[i]!) / (root + h.eps);
  }
}

/** Parameters after three steps of 32-bit AdamW and, on the way, of the replay. */
function threeSteps(device: Device, count: number): { p: Float32Array; expected: Float64Array } {
  const bench = new Bench(device);
  const rng = seeded(count + 1);
  const start = numbers(rng, count);
  const doubles = { p: Float64Array.from(start), m: new Float64Array(count), v: new Float64Array(count) };
  const p = bench.of(start, [count]);
  const [m, v] = [bench.filled(0, [count]), bench.filled(0, [count])];
  for (let step = 1; step <= 3; step++) {
    const g = numbers(rng, count);
    const hyper = { lr: 0.01, beta1: 0.8, beta2: 0.95, eps: 1e-6, weightDecay: 0.1, gradScale: 0.3, step };
    adamw(hyper, { p, g: bench.of(g, [count]), m, v, mAbsmax: null, vAbsmax: null });
    stepInDoubles(doubles, g, hyper);
  }
  const result = { p: valuesOf(p), expected: doubles.p };
  bench.free();
  return result;
}

describe("adamw: 32-bit state against double precision", () => {
  const counts = [0, 1, 3, 17, 256, 1000, 40001];
  const check = (device: Device) => {
    for (const count of counts) {
      const { p, expected } = threeSteps(device, count);
      for (let i = 0; i < count; i++) {
        const ok = Math.abs(p[i]! - expected[i]!) <= 4e-7;
        if (!ok) assert.fail(`${count} elements, p[${i}]: expected ${expected[i]}, got ${p[i]}`);
      }
    }
  };
  test("reference", () => check("reference"));
  for (const name of supportedIsas()) {
    test(`cpu/${name}`, () => {
      chooseIsa(name);
      check("cpu");
    });
  }
});

/** Parameters, codes and block constants after two steps of 8-bit AdamW. */
function twoSteps8(device: Device, count: number): Uint8Array[] {
  const bench = new Bench(device);
  const rng = seeded(count);
  const blocks = Math.ceil(count / 256);
  const p = bench.of(numbers(rng, count), [count]);
  const [m, v] = [bench.uint8(count).zero(), bench.uint8(count).zero()];
  const [mAbsmax, vAbsmax] = [bench.filled(0, [blocks]), bench.filled(0, [blocks])];
  for (let step = 1; step <= 2; step++) {
    const g = numbers(rng, count).map((x) => (Math.abs(x) < 0.3 ? 0 : x * 10 ** (4 * x)));
    g.fill(0, 256, 512); // a block without a gradient
    adamw({ ...goldenHyper, gradScale: 0.37, step }, { p, g: bench.of(g, [count]), m, v, mAbsmax, vAbsmax });
  }
  const bytes = [p, m, v, mAbsmax, vAbsmax].map((t) => t.read());
  bench.free();
  return bytes;
}

describe("adamw: 8-bit state", () => {
  for (const name of supportedIsas()) {
    test(`cpu/${name} has the reference's bytes, parameters included, with any number of threads`, () => {
      chooseIsa(name);
      for (const count of [0, 1, 255, 257, 600, 40003]) {
        const expected = twoSteps8("reference", count);
        for (const threads of [1, 2, 4]) {
          setThreadCount(threads);
          assert.deepEqual(twoSteps8("cpu", count), expected, `${count} elements, ${threads} threads`);
        }
      }
    });
  }
});

test("adamw of several parameters gives each the bits that it has alone, with any number of threads", () => {
  const counts = [1, 40_000, 0, 257, 16_384];
  const bench = new Bench("cpu");
  const made = () => {
    const rng = seeded(5);
    return counts.map((count) => {
      const [p, g, m] = [1, 2, 3].map(() => bench.of(numbers(rng, count), [count])) as [Tensor, Tensor, Tensor];
      return { p, g, m, v: bench.filled(0.5, [count]), mAbsmax: null, vAbsmax: null };
    });
  };
  const hyper = { ...goldenHyper, step: 2 };
  const bits = (all: ReturnType<typeof made>) => all.flatMap(({ p, m, v }) => [p, m, v].map((t) => t.read()));
  const alone = made();
  for (const one of alone) adamw(hyper, one);
  for (const threads of [1, 2, 4]) {
    setThreadCount(threads);
    const together = made();
    adamw(hyper, ...together);
    assert.deepEqual(bits(together), bits(alone), `${threads} threads`);
  }
  const [first, second] = made() as [AdamwParameter, AdamwParameter];
  const before = first.p.read();
  assert.throws(() => adamw(hyper, first, { ...second, g: first.g }), /\[adamw\] g: expected 40000 elements, got 1/);
  assert.deepEqual(first.p.read(), before, "nothing changes when a later parameter is refused");
  bench.free();
});

describe("sum of squares", () => {
  const counts = [0, 1, 15, 16, 1001, 100003];
  const dtypes: DType[] = ["float32", "bfloat16"];
  for (const name of supportedIsas()) {
    test(`cpu/${name} is that of double precision, with any number of threads`, () => {
      chooseIsa(name);
      for (const count of counts) {
        for (const dtype of dtypes) {
          const bench = new Bench("cpu");
          const x = bench.of(numbers(seeded(count), count), [count], dtype);
          const expected = valuesOf(x).reduce((sum, v) => sum + v * v, 0);
          const results = [1, 2, 4].map((threads) => {
            setThreadCount(threads);
            return sumSquares(x);
          });
          assert.equal(new Set(results).size, 1, `${count} ${dtype}: ${results}`);
          const ok = Math.abs(results[0]! - expected) <= 1e-12 * expected;
          assert.ok(ok, `${count} ${dtype}: expected ${expected}, got ${results[0]}`);
          bench.free();
        }
      }
    });
  }
});

describe("adamw: bad arguments", () => {
  const bench = new Bench("cpu");
  after(() => bench.free());
  const zeros = (count: number) => bench.filled(0, [count]);
  const [p, g] = [zeros(300), zeros(300)];
  const state = { m: zeros(300), v: zeros(300), mAbsmax: null, vAbsmax: null };
  const state8 = { m: bench.uint8(300), v: bench.uint8(300), mAbsmax: zeros(2), vAbsmax: zeros(2) };
  const hyper = { ...goldenHyper, step: 1 };
  const half = bench.filled(0, [300], "bfloat16");
  const elsewhere = new Bench("reference");
  after(() => elsewhere.free());
  const wrong: [RegExp, () => void][] = [
    [/\[adamw\] p: expected dtype float32, got bfloat16/, () => adamw(hyper, { p: half, g, ...state })],
    [/g: expected 300 elements, got 299 in shape \[299\]/, () => adamw(hyper, { p, g: zeros(299), ...state })],
    [/g: .* on cpu, got one on reference/, () => adamw(hyper, { p, g: elsewhere.filled(0, [300]), ...state })],
    [/m: expected float32 or uint8, got bfloat16/, () => adamw(hyper, { p, g, ...state, m: half })],
    [/v: expected the dtype of m, uint8, got float32/, () => adamw(hyper, { p, g, ...state8, v: state.v })],
    [/m_absmax: expected a tensor for state of uint8/, () => adamw(hyper, { p, g, ...state8, mAbsmax: null })],
    [/v_absmax: expected none for state of float32/, () => adamw(hyper, { p, g, ...state, vAbsmax: zeros(2) })],
    [/v_absmax: expected 2 elements, got 1/, () => adamw(hyper, { p, g, ...state8, vAbsmax: zeros(1) })],
    [/step: expected >= 1, got 0/, () => adamw({ ...hyper, step: 0 }, { p, g, ...state })],
    [/lr: expected a finite number >= 0, got nan/, () => adamw({ ...hyper, lr: Number.NaN }, { p, g, ...state })],
    [/beta1: expected 0 <= beta1 < 1, got 1/, () => adamw({ ...hyper, beta1: 1 }, { p, g, ...state })],
    [/beta2: expected 0 <= beta2 < 1, got -0.5/, () => adamw({ ...hyper, beta2: -0.5 }, { p, g, ...state })],
    [/eps: expected a finite number >= 0, got -1/, () => adamw({ ...hyper, eps: -1 }, { p, g, ...state })],
    [/weight_decay: expected .* got -1/, () => adamw({ ...hyper, weightDecay: -1 }, { p, g, ...state })],
    [
      /grad_scale: expected a finite number, got inf/,
      () => adamw({ ...hyper, gradScale: Infinity }, { p, g, ...state }),
    ],
    [/\[sum_squares\] x: expected float32 or bfloat16, got uint8/, () => sumSquares(bench.uint8(4))],
  ];
  for (const [message, call] of wrong) {
    test(`${message}`, () => assert.throws(call, { code: "INVALID_ARGUMENT", message }));
  }
});
