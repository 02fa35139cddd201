// Gradients of the reference backend against finite differences, and what the contract says about
// accumulation and aliasing, on every backend.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  type Activation,
  activationBackward,
  activationForward,
  chooseIsa,
  type Device,
  embeddingBackward,
  embeddingForward,
  isa,
  type Norm,
  normBackward,
  normForward,
  rope,
  supportedIsas,
  type Tensor,
} from "#native";
import { Bench, numbers, seeded, valuesOf } from "../test/support/tensors.ts";

const initialIsa = isa();
after(() => chooseIsa(initialIsa));

type Inputs = Record<string, Float32Array>;
/** Outputs of a forward pass and, given their gradients, the gradients of its inputs. */
type Pass = (bench: Bench, inputs: Record<string, Tensor>, dOut: (y: Tensor) => Tensor) => Record<string, Tensor>;

interface Evaluation {
  loss: number;
  grads: Inputs;
}

/** loss = sum of the outputs' values times fixed numbers. `pass` calls dOut once for each output. */
function evaluate(shapes: Record<string, number[]>, values: Inputs, pass: Pass): Evaluation {
  const bench = new Bench("reference");
  const rng = seeded(77);
  let loss = 0;
  const tensors = Object.entries(values).map(([name, v]) => [name, bench.of(v, shapes[name]!)]);
  const gradients = pass(bench, Object.fromEntries(tensors), (y) => {
    const factors = numbers(rng, y.count);
    loss += valuesOf(y).reduce((sum, v, i) => sum + v * factors[i]!, 0);
    return bench.of(factors, y.shape);
  });
  const grads = Object.fromEntries(Object.entries(gradients).map(([name, t]) => [name, valuesOf(t)]));
  bench.free();
  return { loss, grads };
}

function checkGradients(shapes: Record<string, number[]>, pass: Pass): void {
  const rng = seeded(13);
  const make = (shape: number[]) =>
    numbers(
      rng,
      shape.reduce((a, b) => a * b, 1),
    );
  const values = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, make(shape)]));
  const { grads } = evaluate(shapes, values, pass);
  const step = 1 / 128;
  for (const [name, grad] of Object.entries(grads)) {
    for (let i = 0; i < grad.length; i++) {
      const lossAt = (by: number) => {
        const moved = values[name]!.slice();
        moved[i]! += by;
        return evaluate(shapes, { ...values, [name]: moved }, pass).loss;
      };
      const slope = (lossAt(step) - lossAt(-step)) / (2 * step);
      const ok = Math.abs(slope - grad[i]!) < 1e-3 * Math.max(1, Math.abs(slope));
      if (!ok) assert.fail(`d_${name}[${i}]: finite difference ${slope}, got ${grad[i]}`);
    }
  }
}

const zeros = (bench: Bench, like: Tensor) => bench.filled(0, like.shape);

function normPass(kind: Norm): Pass {
  return (bench, t, dOut) => {
    const x = t["x"]!;
    const residual = t["residual"] ?? null;
    const layer = kind === "layer";
    const [y, sum] = [zeros(bench, x), residual ? zeros(bench, x) : null];
    const statistic = () => bench.filled(0, [x.shape[0]!]);
    const [mean, rstd] = [layer ? statistic() : null, statistic()];
    const weight = t["weight"]!;
    normForward({ kind, x, residual, weight, bias: t["bias"] ?? null, eps: 1e-3, y, sum, mean, rstd });
    const [dY, dSum] = [dOut(y), sum ? dOut(sum) : null];
    const [dS, dWeight, dBias] = [zeros(bench, x), zeros(bench, weight), layer ? zeros(bench, weight) : null];
    normBackward({ kind, dY, dSum, s: sum ?? x, weight, mean, rstd, dS, dWeight, dBias });
    return { x: dS, weight: dWeight, ...(residual ? { residual: dS } : {}), ...(dBias ? { bias: dBias } : {}) };
  };
}

function activationPass(kind: Activation): Pass {
  return (bench, t, dOut) => {
    const [g, u] = [t["g"]!, t["u"] ?? null];
    const y = zeros(bench, g);
    activationForward(kind, g, u, y);
    const [dG, dU] = [zeros(bench, g), u ? zeros(bench, u) : null];
    activationBackward(kind, { dY: dOut(y), g, u, dG, dU, y: null });
    return { g: dG, ...(dU ? { u: dU } : {}) };
  };
}

