// Norms, rope, activations, embedding and helpers: every CPU instruction set of this machine against the
// reference backend; the reference against finite differences in layers-gradients.test.ts.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  type Activation,
  activationBackward,
  activationForward,
  add,
  chooseIsa,
  convert,
  type Device,
  type DType,
  embeddingBackward,
  embeddingForward,
  type Norm,
  normalFill,
  normBackward,
  normForward,
  rope,
  scale,
  setThreadCount,
  supportedIsas,
  uniformFill,
} from "#native";
import { restoreRuntimeAfterTests } from "../test/support/runtime.ts";
import { Bench, numbers, seeded, valuesOf } from "../test/support/tensors.ts";

restoreRuntimeAfterTests();

type Outputs = Record<string, Float32Array>;
/** Runs an op, or forward and backward of one, and hands out what it wrote. */
interface Case {
  name: string;
  dtype: DType;
  /** Allowed error as a share of the largest value of an output. */
  tolerance: number;
  /** Output that is a difference of larger numbers, and their size. */
  differences?: (outputs: Outputs) => Record<string, number>;
  run: (bench: Bench) => Outputs;
}

const rng = seeded(20240502);
const pick = <T>(...options: T[]): T => options[Math.floor(rng() * options.length)]!;
const activationTypes: DType[] = ["float32", "bfloat16"];
const read = (tensors: Record<string, Parameters<typeof valuesOf>[0] | null>): Outputs =>
  Object.fromEntries(Object.entries(tensors).flatMap(([name, t]) => (t ? [[name, valuesOf(t)]] : [])));

/** Mostly ordinary numbers, with zeros, denormals and large ones among them. */
function mixed(random: () => number, count: number, size = 4): Float32Array {
  const rare = [0, -0, 1e-40, -3e-39, 1e-20, 30, -30];
  return Float32Array.from({ length: count }, () => {
    const r = random();
    return r < 0.05 ? rare[Math.floor(random() * rare.length)]! : (random() * 2 - 1) * size;
  });
}

const largest = (values: Float32Array) => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);

function normCase(kind: Norm, rows: number, columns: number, dtype: DType, withResidual: boolean): Case {
  const seed = Math.floor(rng() * 1e9);
  const run = (bench: Bench): Outputs => {
    const random = seeded(seed);
    const shape = [rows, columns];
    const of = () => bench.of(mixed(random, rows * columns), shape, dtype);
    const parameter = () => bench.of(numbers(random, columns), [columns]);
    const out = () => bench.filled(Number.NaN, shape, dtype);
    const layer = kind === "layer";
    const [x, residual, dY, dSum] = [of(), withResidual ? of() : null, of(), withResidual ? of() : null];
    const [weight, bias, dWeight, dBias] = [parameter(), parameter(), parameter(), parameter()];
    const [y, sum, dS] = [out(), withResidual ? out() : null, out()];
    const statistic = () => bench.filled(Number.NaN, [rows]);
    const [mean, rstd] = [layer ? statistic() : null, statistic()];
    normForward({ kind, x, residual, weight, bias: layer ? bias : null, eps: 1e-5, y, sum, mean, rstd });
    normBackward({
      ...{ kind, dY, dSum, s: sum ?? x, weight, mean, rstd, dS, dWeight },
      dBias: layer ? dBias : null,
    });
    return read({ y, sum, mean, rstd, dS, dWeight, dBias });
  };
  const name = `${kind}norm ${rows}x${columns} ${dtype} residual=${withResidual}`;
  const differences = (outputs: Outputs) => ({ dS: 30 * largest(outputs["rstd"]!) });
  return { name, dtype, tolerance: 3e-6, differences, run };
}

