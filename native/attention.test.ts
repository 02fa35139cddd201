// Attention against the reference, the reference against finite differences, and what must hold for
// any attention: documents, chunks, pages and threads do not change a result.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import {
  chooseIsa,
  type Device,
  elementBytes,
  isa,
  kvWrite,
  setThreadCount,
  supportedIsas,
  threadCount,
} from "#native";
import * as t from "../test/support/attention-case.ts";

const defaultIsa = isa();
const defaultThreads = threadCount();

afterEach(() => {
  chooseIsa(defaultIsa);
  setThreadCount(defaultThreads);
});

/**
 * |a - b| <= absolute + relative |b| + ofLargest max |b|, and the root mean square of a - b <= mean times that of b.
 * bfloat16 results may round to the neighbour, and are sums of weights that were rounded.
 */
const tolerance = {
  float32: { absolute: 2e-5, relative: 2e-5, ofLargest: 0, mean: 1e-5 },
  bfloat16: { absolute: 2e-3, relative: 2 ** -7, ofLargest: 2 ** -8, mean: 2 ** -8 },
};

const rootMeanSquare = (x: Float32Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / Math.max(1, x.length));

function close(actual: Uint8Array, expected: Uint8Array, dtype: t.Case["dtype"], what: string): void {
  const [a, b] = [t.toFloats(actual, dtype), t.toFloats(expected, dtype)];
  assert.equal(a.length, b.length, what);
  const { absolute, relative, ofLargest, mean } = tolerance[dtype];
  const floor = absolute + ofLargest * b.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
  for (let i = 0; i < b.length; ++i) {
    const error = Math.abs(a[i]! - b[i]!);
    assert.ok(error <= floor + relative * Math.abs(b[i]!), `${what}[${i}]: expected ${b[i]}, got ${a[i]}`);
  }
  const [error, size] = [rootMeanSquare(a.map((v, i) => v - b[i]!)), rootMeanSquare(b)];
  assert.ok(error <= mean * size + 1e-6, `${what}: root mean square error ${error} of ${size}`);
}

const shapes: Omit<t.Case, "dtype">[] = [
  { starts: [0, 1], heads: 1, kvHeads: 1, headSize: 1, window: 0 },
  { starts: [0, 0, 1, 1, 2, 9, 9], heads: 2, kvHeads: 1, headSize: 20, window: 0 },
  { starts: [0, 17, 50], heads: 4, kvHeads: 4, headSize: 16, window: 1 },
  { starts: [0, 33, 70], heads: 6, kvHeads: 2, headSize: 20, window: 7 },
  { starts: [0, 150], heads: 9, kvHeads: 3, headSize: 64, window: 0 },
  { starts: [0, 5, 135, 200], heads: 4, kvHeads: 1, headSize: 48, window: 65 },
  { starts: [0, 1, 131], heads: 2, kvHeads: 2, headSize: 33, window: 1000 },
  { starts: [0, 70], heads: 2, kvHeads: 1, headSize: 200, window: 0 },
  { starts: [0, 40], heads: 18, kvHeads: 1, headSize: 512, window: 2 ** 40 },
  { starts: [0], heads: 2, kvHeads: 1, headSize: 8, window: 0 },
  { starts: [0, 300], heads: 4, kvHeads: 4, headSize: 16, window: 0 }, // squares of 4, 2 and 1 blocks for 1, 2 and 4 threads
  { starts: [0, 20, 300], heads: 4, kvHeads: 4, headSize: 20, window: 90 },
];

const cases: t.Case[] = shapes.flatMap((s) => [
  { ...s, dtype: "float32" as const },
  { ...s, dtype: "bfloat16" as const },
]);

function nameOf(c: t.Case): string {
  return `${c.dtype} starts ${c.starts} H ${c.heads} K ${c.kvHeads} D ${c.headSize} window ${c.window}`;
}

