// A block in one call against its ops one by one: the same bits, on every device and instruction set.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  activationForward,
  add,
  chooseIsa,
  type Device,
  type DType,
  isa,
  kvWrite,
  type LlamaBlockWeights,
  linearForward,
  llamaBlock,
  llamaLinears,
  loraAdds,
  normForward,
  packLlamaBlock,
  packLlamaLora,
  packLlamaSegments,
  pagedAttention,
  rope,
  scaleColumns,
  supportedIsas,
  type Tensor,
} from "#native";
import { Bench, numbers, seeded, valuesOf, type WeightForm } from "../test/support/tensors.ts";

const initialIsa = isa();
after(() => chooseIsa(initialIsa));

const [hidden, ffn, heads, kvHeads, headSize, positions, page, pages] = [128, 192, 4, 2, 32, 40, 16, 6];
const shape = { heads, kvHeads, scale: 1 / Math.sqrt(headSize), window: 0 };
const sizes: Record<(typeof llamaLinears)[number], [number, number]> = {
  q: [heads * headSize, hidden],
  k: [kvHeads * headSize, hidden],
  v: [kvHeads * headSize, hidden],
  o: [hidden, heads * headSize],
  gate: [ffn, hidden],
  up: [ffn, hidden],
  down: [hidden, ffn],
};

/** Null: the layer has no adapter. */
type Lora = { a: Tensor; b: Tensor; scaling: number; factor: Tensor | null } | null;

/** The matrices of an adapter one after the other in one tensor, as a block takes them. */
function packed(bench: Bench, lora: readonly Lora[]): Float64Array {
  const values: number[] = [];
  const places = lora.map((l) => {
    if (l === null) return null;
    const offset = values.length;
    values.push(...valuesOf(l.a), ...valuesOf(l.b));
    const [rank = 0, inFeatures = 0] = l.a.shape;
    return { offset, rank, in: inFeatures, out: l.b.shape[1] ?? 0, scaling: l.scaling, factor: l.factor };
  });
  return packLlamaLora(bench.of(Float32Array.from(values), [values.length]), places);
}

interface Made {
  block: LlamaBlockWeights;
  segments: { begin: number; end: number; lora: Lora[] }[];
  x: Tensor;
  call: Omit<Parameters<typeof llamaBlock>[3], "x">;
}

/** Everything that a block reads: 5 rows of two sequences, an adapter on some of them. */
function make(bench: Bench, form: WeightForm, dtype: DType, adapted: boolean): Made {
  const rng = seeded(5);
  const of = (dims: number[], as: DType = "float32") =>
    bench.of(
      numbers(
        rng,
        dims.reduce((a, b) => a * b, 1),
      ),
      dims,
      as,
    );
  const integers = (values: number[], dims: number[]) => bench.of(Float32Array.from(values), dims, "int32");
  const linear = (name: (typeof llamaLinears)[number]) => {
    const [out, inFeatures] = sizes[name];
    const weight = bench.weight(numbers(rng, out * inFeatures), out, inFeatures, form);
    return { weight, bias: name === "q" ? of([out]) : null };
  };
  const linears = Object.fromEntries(llamaLinears.map((name) => [name, linear(name)])) as Record<
    (typeof llamaLinears)[number],
    ReturnType<typeof linear>
  >;
  const norm = (eps: number) => ({ weight: of([hidden]), eps });
  const lora = llamaLinears.map((name) => {
    const [out, inFeatures] = sizes[name];
    const factor = name === "q" || name === "down" ? of([out]) : null; // with a bias, and without
    return name === "up" ? null : { a: of([3, inFeatures]), b: of([3, out]), scaling: 0.5, factor };
  });
  return {
    block: { ...linears, inputNorm: norm(1e-5), postNorm: norm(1e-6) },
    segments: adapted ? [{ begin: 1, end: 4, lora }] : [],
    x: of([5, hidden], dtype),
    call: {
      ...{ cos: of([positions, headSize / 2]), sin: of([positions, headSize / 2]) },
      position: integers([17, 0, 1, 2, 3], [5]),
      slot: integers([65, 32, 33, 34, 35], [5]),
      sequence: integers([0, 1, 1, 1, 1], [5]),
      blockTable: integers([1, 4, 2, 5], [2, 2]),
      kCache: of([pages, kvHeads, page, headSize], dtype),
      vCache: of([pages, kvHeads, page, headSize], dtype),
    },
  };
}

