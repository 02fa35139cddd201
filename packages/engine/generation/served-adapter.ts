// An adapter as steps read it: all matrices in one tensor, so that they lie on large pages and a step names one of them; B
// turned, so that the native op sums along memory (ops/linear.h, lora_adds).
import { elementBytes, type LlamaLora, Tensor } from "#native";
import type { AdapterFolder, LlamaConfig } from "#packages/hub";
import { tableShapes, wholeAdapterInPieces } from "../adapter-extras.ts";
import type { LoraLayer } from "../layers.ts";
import { type Adapter, type AdapterDType, freeAdapter, freeMatrices } from "../lora.ts";
import type { LlamaModel } from "../models/llama.ts";

export interface ServedAdapter {
  matrices: Tensor;
  /** By module path. */
  layers: ReadonlyMap<string, LlamaLora>;
  /** Of its own, in place of the base's; null: the base's. */
  embed: Tensor | null;
  head: Tensor | null;
}

/** Of a layer's matrices, which begin on a line of the cache. */
const elementsOf = (rank: number, inFeatures: number, out: number): number =>
  Math.ceil((rank * (inFeatures + out)) / 32) * 32;

/** As many bytes as native memory gives (core/memory.cpp, size_class), so that what is counted is what is taken. */
function allocated(bytes: number): number {
  let step = 64;
  while (step * 16 < bytes) step *= 2;
  return Math.ceil(bytes / step) * step;
}

/** Where each layer's matrices begin, and how many elements there are. */
function layOut(layers: Adapter["layers"]): { places: Map<string, LlamaLora>; count: number } {
  const places = new Map<string, LlamaLora>();
  let count = 0;
  for (const [name, { a, b, scaling, factor }] of layers) {
    const [[rank = 0, inFeatures = 0], [out = 0]] = [a.shape, b.shape];
    places.set(name, { offset: count, rank, in: inFeatures, out, scaling, factor });
    count += elementsOf(rank, inFeatures, out);
  }
  return { places, count };
}

/** The bytes of the transposed matrix. */
function turned(b: Tensor): Uint8Array {
  const [rows = 0, columns = 0] = b.shape;
  const { buffer } = b.read();
  const from = b.dtype === "bfloat16" ? new Uint16Array(buffer) : new Float32Array(buffer);
  const to = from.slice();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) to[column * rows + row] = from[row * columns + column]!;
  }
  return new Uint8Array(to.buffer);
}

function put(matrices: Tensor, { offset, rank, in: columns }: LlamaLora, { a, b }: LoraLayer): void {
  const size = elementBytes[matrices.dtype];
  matrices.write(a.read(), offset * size);
  matrices.write(turned(b), (offset + rank * columns) * size);
}

/** Uses the adapter up: what is its own beside LoRA's matrices goes over. Whoever leaves it half-way, or an error, frees all of it. */
export function* servedInPieces(adapter: Adapter): Generator<undefined, ServedAdapter> {
  let matrices: Tensor | null = null;
  let isWhole = false;
  try {
    const { places, count } = layOut(adapter.layers);
    const { dtype = "float32", device = "cpu" } = adapter.layers.values().next().value?.a ?? {};
    const size = elementBytes[dtype];
    matrices = Tensor.empty(dtype, [allocated(count * size) / size], { device, kind: "adapter" });
    for (const [name, layer] of adapter.layers) {
      put(matrices, places.get(name)!, layer);
      yield;
    }
    isWhole = true;
    for (const layer of adapter.layers.values()) freeMatrices(layer);
    return { matrices, layers: places, embed: adapter.embed, head: adapter.head };
  } finally {
    if (!isWhole) {
      matrices?.free();
      freeAdapter(adapter);
    }
  }
}

/** What the adapter of a folder takes in memory once it is loaded. */
export function servedAdapterBytes(folder: AdapterFolder, base: LlamaConfig, dtype: AdapterDType): number {
  const { modules, extras, file } = folder;
  const matrices = [...modules.values()].map((m) => elementsOf(m.rank, m.inFeatures, m.outFeatures));
  const factors = [...extras.magnitudes].map(([module, key]) =>
    modules.has(module) ? product(file.info(key).shape) : 0,
  );
  // Where the head follows the embedding, they are one tensor.
  const tables = [...new Set(Object.values(tableShapes(folder, base)))].filter((table) => table !== null);
  return (
    allocated(sum(matrices) * elementBytes[dtype]) +
    sum(factors) * elementBytes.float32 +
    sum(tables.map((table) => product(table.shape) * elementBytes[table.dtype]))
  );
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1);

/** Of a folder, giving way after each module. */
export function* loadServedAdapter(
  folder: AdapterFolder,
  model: LlamaModel,
  dtype: AdapterDType,
): Generator<undefined, ServedAdapter> {
  return yield* servedInPieces(yield* wholeAdapterInPieces(folder, model, dtype));
}

function tensorsOf({ matrices, layers, embed, head }: ServedAdapter): Tensor[] {
  const factors = [...layers.values()].map(({ factor }) => factor);
  return [...new Set([matrices, embed, head, ...factors])].filter((t) => t !== null);
}

export function servedBytes(adapter: ServedAdapter): number {
  return tensorsOf(adapter).reduce((sum, t) => sum + t.byteLength, 0);
}

/** Bytes given back. */
export function freeServed(adapter: ServedAdapter): number {
  const bytes = servedBytes(adapter);
  for (const t of tensorsOf(adapter)) t.free();
  return bytes;
}
