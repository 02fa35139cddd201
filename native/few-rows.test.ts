// Products with few rows, as in decoding: against the reference backend, and a row alone against the same row
// beside others, bit by bit.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { chooseIsa, type Device, type DType, linearForward, setThreadCount, supportedIsas } from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { Bench, numbers, seeded, valuesOf, type WeightForm } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

interface Case {
  out: number;
  in: number;
  form: WeightForm;
  activation: DType;
}

const nf4 = (dtype: DType, blockSize: number, nested: boolean): WeightForm => ({
  dtype,
  quant: { type: "nf4", blockSize, nested },
});
const forms: WeightForm[] = [
  nf4("bfloat16", 64, true),
  nf4("bfloat16", 128, false),
  nf4("bfloat16", 32, true),
  nf4("float32", 64, true),
  { dtype: "bfloat16", quant: null },
  { dtype: "float32", quant: null },
];
// Whole chunks and not, groups of 16 columns and not, blocks that begin within a row, one element.
const shapes: [number, number][] = [
  [16, 64],
  [37, 192],
  [5, 576],
  [19, 96],
  [33, 100],
  [1, 1],
  [64, 640],
];
const activations: DType[] = ["bfloat16", "float32"];
const cases: Case[] = forms.flatMap((form) =>
  shapes.flatMap(([out, inFeatures]) => activations.map((activation) => ({ out, in: inFeatures, form, activation }))),
);

const weightOf = (bench: Bench, c: Case) => bench.weight(numbers(seeded(3), c.out * c.in), c.out, c.in, c.form);

/** y of the given rows of x. */
function run(c: Case, x: Float32Array, device: Device): Float32Array {
  const bench = new Bench(device);
  const rows = x.length / c.in;
  const y = bench.filled(Number.NaN, [rows, c.out], c.activation);
  const w = weightOf(bench, c);
  linearForward({ x: bench.of(x, [rows, c.in], c.activation), w, bias: null, lora: null, h: null, y });
  const values = valuesOf(y);
  bench.free();
  return values;
}

function assertClose(got: Float32Array, want: Float32Array, c: Case, what: string): void {
  const top = want.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const rounding = c.activation === "bfloat16" ? 2 ** -7 : 0;
  for (let i = 0; i < want.length; i++) {
    const allowed = 4e-6 * top + rounding * Math.abs(want[i]!) + 1e-36;
    const ok = Math.abs(got[i]! - want[i]!) <= allowed;
    assert.ok(ok, `${what} y[${i}]: expected ${want[i]} ± ${allowed}, got ${got[i]} in ${JSON.stringify(c)}`);
  }
}

for (const name of supportedIsas()) {
  describe(`few rows, ${name}`, () => {
    test("like the reference", () => {
      chooseIsa(name);
      for (const [i, c] of cases.entries()) {
        const rows = [1, 2, 3, 4, 5, 8, 9, 16, 17, 25, 32, 33][i % 12]!;
        const x = numbers(seeded(i), rows * c.in);
        assertClose(run(c, x, "cpu"), run(c, x, "reference"), c, `${rows} rows`);
      }
    });

    test("numbers far apart, denormal ones and zeros", () => {
      chooseIsa(name);
      for (const c of cases) {
        const x = numbers(seeded(7), 3 * c.in).map((v, i) => v * [1, 2 ** -130, 0, 2 ** 40, 2 ** -40][i % 5]!);
        assertClose(run(c, x, "cpu"), run(c, x, "reference"), c, "far apart");
        const tiny = x.map((v, i) => (i % 5 === 1 ? v : 0));
        assertClose(run(c, tiny, "cpu"), run(c, tiny, "reference"), c, "denormal");
      }
    });

    test("neighbours and threads change no bit of a row", () => {
      chooseIsa(name);
      for (const c of cases) {
        // Up to 8 rows on every instruction set, see kFewRows in backends/cpu/gemm.h; more where there are products for them.
        const inPairs = name === "avx512_bf16" && c.form.dtype === "bfloat16" && c.form.quant === null;
        const inChunks = name !== "portable" && c.form === forms[0] && c.in % 64 === 0;
        const most = inPairs || inChunks ? 32 : 8;
        const x = numbers(seeded(11), most * c.in);
        setThreadCount(1);
        const alone = Array.from({ length: most }, (_, r) => run(c, x.subarray(r * c.in, (r + 1) * c.in), "cpu"));
        for (const [threads, rows] of [
          [1, 3],
          [2, 7],
          [4, most],
        ] as const) {
          setThreadCount(threads);
          const together = run(c, x.subarray(0, rows * c.in), "cpu");
          for (let r = 0; r < rows; r++) {
            assert.deepEqual(
              together.subarray(r * c.out, (r + 1) * c.out),
              alone[r],
              JSON.stringify({ ...c, r, rows }),
            );
          }
        }
      }
    });
  });
}