function ropeCase(rows: number, heads: number, half: number, dtype: DType): Case {
  const seed = Math.floor(rng() * 1e9);
  const run = (bench: Bench): Outputs => {
    const random = seeded(seed);
    const of = () => bench.of(mixed(random, rows * heads * half * 2), [rows, heads * half * 2], dtype);
    const [x, d] = [of(), of()];
    const positions = Float32Array.from({ length: rows }, () => Math.floor(random() * 50));
    const angles = Float32Array.from({ length: 50 * half }, () => random() * 7);
    const at = bench.of(positions, [rows], "int32");
    const [cos, sin] = [bench.of(angles.map(Math.cos), [50, half]), bench.of(angles.map(Math.sin), [50, half])];
    rope(x, at, cos, sin);
    rope(d, at, cos, sin, true);
    return read({ x, d });
  };
  return { name: `rope ${rows}x${heads}x${half * 2} ${dtype}`, dtype, tolerance: 3e-7, run };
}

function activationCase(kind: Activation, rows: number, columns: number, dtype: DType, gated: boolean): Case {
  const seed = Math.floor(rng() * 1e9);
  const run = (bench: Bench): Outputs => {
    const random = seeded(seed);
    const shape = [rows, columns];
    const of = () => bench.of(mixed(random, rows * columns, 12), shape, dtype);
    const [g, u, dY] = [of(), gated ? of() : null, of()];
    const out = () => bench.filled(Number.NaN, shape, dtype);
    const [y, dG, dU, again] = [out(), out(), gated ? out() : null, out()];
    activationForward(kind, g, u, y);
    activationBackward(kind, { dY, g, u, dG, dU, y: again });
    return read({ y, dG, dU, again });
  };
  const name = `${kind} ${rows}x${columns} ${dtype} gated=${gated}`;
  const differences = () => ({ y: 1, dG: 1, dU: 1, again: 1 }); // far left, what is tiny has a larger share of error
  return { name, dtype, tolerance: 1e-6, differences, run };
}

function embeddingCase(rows: number, vocabulary: number, columns: number, table: DType, dtype: DType): Case {
  const seed = Math.floor(rng() * 1e9);
  const run = (bench: Bench): Outputs => {
    const random = seeded(seed);
    const weights = bench.of(numbers(random, vocabulary * columns), [vocabulary, columns], table);
    const values = Float32Array.from({ length: rows }, () => Math.floor(random() * vocabulary));
    const ids = bench.of(values, [rows], "int32");
    const dY = bench.of(numbers(random, rows * columns), [rows, columns], dtype);
    const y = bench.filled(Number.NaN, [rows, columns], dtype);
    const gradients = numbers(random, vocabulary * columns);
    const dTable = bench.of(gradients, [vocabulary, columns]);
    embeddingForward(weights, ids, y);
    embeddingBackward(dY, ids, dTable);
    return read({ y, dTable });
  };
  return { name: `embedding ${rows} of ${vocabulary}x${columns} ${table} to ${dtype}`, dtype, tolerance: 1e-6, run };
}

function helperCase(count: number, from: DType, to: DType): Case {
  const seed = Math.floor(rng() * 1e9);
  const run = (bench: Bench): Outputs => {
    const random = seeded(seed);
    const of = (dtype: DType) => bench.of(mixed(random, count, 1), [count], dtype);
    const [x, converted, scaled, total] = [of(from), of(to), of(from), of("float32")];
    const [uniform, normal] = [bench.filled(Number.NaN, [count]), bench.filled(Number.NaN, [count])];
    convert(x, converted);
    const back = bench.filled(Number.NaN, [count]);
    convert(converted, back);
    if (from !== "float16") scale(scaled, -0.3);
    if (from !== "float16") add(x, total);
    uniformFill(uniform, { low: -2, high: 5, seed, stream: 3 });
    normalFill(normal, { mean: 1, std: 2, seed, stream: 4 });
    return read({ back, uniform, normal, scaled: from === "float16" ? null : scaled, total });
  };
  return { name: `helpers ${count} ${from} ${to}`, dtype: from, tolerance: 1e-7, run };
}