function opByOp(bench: Bench, { block, segments, x, call }: Made, dtype: DType): Tensor {
  const rows = x.shape[0]!;
  const empty = (columns: number) => bench.filled(Number.NaN, [rows, columns], dtype);
  const norm = (of: Tensor, residual: Tensor | null, by: { weight: Tensor; eps: number }, sum: Tensor | null) => {
    const [y, rstd] = [empty(hidden), bench.filled(0, [rows])];
    normForward({ kind: "rms", x: of, residual, weight: by.weight, bias: null, eps: by.eps, y, sum, mean: null, rstd });
    return y;
  };
  const linear = (of: Tensor, name: (typeof llamaLinears)[number]) => {
    const { weight, bias } = block[name];
    const y = empty(weight.out);
    linearForward({ x: of, w: weight, bias, lora: null, h: null, y });
    for (const { begin, end, lora } of segments) {
      const l = lora[llamaLinears.indexOf(name)];
      if (l) loraAdds({ x: of, ...l, begin, end, y });
      if (l?.factor) scaleColumns({ factor: l.factor, bias, begin, end, y });
    }
    return y;
  };
  const y = norm(x, null, block.inputNorm, null);
  const [q, k, v] = [linear(y, "q"), linear(y, "k"), linear(y, "v")];
  for (const t of [q, k]) rope(t, call.position, call.cos, call.sin);
  kvWrite(k, v, call.slot, call.kCache, call.vCache);
  const o = empty(heads * headSize);
  pagedAttention(shape, { q, ...call, o });
  const sum = empty(hidden);
  const z = norm(linear(o, "o"), x, block.postNorm, sum);
  const fed = empty(ffn);
  activationForward("silu", linear(z, "gate"), linear(z, "up"), fed);
  const out = linear(fed, "down");
  add(sum, out);
  return out;
}

const forms: WeightForm[] = [
  { dtype: "bfloat16", quant: { type: "nf4", blockSize: 64, nested: true } },
  { dtype: "float32", quant: { type: "nf4", blockSize: 64, nested: false } },
  { dtype: "bfloat16", quant: null },
];

function compare(device: Device): void {
  for (const form of forms) {
    for (const dtype of ["float32", "bfloat16"] as const) {
      for (const adapted of [false, true]) {
        const bench = new Bench(device);
        const expected = opByOp(bench, make(bench, form, dtype, adapted), dtype);
        const made = make(bench, form, dtype, adapted);
        const segments = packLlamaSegments(made.segments.map((s) => ({ ...s, lora: packed(bench, s.lora) })));
        const next = adapted ? null : { kCache: made.call.vCache, vCache: made.call.kCache };
        llamaBlock(packLlamaBlock(made.block), segments, shape, { x: made.x, ...made.call, next });
        assert.deepEqual(valuesOf(made.x), valuesOf(expected), JSON.stringify({ form, dtype, adapted }));
        bench.free();
      }
    }
  }
}

describe("a block in one call is its ops one by one", () => {
  test("reference", () => compare("reference"));
  for (const name of supportedIsas()) {
    test(name, () => {
      chooseIsa(name);
      compare("cpu");
    });
  }
});

describe("what a block refuses", () => {
  const bench = new Bench("cpu");
  after(() => bench.free());
  const made = make(bench, forms[0]!, "float32", false);
  const run = (block: Float64Array, change: Partial<Made["call"]> & { x?: Tensor } = {}) =>
    llamaBlock(block, new Float64Array(0), shape, { x: made.x, ...made.call, ...change });
  const block = packLlamaBlock(made.block);

  test("too few numbers", () => {
    assert.throws(() => run(block.subarray(0, 40)), /\[llama_block\] expected more numbers/);
  });
  test("an adapter beyond its matrices", () => {
    const matrices = bench.filled(0, [100]);
    const lora = packLlamaLora(matrices, [{ offset: 8, rank: 1, in: hidden, out: 128, scaling: 1, factor: null }]);
    const segments = packLlamaSegments([{ begin: 0, end: 1, lora }]);
    const call = () => llamaBlock(block, segments, shape, { x: made.x, ...made.call });
    assert.throws(call, /lora: expected matrices within 100 elements, got rank 1 of 128 and 128 at 8/);
  });
  test("a next cache of another shape", () => {
    const { kCache, vCache } = made.call;
    const other = bench.filled(0, [pages, kvHeads, page, 2 * headSize]);
    const next = (change: object) => ({ next: { kCache, vCache, ...change } });
    assert.throws(() => run(block, next({ kCache: other })), /next_k_cache: expected the shape of k_cache/);
    assert.throws(() => run(block, next({ vCache: other })), /next_v_cache: expected the shape of v_cache/);
  });
  test("another model's width", () => {
    const { q } = made.block;
    const wrong = packLlamaBlock({ ...made.block, down: q });
    assert.throws(() => run(wrong), /x: expected shape \[5,128\], got \[5,192\]/);
    assert.throws(() => run(block, { x: bench.filled(0, [5, 64]) }), /\[llama_block\] down: expected 64 rows/);
  });
  test("a cache of another dtype", () => {
    const kCache = bench.filled(0, [pages, kvHeads, page, headSize], "bfloat16");
    assert.throws(() => run(block, { kCache }), /k_cache/);
  });
});
