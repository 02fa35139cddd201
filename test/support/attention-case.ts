// Random attention problems and their solution on any device; what a solution should be it does not know.
import {
  type AttentionShape,
  attentionBackward,
  attentionForward,
  type Device,
  type DType,
  elementBytes,
  pagedAttention,
  Tensor,
} from "#native";

export interface Case {
  /** First row of each document, then N. */
  starts: number[];
  heads: number;
  kvHeads: number;
  headSize: number;
  window: number;
  dtype: "float32" | "bfloat16";
}

export interface Inputs {
  q: Uint8Array;
  k: Uint8Array;
  v: Uint8Array;
  dO: Uint8Array;
}

/** Uniform in [0, 1), the same for the same seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Values of [-2, 2) as bytes; bfloat16 keeps the upper half of float32. */
export function randomBytes(random: () => number, count: number, dtype: Case["dtype"]): Uint8Array {
  return toBytes(
    Float32Array.from({ length: count }, () => random() * 4 - 2),
    dtype,
  );
}

export function toBytes(values: Float32Array, dtype: Case["dtype"]): Uint8Array {
  if (dtype === "float32") return new Uint8Array(values.buffer.slice(0));
  const bits = new Uint32Array(values.buffer);
  return new Uint8Array(Uint16Array.from(bits, (b) => b >>> 16).buffer);
}

export function toFloats(bytes: Uint8Array, dtype: DType): Float32Array {
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  if (dtype === "float32") return new Float32Array(buffer);
  return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (h) => h << 16).buffer);
}

export function shapeOf(c: Case): AttentionShape {
  return { heads: c.heads, kvHeads: c.kvHeads, scale: 1 / Math.sqrt(c.headSize), window: c.window };
}

export function rowsOf(c: Case): number {
  return c.starts[c.starts.length - 1]!;
}

export function inputsOf(c: Case, seed: number): Inputs {
  const random = generator(seed);
  const rows = rowsOf(c);
  const queries = () => randomBytes(random, rows * c.heads * c.headSize, c.dtype);
  const keys = () => randomBytes(random, rows * c.kvHeads * c.headSize, c.dtype);
  return { q: queries(), k: keys(), v: keys(), dO: queries() };
}

/** Tensors of one device that are freed together. */
export class Scope {
  readonly #device: Device;
  readonly #live: Tensor[] = [];

  constructor(device: Device) {
    this.#device = device;
  }

  of(dtype: DType, shape: number[], bytes?: Uint8Array): Tensor {
    const at = { device: this.#device, kind: "workspace" } as const;
    const size = shape.reduce((a, b) => a * b, elementBytes[dtype]);
    // What an op leaves unwritten shows: float32 and bfloat16 NaN.
    const t = Tensor.fromBytes(bytes ?? new Uint8Array(size).fill(0xff), dtype, shape, at);
    this.#live.push(t);
    return t;
  }

  integers(values: number[], shape: number[] = [values.length]): Tensor {
    return this.of("int32", shape, new Uint8Array(Int32Array.from(values).buffer));
  }

  free(): void {
    for (const t of this.#live.splice(0)) t.free();
  }
}

export interface Forward {
  o: Uint8Array;
  lse: Uint8Array;
}

export function forward(device: Device, c: Case, inputs: Inputs): Forward {
  const scope = new Scope(device);
  const rows = rowsOf(c);
  const queries = [rows, c.heads * c.headSize];
  const keys = [rows, c.kvHeads * c.headSize];
  const o = scope.of(c.dtype, queries);
  const lse = scope.of("float32", [rows, c.heads]);
  attentionForward(shapeOf(c), {
    q: scope.of(c.dtype, queries, inputs.q),
    k: scope.of(c.dtype, keys, inputs.k),
    v: scope.of(c.dtype, keys, inputs.v),
    starts: scope.integers(c.starts),
    o,
    lse,
  });
  const result = { o: o.read(), lse: lse.read() };
  scope.free();
  return result;
}

export interface Backward {
  dQ: Uint8Array;
  dK: Uint8Array;
  dV: Uint8Array;
}

export function backward(device: Device, c: Case, inputs: Inputs, of: Forward): Backward {
  const scope = new Scope(device);
  const rows = rowsOf(c);
  const queries = [rows, c.heads * c.headSize];
  const keys = [rows, c.kvHeads * c.headSize];
  const out = { dQ: scope.of(c.dtype, queries), dK: scope.of(c.dtype, keys), dV: scope.of(c.dtype, keys) };
  attentionBackward(shapeOf(c), {
    dO: scope.of(c.dtype, queries, inputs.dO),
    q: scope.of(c.dtype, queries, inputs.q),
    k: scope.of(c.dtype, keys, inputs.k),
    v: scope.of(c.dtype, keys, inputs.v),
    o: scope.of(c.dtype, queries, of.o),
    lse: scope.of("float32", [rows, c.heads], of.lse),
    starts: scope.integers(c.starts),
    ...out,
  });
  const result = { dQ: out.dQ.read(), dK: out.dK.read(), dV: out.dV.read() };
  scope.free();
  return result;
}

/** A cache of pages in random order, filled with the rows of each document as one sequence. */
export interface Cache {
  page: number;
  pages: number;
  table: number[][];
  slots: number[];
}

export function cacheOf(c: Case, page: number, seed: number): Cache {
  const random = generator(seed);
  const lengths = c.starts.slice(1).map((end, d) => end - c.starts[d]!);
  const needed = lengths.map((n) => Math.ceil(n / page));
  const pages = needed.reduce((a, b) => a + b, 0) + 3;
  const order = Array.from({ length: pages }, (_, i) => ({ i, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map((p) => p.i);
  const columns = Math.max(1, ...needed);
  const table = needed.map((n) => Array.from({ length: columns }, (_, p) => (p < n ? order.pop()! : -1)));
  const slots = lengths.flatMap((n, d) =>
    Array.from({ length: n }, (_, t) => table[d]![Math.floor(t / page)]! * page + (t % page)),
  );
  return { page, pages, table, slots };
}

export interface Query {
  /** Row of the packed q. */
  row: number;
  sequence: number;
  position: number;
}

/** Output rows of `queries` over caches that hold what kv_write put there. */
export function paged(
  device: Device,
  c: Case,
  cache: Cache,
  caches: { k: Uint8Array; v: Uint8Array },
  q: Uint8Array,
  queries: Query[],
): Uint8Array {
  const scope = new Scope(device);
  const rowBytes = c.heads * c.headSize * elementBytes[c.dtype];
  const rows = Buffer.concat(queries.map(({ row }) => q.subarray(row * rowBytes, (row + 1) * rowBytes)));
  const shape = [cache.pages, c.kvHeads, cache.page, c.headSize];
  const o = scope.of(c.dtype, [queries.length, c.heads * c.headSize]);
  pagedAttention(shapeOf(c), {
    q: scope.of(c.dtype, [queries.length, c.heads * c.headSize], rows),
    kCache: scope.of(c.dtype, shape, caches.k),
    vCache: scope.of(c.dtype, shape, caches.v),
    blockTable: scope.integers(cache.table.flat(), [cache.table.length, cache.table[0]?.length ?? 1]),
    sequence: scope.integers(queries.map((x) => x.sequence)),
    position: scope.integers(queries.map((x) => x.position)),
    o,
  });
  const result = o.read();
  scope.free();
  return result;
}
