// What norms, rope, activations, embedding and helpers refuse, and how they say it.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  activationBackward,
  activationForward,
  add,
  convert,
  embeddingBackward,
  embeddingForward,
  normalFill,
  normBackward,
  normForward,
  rope,
  scale,
  uniformFill,
} from "#native";
import { Bench } from "../test/support/tensors.ts";

const bench = new Bench("cpu");
const elsewhere = new Bench("reference");
after(() => {
  bench.free();
  elsewhere.free();
});
const zeros = (...shape: number[]) => bench.filled(0, shape);
const bf16 = (...shape: number[]) => bench.filled(0, shape, "bfloat16");
const f16 = (...shape: number[]) => bench.filled(0, shape, "float16");
const ids = (...values: number[]) => bench.of(Float32Array.from(values), [values.length], "int32");
const x = zeros(3, 8);

function refuses(cases: [RegExp, () => void][]): void {
  for (const [message, call] of cases) {
    test(`${message}`, () => assert.throws(call, { code: "INVALID_ARGUMENT", message }));
  }
}

describe("norm_forward", () => {
  const good = {
    ...{ kind: "rms" as const, x, residual: null, weight: zeros(8), bias: null, eps: 1e-6 },
    ...{ y: zeros(3, 8), sum: null, mean: null, rstd: zeros(3) },
  };
  const layer = { ...good, kind: "layer" as const, mean: zeros(3), bias: zeros(8) };
  test("takes the good ones", () => {
    normForward(good);
    normForward(layer);
    normForward({ ...layer, bias: null });
  });
  refuses([
    [
      /\[norm_forward\] x: expected shape \[N,C\] with C >= 1, got \[24\]/,
      () => normForward({ ...good, x: zeros(24) }),
    ],
    [/x: expected float32 or bfloat16, got float16/, () => normForward({ ...good, x: f16(3, 8) })],
    [/weight: expected 8 elements, got 7/, () => normForward({ ...good, weight: zeros(7) })],
    [/weight: expected dtype float32, got bfloat16/, () => normForward({ ...good, weight: bf16(8) })],
    [/eps: expected a finite number >= 0, got -1/, () => normForward({ ...good, eps: -1 })],
    [/y: expected the shape of x, \[3,8\], got \[3,9\]/, () => normForward({ ...good, y: zeros(3, 9) })],
    [/y: expected the dtype of x, float32, got bfloat16/, () => normForward({ ...good, y: bf16(3, 8) })],
    [/y: .* on cpu, got one on reference/, () => normForward({ ...good, y: elsewhere.filled(0, [3, 8]) })],
    [/residual: expected the shape of x/, () => normForward({ ...good, residual: zeros(2, 8), sum: x })],
    [/sum: expected a tensor, because residual is given/, () => normForward({ ...good, residual: zeros(3, 8) })],
    [/rstd: expected 3 elements, got 4/, () => normForward({ ...good, rstd: zeros(4) })],
    [/mean: expected 3 elements, got 2/, () => normForward({ ...layer, mean: zeros(2) })],
    [/mean: expected 3 elements/, () => normForward({ ...layer, mean: null })],
    [/bias: expected 8 elements, got 1/, () => normForward({ ...layer, bias: zeros(1) })],
    [/bias: expected none, because rmsnorm has no bias/, () => normForward({ ...good, bias: zeros(8) })],
  ]);
});

describe("norm_backward", () => {
  const good = {
    ...{ kind: "rms" as const, dY: zeros(3, 8), dSum: null, s: x, weight: zeros(8), mean: null, rstd: zeros(3) },
    ...{ dS: zeros(3, 8), dWeight: null, dBias: null },
  };
  test("takes the good one", () => normBackward(good));
  refuses([
    [/\[norm_backward\] d_y: expected the shape of s/, () => normBackward({ ...good, dY: zeros(2, 8) })],
    [/d_sum: expected the dtype of s/, () => normBackward({ ...good, dSum: bf16(3, 8) })],
    [/d_s: expected the shape of s/, () => normBackward({ ...good, dS: zeros(8, 3) })],
    [/d_weight: expected 8 elements, got 3/, () => normBackward({ ...good, dWeight: zeros(3) })],
    [/d_bias: expected none/, () => normBackward({ ...good, dBias: zeros(8) })],
    [/mean: expected 3 elements/, () => normBackward({ ...good, kind: "layer" })],
    [/rstd: expected 3 elements, got 1/, () => normBackward({ ...good, rstd: zeros(1) })],
  ]);
});