for (const name of supportedIsas()) {
  test(`cpu/${name} forward and backward equal the reference`, () => {
    chooseIsa(name);
    cases.forEach((c, seed) => {
      const inputs = t.inputsOf(c, seed);
      const expected = t.forward("reference", c, inputs);
      const actual = t.forward("cpu", c, inputs);
      close(actual.o, expected.o, c.dtype, `${nameOf(c)} o`);
      close(actual.lse, expected.lse, "float32", `${nameOf(c)} lse`);
      const gradients = t.backward("cpu", c, inputs, expected);
      const reference = t.backward("reference", c, inputs, expected);
      for (const key of ["dQ", "dK", "dV"] as const)
        close(gradients[key], reference[key], c.dtype, `${nameOf(c)} ${key}`);
    });
  });

  test(`cpu/${name} results do not depend on the number of threads`, () => {
    chooseIsa(name);
    for (const c of cases.filter((x) => t.rowsOf(x) > 60)) {
      const inputs = t.inputsOf(c, 7);
      const runs = [1, 2, 4].map((threads) => {
        setThreadCount(threads);
        const of = t.forward("cpu", c, inputs);
        return { ...of, ...t.backward("cpu", c, inputs, of) };
      });
      for (const run of runs) assert.deepEqual(run, runs[0], nameOf(c));
    }
  });
}

test("a packed document gives the bits that it gives alone", () => {
  for (const c of cases) {
    const inputs = t.inputsOf(c, 11);
    const whole = t.forward("cpu", c, inputs);
    const gradients = t.backward("cpu", c, inputs, whole);
    const part = (bytes: Uint8Array, d: number, columns: number) =>
      bytes.slice(c.starts[d]! * columns, c.starts[d + 1]! * columns);
    const qColumns = c.heads * c.headSize * elementBytes[c.dtype];
    const kColumns = c.kvHeads * c.headSize * elementBytes[c.dtype];
    for (let d = 0; d + 1 < c.starts.length; ++d) {
      const alone: t.Case = { ...c, starts: [0, c.starts[d + 1]! - c.starts[d]!] };
      const of = (x: t.Inputs): t.Inputs => ({
        q: part(x.q, d, qColumns),
        k: part(x.k, d, kColumns),
        v: part(x.v, d, kColumns),
        dO: part(x.dO, d, qColumns),
      });
      const o = t.forward("cpu", alone, of(inputs));
      assert.deepEqual(o.o, part(whole.o, d, qColumns), `${nameOf(c)} document ${d} o`);
      assert.deepEqual(o.lse, part(whole.lse, d, c.heads * 4), `${nameOf(c)} document ${d} lse`);
      const g = t.backward("cpu", alone, of(inputs), o);
      assert.deepEqual(g.dQ, part(gradients.dQ, d, qColumns), `${nameOf(c)} document ${d} dQ`);
      assert.deepEqual(g.dK, part(gradients.dK, d, kColumns), `${nameOf(c)} document ${d} dK`);
      assert.deepEqual(g.dV, part(gradients.dV, d, kColumns), `${nameOf(c)} document ${d} dV`);
    }
  }
});

test("the reference's gradients equal finite differences of its forward", () => {
  const step = 2 ** -5;
  for (const window of [0, 3]) {
    const c: t.Case = { starts: [0, 1, 7], heads: 4, kvHeads: 2, headSize: 5, window, dtype: "float32" };
    const inputs = t.inputsOf(c, 5);
    const dO = t.toFloats(inputs.dO, "float32");
    const loss = (at: t.Inputs) =>
      t.toFloats(t.forward("reference", c, at).o, "float32").reduce((sum, o, i) => sum + o * dO[i]!, 0);
    const gradients = t.backward("reference", c, inputs, t.forward("reference", c, inputs));
    for (const [input, gradient] of [
      ["q", "dQ"],
      ["k", "dK"],
      ["v", "dV"],
    ] as const) {
      const values = t.toFloats(inputs[input], "float32");
      const analytic = t.toFloats(gradients[gradient], "float32");
      for (let i = 0; i < values.length; ++i) {
        const at = (delta: number) => {
          const moved = values.slice();
          moved[i] = values[i]! + delta;
          return loss({ ...inputs, [input]: t.toBytes(moved, "float32") });
        };
        // Five points: the error of the formula is of the order step^4.
        const slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
        assert.ok(Math.abs(slope - analytic[i]!) < 2e-4, `${gradient}[${i}]: expected ${slope}, got ${analytic[i]}`);
      }
    }
  }
});