describe("gradients of the reference agree with finite differences", () => {
  const x = [3, 5];
  test("rmsnorm", () => checkGradients({ x, weight: [5] }, normPass("rms")));
  test("rmsnorm with a residual", () => checkGradients({ x, residual: x, weight: [5] }, normPass("rms")));
  test("layernorm", () => checkGradients({ x, weight: [5], bias: [5] }, normPass("layer")));
  test("layernorm with a residual", () =>
    checkGradients({ x, residual: x, weight: [5], bias: [5] }, normPass("layer")));
  for (const kind of ["silu", "gelu", "gelu_tanh", "relu"] as const) {
    test(kind, () => checkGradients({ g: [4, 6] }, activationPass(kind)));
    test(`${kind}, gated`, () => checkGradients({ g: [4, 6], u: [4, 6] }, activationPass(kind)));
  }
  test("rope", () => {
    checkGradients({ x: [3, 8] }, (bench, t, dOut) => {
      const angles = numbers(seeded(2), 10).map((v) => 3 * v);
      const at = bench.of(Float32Array.from([4, 0, 3]), [3], "int32");
      const [cos, sin] = [bench.of(angles.map(Math.cos), [5, 2]), bench.of(angles.map(Math.sin), [5, 2])];
      rope(t["x"]!, at, cos, sin);
      const dX = dOut(t["x"]!);
      rope(dX, at, cos, sin, true);
      return { x: dX };
    });
  });
  test("embedding", () => {
    checkGradients({ table: [4, 3] }, (bench, t, dOut) => {
      const ids = bench.of(Float32Array.from([2, 0, 2, 3, 2]), [5], "int32");
      const y = bench.filled(0, [5, 3]);
      embeddingForward(t["table"]!, ids, y);
      const dTable = zeros(bench, t["table"]!);
      embeddingBackward(dOut(y), ids, dTable);
      return { table: dTable };
    });
  });
});

/** The reference, then every instruction set. */
function everywhere(name: string, run: (bench: Bench) => void): void {
  const go = (device: Device) => {
    const bench = new Bench(device);
    run(bench);
    bench.free();
  };
  test(`${name}: reference`, () => go("reference"));
  for (const set of supportedIsas()) {
    test(`${name}: cpu/${set}`, () => {
      chooseIsa(set);
      go("cpu");
    });
  }
}

describe("contract", () => {
  const shape = [7, 19];
  const of = (bench: Bench, seed: number, at = shape) =>
    bench.of(
      numbers(
        seeded(seed),
        at.reduce((a, b) => a * b, 1),
      ),
      at,
    );

  everywhere("parameters' gradients accumulate", (bench) => {
    const [dY, s, weight] = [of(bench, 1), of(bench, 2), of(bench, 3, [19])];
    const [mean, rstd] = [bench.filled(0.1, [7]), bench.filled(2, [7])];
    const go = (dWeight: Tensor, dBias: Tensor) => {
      normBackward({ kind: "layer", dY, dSum: null, s, weight, mean, rstd, dS: zeros(bench, s), dWeight, dBias });
      return [valuesOf(dWeight), valuesOf(dBias)];
    };
    const fresh = go(bench.filled(0, [19]), bench.filled(0, [19]));
    const added = go(bench.filled(5, [19]), bench.filled(-5, [19]));
    for (let i = 0; i < 19; i++) {
      assert.ok(Math.abs(added[0]![i]! - fresh[0]![i]! - 5) < 2e-6);
      assert.ok(Math.abs(added[1]![i]! - fresh[1]![i]! + 5) < 2e-6);
    }
  });

  everywhere("d_s may be d_sum", (bench) => {
    const [dY, s, weight, rstd] = [of(bench, 1), of(bench, 2), of(bench, 3, [19]), bench.filled(2, [7])];
    const go = (dSum: Tensor, dS: Tensor) => {
      normBackward({ kind: "rms", dY, dSum, s, weight, mean: null, rstd, dS, dWeight: null, dBias: null });
      return valuesOf(dS);
    };
    const apart = go(of(bench, 4), zeros(bench, s));
    const shared = of(bench, 4);
    assert.deepEqual(go(shared, shared), apart);
  });

  everywhere("d_g may be g, d_u may be u, and y again may be d_y", (bench) => {
    for (const kind of ["silu", "gelu", "gelu_tanh", "relu"] as const) {
      const [dY, g, u] = [of(bench, 1), of(bench, 2), of(bench, 3)];
      const [dG, dU] = [zeros(bench, g), zeros(bench, g)];
      const y = zeros(bench, g);
      activationForward(kind, g, u, y);
      activationBackward(kind, { dY, g, u, dG, dU, y: null });
      const expected = [valuesOf(dG), valuesOf(dU), valuesOf(y)];
      activationBackward(kind, { dY, g, u, dG: g, dU: u, y: dY });
      assert.deepEqual([valuesOf(g), valuesOf(u), valuesOf(dY)], expected, kind);
    }
  });

  everywhere("a rotation and its inverse are the identity", (bench) => {
    const x = of(bench, 1, [6, 12]);
    const before = valuesOf(x);
    const angles = numbers(seeded(2), 12);
    const at = bench.of(Float32Array.from([3, 0, 1, 2, 3, 3]), [6], "int32");
    const [cos, sin] = [bench.of(angles.map(Math.cos), [4, 3]), bench.of(angles.map(Math.sin), [4, 3])];
    rope(x, at, cos, sin);
    rope(x, at, cos, sin, true);
    for (const [i, v] of valuesOf(x).entries()) assert.ok(Math.abs(v - before[i]!) < 1e-6);
  });
});
