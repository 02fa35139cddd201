// Values on the codes' grid with little added: to the nearest code it is lost, by chance it is there on average.
import assert from "node:assert/strict";
import { test } from "node:test";
import { codeValues, quantTypes, Tensor } from "#native";
import { roundByChance } from "./round-by-chance.ts";

const at = { device: "cpu", kind: "workspace" } as const;
const blockSize = 64;

function rounded(values: Float32Array, type: (typeof quantTypes)[number], stream = 0): Float32Array {
  const t = Tensor.fromFloat32(values, [values.length], at);
  roundByChance(t, { type, blockSize, doubleQuant: false }, stream);
  const result = t.toFloat32();
  t.free();
  return result;
}

for (const type of quantTypes) {
  const codes = codeValues(type).filter((code) => Math.abs(code) <= 1);
  // Every block has a value with its constant.
  const onGrid = Float32Array.from({ length: 1000 }, (_, i) => (i % blockSize === 0 ? 1 : codes[i % codes.length]!));

  test(`${type}: what lies on the grid stays, and all that comes out lies on it`, () => {
    const constants = Float32Array.from(onGrid, (x, i) => x * (1 + Math.floor(i / blockSize)));
    const kept = rounded(constants, type);
    for (const [i, x] of kept.entries()) assert.ok(Math.abs(x - constants[i]!) <= 1e-6 * Math.abs(x), `${i}`);
    const between = onGrid.map((x, i) => (i % blockSize === 0 ? x : x * 0.97));
    for (const [i, x] of rounded(between, type).entries()) {
      assert.ok(
        codes.some((code) => Math.abs(x - code) < 1e-6),
        `${i}: ${x}`,
      );
    }
  });

  test(`${type}: a small addition is kept on average, and is drawn the same each time`, () => {
    const added = 0.01;
    const moved = onGrid.map((x, i) => (i % blockSize === 0 || x > 0.5 ? x : x + added));
    const share = moved.filter((x, i) => x !== onGrid[i]).length / moved.length;
    let sum = 0;
    const draws = 100;
    for (let stream = 0; stream < draws; stream++) {
      for (const [i, x] of rounded(moved, type, stream).entries()) sum += (x - onGrid[i]!) / moved.length / draws;
    }
    assert.ok(Math.abs(sum / (share * added) - 1) < 0.1, `${sum} of ${share * added}`);
    assert.deepEqual(rounded(moved, type, 7), rounded(moved, type, 7));
  });
}

test("a block of zeros, and a short last one", () => {
  assert.deepEqual(rounded(new Float32Array(70), "nf4"), new Float32Array(70));
});
