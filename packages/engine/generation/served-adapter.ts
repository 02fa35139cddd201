// An adapter as steps read it: B lies turned, so that the native op sums along memory (ops/linear.h, lora_adds).
import { elementBytes, Tensor } from "#native";
import type { AdapterFolder, LlamaConfig } from "#packages/hub";
import { tableShapes, wholeAdapterInPieces } from "../adapter-extras.ts";
import { type Adapter, type AdapterDType, freeAdapter } from "../lora.ts";
import type { LlamaModel } from "../models/llama.ts";

/** Each layer's `b` is [R, out]. */
export interface ServedAdapter extends Adapter {
  readonly isTurned: true;
}

/** The transposed matrix; the given one is used up. */
function turned(b: Tensor): Tensor {
  const [rows = 0, columns = 0] = b.shape;
  const { buffer } = b.read();
  const from = b.dtype === "bfloat16" ? new Uint16Array(buffer) : new Float32Array(buffer);
  const to = from.slice();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) to[column * rows + row] = from[row * columns + column]!;
  }
  const made = Tensor.fromBytes(new Uint8Array(to.buffer), b.dtype, [columns, rows], {
    ...{ device: b.device, kind: "adapter" },
  });
  b.free();
  return made;
}

/** Used up: its layers are the served one's. Whoever leaves it half-way, or an error, frees it. */
export function* servedInPieces(adapter: Adapter): Generator<undefined, ServedAdapter> {
  let isWhole = false;
  try {
    for (const layer of adapter.layers.values()) {
      layer.b = turned(layer.b);
      // What is served is not trained.
      for (const parameter of layer.trained ? [layer.trained.a, layer.trained.b] : []) parameter.grad.free();
      layer.trained = null;
      yield;
    }
    isWhole = true;
    return { ...adapter, isTurned: true };
  } finally {
    if (!isWhole) freeAdapter(adapter);
  }
}

/** What the adapter of a folder takes in memory once it is loaded. */
export function servedAdapterBytes(folder: AdapterFolder, base: LlamaConfig, dtype: AdapterDType): number {
  const { modules, extras, file } = folder;
  const matrices = [...modules.values()].map(({ rank, inFeatures, outFeatures }) => rank * (inFeatures + outFeatures));
  const factors = [...extras.magnitudes].map(([module, key]) =>
    modules.has(module) ? product(file.info(key).shape) : 0,
  );
  // Where the head follows the embedding, they are one tensor.
  const tables = [...new Set(Object.values(tableShapes(folder, base)))].filter((table) => table !== null);
  return (
    sum(matrices) * elementBytes[dtype] +
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