/** Caches whose unwritten rows are NaN, filled by kv_write on `device`. */
function written(device: Device, c: t.Case, cache: t.Cache, inputs: t.Inputs): { k: Uint8Array; v: Uint8Array } {
  const scope = new t.Scope(device);
  const columns = c.kvHeads * c.headSize;
  const rows = [t.rowsOf(c), columns];
  const k = scope.of(c.dtype, [cache.pages, c.kvHeads, cache.page, c.headSize]);
  const v = scope.of(c.dtype, [cache.pages, c.kvHeads, cache.page, c.headSize]);
  const slots = scope.integers(cache.slots);
  kvWrite(scope.of(c.dtype, rows, inputs.k), scope.of(c.dtype, rows, inputs.v), slots, k, v);
  const result = { k: k.read(), v: v.read() };
  scope.free();
  return result;
}

/** Every row of every document, in random order: prefill and decode in one batch. */
function allQueries(c: t.Case, seed: number): t.Query[] {
  const random = t.generator(seed);
  return c.starts
    .slice(1)
    .flatMap((end, d) =>
      Array.from({ length: end - c.starts[d]! }, (_, position) => ({
        row: c.starts[d]! + position,
        sequence: d,
        position,
      })),
    )
    .map((query) => ({ query, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map((x) => x.query);
}

function checkPaged(device: Device, c: t.Case, seed: number): void {
  const inputs = t.inputsOf(c, seed);
  const cache = t.cacheOf(c, [1, 4, 16, 13][seed % 4]!, seed);
  const caches = written(device, c, cache, inputs);
  const expected = t.forward("reference", c, inputs).o;
  const queries = allQueries(c, seed);
  const rowBytes = c.heads * c.headSize * elementBytes[c.dtype];
  const wanted = Buffer.concat(queries.map(({ row }) => expected.subarray(row * rowBytes, (row + 1) * rowBytes)));
  close(t.paged(device, c, cache, caches, inputs.q, queries), wanted, c.dtype, `${device} ${nameOf(c)} paged o`);
}

test("the reference's paged attention equals attention over the documents", () => {
  cases.forEach((c, seed) => {
    checkPaged("reference", c, seed);
  });
});

/** The pages that `queries` see: those that lie before their windows are given back. */
function seenBy(queries: t.Query[], window: number, cache: t.Cache): t.Cache {
  const gone = 2 ** 30;
  const table = cache.table.map((pages, sequence) => {
    const positions = queries.filter((query) => query.sequence === sequence).map((query) => query.position);
    const first = window === 0 ? 0 : Math.min(...positions) - window + 1;
    return pages.map((page, at) => ((at + 1) * cache.page <= first ? gone : page));
  });
  return { ...cache, table };
}

function checkChunks(c: t.Case, page: number): void {
  const inputs = t.inputsOf(c, 3);
  const cache = t.cacheOf(c, page, 3);
  const caches = written("cpu", c, cache, inputs);
  const queries = allQueries(c, 1).sort((a, b) => a.row - b.row);
  const whole = t.paged("cpu", c, cache, caches, inputs.q, queries);
  for (const chunk of [1, 7, 64]) {
    const parts: Uint8Array[] = [];
    for (let i = 0; i < queries.length; i += chunk) {
      setThreadCount(1 + (parts.length % 3));
      const some = queries.slice(i, i + chunk);
      parts.push(t.paged("cpu", c, seenBy(some, c.window, cache), caches, inputs.q, some));
    }
    assert.deepEqual(Buffer.concat(parts), Buffer.from(whole), `chunks of ${chunk}, pages of ${page}, ${nameOf(c)}`);
  }
}

for (const name of supportedIsas()) {
  test(`cpu/${name} paged attention equals the reference's attention over the documents`, () => {
    chooseIsa(name);
    cases.forEach((c, seed) => {
      checkPaged("cpu", c, seed);
    });
  });

  test(`cpu/${name} chunks of a prefill and single tokens give the bits of the whole prefill`, () => {
    chooseIsa(name);
    const c: t.Case = { starts: [0, 150, 171], heads: 6, kvHeads: 2, headSize: 20, window: 0, dtype: "float32" };
    const inPairs: t.Case = { ...c, starts: [0, 151, 172], headSize: 64, dtype: "bfloat16" };
    for (const one of [c, inPairs]) {
      checkChunks(one, 16);
      for (const page of [1, 4, 13, 16, 32]) checkChunks({ ...one, window: 37 }, page);
    }
  });
}

test("kv_write moves rows head by head, bit for bit, and leaves the others alone", () => {
  const c: t.Case = { starts: [0, 9, 20], heads: 4, kvHeads: 2, headSize: 3, window: 0, dtype: "bfloat16" };
  const inputs = t.inputsOf(c, 2);
  const cache = t.cacheOf(c, 4, 9);
  const bytes = c.headSize * elementBytes[c.dtype];
  for (const device of ["cpu", "reference"] as const) {
    const { k, v } = written(device, c, cache, inputs);
    const expected = { k: new Uint8Array(k.length).fill(0xff), v: new Uint8Array(v.length).fill(0xff) };
    cache.slots.forEach((slot, row) => {
      for (let head = 0; head < c.kvHeads; ++head) {
        const from = (row * c.kvHeads + head) * bytes;
        const page = Math.floor(slot / cache.page);
        const to = ((page * c.kvHeads + head) * cache.page + (slot % cache.page)) * bytes;
        expected.k.set(inputs.k.subarray(from, from + bytes), to);
        expected.v.set(inputs.v.subarray(from, from + bytes), to);
      }
    });
    assert.deepEqual({ k, v }, expected, device);
  }
});

test("scores that rise from block to block change what weights are relative to, and no result", () => {
  for (const dtype of ["float32", "bfloat16"] as const) {
    const c: t.Case = { starts: [0, 200], heads: 4, kvHeads: 2, headSize: 32, window: 0, dtype };
    const inputs = t.inputsOf(c, 5);
    const columns = c.kvHeads * c.headSize;
    const k = t.toFloats(inputs.k, dtype).map((x, i) => x * (1 + Math.floor(i / columns / 50) * 4));
    const rising = { ...inputs, k: t.toBytes(k, dtype) };
    const expected = t.forward("reference", c, rising);
    for (const name of supportedIsas()) {
      chooseIsa(name);
      const actual = t.forward("cpu", c, rising);
      close(actual.o, expected.o, dtype, `${name} o`);
      close(actual.lse, expected.lse, "float32", `${name} lse`);
    }
  }
});

test("extreme scores give finite results", () => {
  const c: t.Case = { starts: [0, 140], heads: 2, kvHeads: 1, headSize: 16, window: 0, dtype: "float32" };
  const inputs = t.inputsOf(c, 4);
  const q = t.toFloats(inputs.q, "float32").map((x) => x * 1e4);
  const extreme = { ...inputs, q: t.toBytes(q, "float32") };
  for (const name of supportedIsas()) {
    chooseIsa(name);
    const expected = t.forward("reference", c, extreme);
    const actual = t.forward("cpu", c, extreme);
    for (const x of t.toFloats(actual.o, "float32")) assert.ok(Number.isFinite(x));
    // Scores of 1e5 have float32 steps of 1/128: only lse is comparable, relative to its size.
    close(actual.lse, expected.lse, "float32", "lse");
  }
});
