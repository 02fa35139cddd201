// An adapter as steps read it: all matrices in one tensor, so that they lie on large pages and a step names one of them; B
// turned, so that the native op sums along memory (ops/linear.h, lora_adds).
import { type Device, elementBytes, freeOnThrow, type LlamaLora, memory, Tensor } from "#native";
import type { AdapterFolder, AdapterModule, LlamaConfig } from "#packages/hub";
import { factorOf, readTables, tableShapes } from "../adapter-extras.ts";
import type { LoraLayer } from "../layers.ts";
import { type Adapter, type AdapterDType, freeMatrices, readLayer } from "../lora.ts";
import type { LlamaModel } from "../models/llama.ts";

export interface ServedAdapter {
  matrices: Tensor;
  /** By module path. */
  layers: ReadonlyMap<string, LlamaLora>;
  /** Of its own, in place of the base's; null: the base's. */
  embed: Tensor | null;
  head: Tensor | null;
}

/** Of a line of the cache, whatever the dtype; a layer's matrices begin on one. */
const lineElements = 32;
const elementsOf = (rank: number, inFeatures: number, out: number): number =>
  Math.ceil((rank * (inFeatures + out)) / lineElements) * lineElements;

/** From one adapter's beginning to the next one's. */
const staggerLines = 37;
let made = 0;

type Sizes = Pick<AdapterModule, "rank" | "inFeatures" | "outFeatures" | "scaling">;

/**
 * With room for the layers' matrices. Those that lie alike in all adapters would share the few lines of a cache that their
 * addresses may use: each adapter begins elsewhere in what its allocation has to spare.
 */
function empty(modules: ReadonlyMap<string, Sizes>, dtype: AdapterDType, device: Device): ServedAdapter {
  const used = sum([...modules.values()].map((m) => elementsOf(m.rank, m.inFeatures, m.outFeatures)));
  const count = memory.sizeOf(used * elementBytes[dtype]) / elementBytes[dtype];
  const spareLines = Math.floor((count - used) / lineElements);
  let offset = ((made++ * staggerLines) % (spareLines + 1)) * lineElements;
  const layers = new Map<string, LlamaLora>();
  for (const [name, { rank, inFeatures, outFeatures: out, scaling }] of modules) {
    layers.set(name, { offset, rank, in: inFeatures, out, scaling, factor: null });
    offset += elementsOf(rank, inFeatures, out);
  }
  return { matrices: Tensor.empty(dtype, [count], { device, kind: "adapter" }), layers, embed: null, head: null };
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

/** Takes a layer's matrices to their place, and frees them. */
function put({ matrices, layers }: ServedAdapter, module: string, lora: LoraLayer): void {
  const { offset, rank, in: columns } = layers.get(module)!;
  const size = elementBytes[matrices.dtype];
  matrices.write(lora.a.read(), offset * size);
  matrices.write(turned(lora.b), (offset + rank * columns) * size);
  freeMatrices(lora);
}

/** Of an adapter in memory, which has nothing but LoRA's matrices; it is used up. */
export function servedOf({ layers }: Adapter): ServedAdapter {
  const sizes = [...layers].map(([module, { a, b, scaling }]): [string, Sizes] => {
    const [[rank = 0, inFeatures = 0], [outFeatures = 0]] = [a.shape, b.shape];
    return [module, { rank, inFeatures, outFeatures, scaling }];
  });
  const { dtype = "float32", device = "cpu" } = layers.values().next().value?.a ?? {};
  const served = empty(new Map(sizes), dtype as AdapterDType, device);
  for (const [module, lora] of layers) put(served, module, lora);
  return served;
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
    memory.sizeOf(sum(matrices) * elementBytes[dtype]) +
    sum(factors) * elementBytes.float32 +
    sum(tables.map((table) => product(table.shape) * elementBytes[table.dtype]))
  );
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1);

/** Of a folder, giving way after each module. Whoever leaves it half-way, or an error, frees what was read by then. */
export function* loadServedAdapter(
  folder: AdapterFolder,
  model: LlamaModel,
  dtype: AdapterDType,
): Generator<undefined, ServedAdapter> {
  const { device } = model.embed;
  const served = empty(folder.modules, dtype, device);
  let isWhole = false;
  try {
    for (const [module, place] of served.layers) {
      freeOnThrow(() => {
        const lora = readLayer(folder, module, { device, stream: 0, trainable: false, dtype });
        const factor = factorOf(folder, model, module, lora);
        put(served, module, lora);
        place.factor = factor;
      });
      yield;
    }
    Object.assign(served, readTables(folder, model));
    isWhole = true;
    return served;
  } finally {
    if (!isWhole) freeServed(served);
  }
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