/** Cases that each meet one corner, then random ones. */
function cases(): Case[] {
  const all: Case[] = [];
  const kinds: Activation[] = ["silu", "gelu", "gelu_tanh", "relu"];
  for (const dtype of activationTypes) {
    for (const residual of [false, true]) {
      for (const kind of ["rms", "layer"] as const) {
        for (const [rows, columns] of [
          [0, 8],
          [1, 1],
          [3, 17],
          [1100, 17],
          [40, 576],
        ] as const) {
          all.push(normCase(kind, rows, columns, dtype, residual));
        }
      }
      for (const kind of kinds)
        all.push(activationCase(kind, 0, 5, dtype, residual), activationCase(kind, 1, 1, dtype, residual));
    }
    all.push(ropeCase(0, 2, 8, dtype), ropeCase(1, 1, 1, dtype), ropeCase(200, 3, 32, dtype), ropeCase(5, 0, 4, dtype));
    for (const table of ["float32", "bfloat16", "float16"] as const) {
      all.push(embeddingCase(0, 3, 5, table, dtype), embeddingCase(300, 7, 130, table, dtype));
      all.push(helperCase(0, dtype, table), helperCase(1, dtype, table), helperCase(17001, table, dtype));
    }
    for (let i = 0; i < 12; i++) {
      const [rows, columns] = [pick(1, 2, 5, 33), pick(1, 3, 4, 15, 16, 31, 64, 100, 257)];
      all.push(normCase(pick("rms", "layer"), rows, columns, dtype, pick(true, false)));
      for (const kind of kinds) all.push(activationCase(kind, rows, columns, dtype, pick(true, false)));
      all.push(ropeCase(rows, pick(1, 2, 4), pick(1, 3, 4, 8, 17, 32), dtype));
      all.push(embeddingCase(rows, pick(1, 5, 90), columns, pick("float32", "bfloat16", "float16"), dtype));
    }
  }
  return all;
}

function outputsOf(c: Case, device: Device): Outputs {
  const bench = new Bench(device);
  try {
    return c.run(bench);
  } finally {
    bench.free();
  }
}

const sameBits = (a: Float32Array, b: Float32Array) =>
  Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0;

/** Within the case's share of the largest value, and one unit in the last place of bfloat16. */
function close(actual: Outputs, expected: Outputs, c: Case): void {
  assert.deepEqual(Object.keys(actual), Object.keys(expected), c.name);
  for (const [name, want] of Object.entries(expected)) {
    const got = actual[name]!;
    const top = Math.max(largest(want), c.differences?.(expected)[name] ?? 0);
    for (let i = 0; i < want.length; i++) {
      const allowed = c.tolerance * top + (c.dtype === "bfloat16" ? 2 ** -7 * Math.abs(want[i]!) : 0);
      const ok = Math.abs(got[i]! - want[i]!) <= allowed;
      if (!ok) assert.fail(`${c.name}: ${name}[${i}]: expected ${want[i]} ± ${allowed}, got ${got[i]}`);
    }
  }
}

describe("layers: cpu against reference", () => {
  const expected = cases().map((c) => ({ c, outputs: outputsOf(c, "reference") }));
  for (const name of supportedIsas()) {
    test(name, () => {
      chooseIsa(name);
      for (const { c, outputs } of expected) close(outputsOf(c, "cpu"), outputs, c);
    });
    test(`${name}: the number of threads changes no bit`, () => {
      chooseIsa(name);
      const [one, ...more] = [1, 2, 4].map((threads) => {
        setThreadCount(threads);
        return expected.map(({ c }) => outputsOf(c, "cpu"));
      });
      for (const other of more) {
        for (const [i, { c }] of expected.entries()) {
          for (const [output, values] of Object.entries(one![i]!)) {
            assert.ok(sameBits(other[i]![output]!, values), `${c.name}: ${output}`);
          }
        }
      }
    });
  }
});
