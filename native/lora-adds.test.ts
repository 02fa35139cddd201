// Adapters on rows of a batch, all in one call: against the reference, and a row alone against the same row beside others,
// bit by bit.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { chooseIsa, type Device, type DType, type LoraAdd, loraAdds, setThreadCount, supportedIsas } from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { Bench, numbers, seeded, valuesOf } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

/** One adapter's rows, and how many have none before them. */
interface Segment {
  gap: number;
  rows: number;
  rank: number;
}

interface Case {
  seed: number;
  segments: Segment[];
  in: number;
  /** Of the layers that the adapters are on. */
  outs: number[];
  activation: DType;
  adapter: DType;
}

const dtype = fc.constantFrom<DType>("float32", "bfloat16");
const cases: fc.Arbitrary<Case> = fc.record({
  seed: fc.nat(1000),
  segments: fc.array(fc.record({ gap: fc.nat(2), rows: fc.nat(19), rank: fc.integer({ min: 1, max: 64 }) }), {
    maxLength: 6,
  }),
  in: fc.integer({ min: 1, max: 150 }),
  outs: fc.array(fc.integer({ min: 1, max: 70 }), { minLength: 1, maxLength: 3 }),
  activation: dtype,
  adapter: dtype,
});

const rowsOf = ({ segments }: Case): number => segments.reduce((sum, { gap, rows }) => sum + gap + rows, 1);

/** y of each layer: of all rows at once, or each row in a call of its own. */
function run(c: Case, device: Device, alone: boolean): Float32Array[] {
  const bench = new Bench(device);
  const rng = seeded(c.seed);
  const of = (rows: number, columns: number, as: DType) => bench.of(numbers(rng, rows * columns), [rows, columns], as);
  const rows = rowsOf(c);
  const x = of(rows, c.in, c.activation);
  const ys = c.outs.map((out) => of(rows, out, c.activation));
  const adds: LoraAdd[] = [];
  let begin = 0;
  for (const s of c.segments) {
    begin += s.gap;
    for (const [i, out] of c.outs.entries()) {
      const [a, b] = [of(s.rank, c.in, c.adapter), of(s.rank, out, c.adapter)];
      adds.push({ x, a, b, scaling: 0.5, begin, end: begin + s.rows, y: ys[i]! });
    }
    begin += s.rows;
  }
  if (!alone) loraAdds(...adds);
  for (const add of alone ? adds : []) {
    for (let row = add.begin; row < add.end; row++) loraAdds({ ...add, begin: row, end: row + 1 });
  }
  const values = ys.map(valuesOf);
  bench.free();
  return values;
}

function assertClose(got: Float32Array, want: Float32Array, c: Case): void {
  const top = want.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const rounding = c.activation === "bfloat16" ? 2 ** -7 : 0;
  for (let i = 0; i < want.length; i++) {
    const allowed = 4e-6 * top + rounding * Math.abs(want[i]!) + 1e-36;
    const off = Math.abs(got[i]! - want[i]!);
    assert.ok(off <= allowed, `y[${i}]: expected ${want[i]} ± ${allowed}, got ${got[i]} in ${JSON.stringify(c)}`);
  }
}

for (const name of supportedIsas()) {
  describe(`adapters in one call, ${name}`, () => {
    test("like the reference", () => {
      chooseIsa(name);
      const property = fc.property(cases, (c) => {
        const [got, want] = [run(c, "cpu", false), run(c, "reference", false)];
        for (const [i, values] of got.entries()) assertClose(values, want[i]!, c);
      });
      fc.assert(property, { numRuns: 60, seed: 1 });
    });

    test("neighbours and threads change no bit of a row", () => {
      chooseIsa(name);
      const property = fc.property(cases, (c) => {
        setThreadCount(1);
        const alone = run(c, "cpu", true);
        for (const threads of [1, 3]) {
          setThreadCount(threads);
          assert.deepEqual(run(c, "cpu", false), alone);
        }
      });
      fc.assert(property, { numRuns: 40, seed: 2 });
    });
  });
}