describe("rope", () => {
  const [cos, sin] = [zeros(5, 2), zeros(5, 2)];
  test("takes the good one", () => rope(x, ids(0, 4, 2), cos, sin));
  refuses([
    [/\[rope\] positions: expected values in \[0,5\), got 5 at index 2/, () => rope(x, ids(0, 1, 5), cos, sin)],
    [/positions: .* got -1 at index 0/, () => rope(x, ids(-1, 1, 2), cos, sin)],
    [/positions: expected 3 elements, got 2/, () => rope(x, ids(0, 1), cos, sin)],
    [/positions: expected dtype int32, got float32/, () => rope(x, zeros(3), cos, sin)],
    [/sin: expected the shape of cos/, () => rope(x, ids(0, 1, 2), cos, zeros(2, 5))],
    [/x: expected rows of heads of 6 .* got shape \[3,8\]/, () => rope(x, ids(0, 1, 2), zeros(5, 3), zeros(5, 3))],
    [/x: expected shape \[N,heads\*D\]/, () => rope(zeros(8), ids(0), cos, sin)],
  ]);
});

describe("activations", () => {
  const backward = { dY: zeros(3, 8), g: x, u: null, dG: zeros(3, 8), dU: null, y: null };
  test("takes the good ones", () => {
    activationForward("silu", x, null, zeros(3, 8));
    activationBackward("gelu", backward);
  });
  refuses([
    [/\[activation_forward\] u: expected the shape of g/, () => activationForward("silu", x, zeros(3, 7), x)],
    [/y: expected the dtype of g/, () => activationForward("silu", x, null, bf16(3, 8))],
    [/g: expected float32 or bfloat16, got float16/, () => activationForward("silu", f16(3, 8), null, x)],
    [/d_u: expected none, without u/, () => activationBackward("silu", { ...backward, dU: zeros(3, 8) })],
    [/d_u: expected a tensor, because u is given/, () => activationBackward("silu", { ...backward, u: zeros(3, 8) })],
    [/\] y: expected the shape of g/, () => activationBackward("silu", { ...backward, y: zeros(8, 3) })],
    [/d_y: expected the shape of g/, () => activationBackward("silu", { ...backward, dY: zeros(8, 3) })],
  ]);
});

describe("embedding", () => {
  const table = zeros(4, 8);
  test("takes the good ones", () => {
    embeddingForward(table, ids(0, 3, 3), x);
    embeddingBackward(x, ids(0, 3, 3), table);
  });
  refuses([
    [/\[embedding_forward\] ids: expected values in \[0,4\), got 4/, () => embeddingForward(table, ids(0, 1, 4), x)],
    [/ids: .* got -2 at index 1/, () => embeddingBackward(x, ids(0, -2, 1), table)],
    [/y: expected shape \[2,8\], got \[3,8\]/, () => embeddingForward(table, ids(0, 1), x)],
    [/table: expected shape \[V,C\], got \[4\]/, () => embeddingForward(zeros(4), ids(0, 1, 2), x)],
    [/y: expected float32 or bfloat16, got float16/, () => embeddingForward(table, ids(0, 1, 2), f16(3, 8))],
    [/\[embedding_backward\] d_table: .* got float16/, () => embeddingBackward(x, ids(0, 1, 2), f16(4, 8))],
    [/ids: expected dtype int32/, () => embeddingForward(table, zeros(3), x)],
  ]);
});

describe("helpers", () => {
  const y = zeros(24);
  refuses([
    [/\[add\] y: expected 24 elements, got 23/, () => add(x, zeros(23))],
    [/y: expected the dtype of x or float32, got bfloat16/, () => add(x, bf16(24))],
    [/\[scale\] y: expected float32 or bfloat16, got int32/, () => scale(ids(1), 2)],
    [/\[convert\] y: expected 24 elements/, () => convert(x, bf16(3))],
    [/x: expected float32, bfloat16 or float16, got int32/, () => convert(ids(1), zeros(1))],
    [
      /\[random_fill\] low: expected at most high, 1, got 2/,
      () => uniformFill(y, { low: 2, high: 1, seed: 0, stream: 0 }),
    ],
    [/std: expected >= 0, got -1/, () => normalFill(y, { mean: 0, std: -1, seed: 0, stream: 0 })],
    [/mean, std: expected finite numbers/, () => normalFill(y, { mean: Number.NaN, std: 1, seed: 0, stream: 0 })],
    [/y: expected dtype float32, got bfloat16/, () => uniformFill(bf16(3), { low: 0, high: 1, seed: 0, stream: 0 })],
  ]);
  test("uniform numbers begin with Random123's known answer for counter and key 0", () => {
    const four = zeros(5);
    uniformFill(four, { low: 0, high: 1, seed: 0, stream: 0 });
    const words = [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8];
    assert.deepEqual(
      [...four.toFloat32().slice(0, 4)],
      words.map((w) => (w >>> 8) * 2 ** -24),
    );
  });
  test("normal numbers have their mean and spread", () => {
    const many = zeros(20000);
    normalFill(many, { mean: 3, std: 0.5, seed: 5, stream: 1 });
    const values = [...many.toFloat32()];
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
    assert.ok(Math.abs(mean - 3) < 0.02, `mean ${mean}`);
    assert.ok(Math.abs(deviation - 0.5) < 0.01, `standard deviation ${deviation}`);
    const beyond = values.filter((v) => Math.abs(v - 3) > 1).length / values.length;
    assert.ok(Math.abs(beyond - 0.0455) < 0.006, `share beyond two deviations ${beyond}`);
  });
});
