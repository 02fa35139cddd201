// LoRA adapters (arXiv:2106.09685) on a model: made fresh, read from a PEFT folder, written to one.

import { convert, type Device, freeOnThrow, Tensor, uniformFill } from "#native";
import { NibbleError } from "#packages/errors";
import {
  type AdapterFolder,
  type AdapterToWrite,
  type LlamaConfig,
  type LoraConfig,
  llamaModules,
  loraModules,
  openAdapterFolder,
  unknownTargets,
  writeAdapterFolder,
} from "#packages/hub";
import { asFloat32 } from "./dense.ts";
import type { LoraLayer } from "./layers.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";
import { freeParameter, makeParameter, type Parameter } from "./parameters.ts";

export interface Adapter {
  config: LoraConfig;
  /** By module path. */
  layers: Map<string, LoraLayer>;
  /** Of its own, in place of the base's; null: the base's. */
  embed: Tensor | null;
  head: Tensor | null;
}

/** Streams of random numbers that initialize A; far from those that drop activations. */
const initStream = 1_000_000;

function layerOf(
  a: Tensor,
  b: Tensor,
  scaling: number,
  config: LoraConfig,
  stream: number,
  module: string | null,
): LoraLayer {
  const key = (matrix: string) => `base_model.model.${module}.${matrix}.weight`;
  const trained = module === null ? null : { a: makeParameter(key("lora_A"), a), b: makeParameter(key("lora_B"), b) };
  return { a, b, scaling, factor: null, dropout: config.dropout, stream, trained, wide: null };
}

/** Of an adapter's matrices, and of their gradients where it is trained. */
export type AdapterDType = "float32" | "bfloat16";

/** The tensor in the dtype; one of another is used up. */
function inDType(t: Tensor, dtype: AdapterDType): Tensor {
  if (t.dtype === dtype) return t;
  const other = Tensor.empty(dtype, t.shape, { device: t.device, kind: "adapter" });
  convert(t, other);
  t.free();
  return other;
}

/** PEFT's default start: A uniform in ±1/√in (kaiming with a = √5), B zero. */
export function createAdapter(
  config: LoraConfig,
  base: LlamaConfig,
  device: Device,
  seed: number,
  dtype: AdapterDType = "float32",
): Adapter {
  const unknown = unknownTargets(config, base);
  if (unknown.length > 0) {
    const known = [...new Set([...llamaModules(base).keys()].map((name) => name.slice(name.lastIndexOf(".") + 1)))];
    const message = `target modules: expected all-linear or some of ${known.join(", ")}, got ${unknown.join(", ")}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "lora" });
  }
  const layers = new Map<string, LoraLayer>();
  const at = { device, kind: "adapter" } as const;
  for (const [module, { rank, scaling, inFeatures, outFeatures }] of loraModules(config, base)) {
    const a = Tensor.empty("float32", [rank, inFeatures], at);
    const bound = 1 / Math.sqrt(inFeatures);
    uniformFill(a, { low: -bound, high: bound, seed, stream: initStream + layers.size });
    const b = Tensor.empty(dtype, [outFeatures, rank], at).zero();
    layers.set(module, layerOf(inDType(a, dtype), b, scaling, config, layers.size, module));
  }
  return { config, layers, embed: null, head: null };
}

/**
 * An adapter to go on from; the caller closes it. Opened before rows are read and weights are loaded, so it is refused then.
 * @throws FAILED_PRECONDITION for one with DoRA, whose magnitudes have no gradients here.
 */
export function openAdapterToTrain(path: string, base: { config: LlamaConfig; digest?: string }): AdapterFolder {
  const folder = openAdapterFolder(path, base);
  if (folder.extras.magnitudes.size === 0) return folder;
  folder.close();
  const message = `${path}: expected an adapter without DoRA to train further, got use_dora; merge it into its base (nibble merge) and train a new one over that`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "lora" });
}

/** The LoRA layers of a folder, in float32 unless told otherwise. `trainable` gives them gradients. */
export function loadAdapter(
  folder: AdapterFolder,
  device: Device,
  trainable: boolean,
  dtype: AdapterDType = "float32",
): Adapter {
  return freeOnThrow(() => {
    const layers = new Map<string, LoraLayer>();
    for (const module of folder.modules.keys()) {
      layers.set(module, readLayer(folder, module, { device, stream: layers.size, trainable, dtype }));
    }
    return { config: folder.config, layers, embed: null, head: null };
  });
}

/** A module's matrices; whoever calls frees them. */
export function readLayer(
  folder: AdapterFolder,
  module: string,
  { device, stream, trainable, dtype }: { device: Device; stream: number; trainable: boolean; dtype: AdapterDType },
): LoraLayer {
  const { scaling = 1, rank = 0, inFeatures = 0, outFeatures = 0 } = folder.modules.get(module) ?? {};
  const read = (matrix: "lora_A" | "lora_B", shape: number[]) => {
    const bytes = folder.read(module, matrix);
    const stored = Tensor.fromBytes(bytes, folder.dtype(module, matrix), shape, { device, kind: "adapter" });
    return inDType(asFloat32(stored, "adapter"), dtype);
  };
  const [a, b] = [read("lora_A", [rank, inFeatures]), read("lora_B", [outFeatures, rank])];
  return layerOf(a, b, scaling, folder.config, stream, trainable ? module : null);
}

export function attachAdapter(model: LlamaModel, adapter: Adapter | null): void {
  for (const linear of model.blocks.flatMap(linearsOf)) linear.lora = adapter?.layers.get(linear.name) ?? null;
}

/** Works with the base as it is without the adapter on it, which is there again after. */
export function withoutAdapter<T>(model: LlamaModel, work: () => T): T {
  const attached = model.blocks.flatMap(linearsOf).map((linear) => ({ linear, lora: linear.lora }));
  attachAdapter(model, null);
  try {
    return work();
  } finally {
    for (const { linear, lora } of attached) linear.lora = lora;
  }
}

export function adapterParameters(adapter: Adapter): Parameter[] {
  return [...adapter.layers.values()].flatMap(({ trained }) => (trained ? [trained.a, trained.b] : []));
}

/** What is the adapter's alone beside LoRA's matrices. */
function extrasOf({ layers, embed, head }: Adapter): Tensor[] {
  const tables = [...new Set([embed, head])];
  return [...[...layers.values()].map(({ factor }) => factor), ...tables].filter((t) => t !== null);
}

/** Of all its tensors; gradients are counted apart. */
function adapterBytes(adapter: Adapter): number {
  const matrices = [...adapter.layers.values()].flatMap(({ a, b }) => [a, b]);
  return [...matrices, ...extrasOf(adapter)].reduce((sum, t) => sum + t.byteLength, 0);
}

/** A and B, with their gradients if they are trained. */
export function freeMatrices({ a, b, trained }: LoraLayer): void {
  if (trained) {
    freeParameter(trained.a);
    freeParameter(trained.b);
  } else {
    a.free();
    b.free();
  }
}

/** Bytes given back. */
export function freeAdapter(adapter: Adapter): number {
  const bytes = adapterBytes(adapter);
  for (const t of extrasOf(adapter)) t.free();
  for (const layer of adapter.layers.values()) freeMatrices(layer);
  adapter.layers.clear();
  return bytes;
}

export function saveAdapter(
  path: string,
  adapter: Adapter,
  about: Pick<AdapterToWrite, "base" | "baseDigest" | "probes" | "card" | "tokensOf">,
): void {
  const bytesOf = (module: string, matrix: "lora_A" | "lora_B"): Uint8Array => {
    const layer = adapter.layers.get(module);
    if (!layer) throw new NibbleError(`no layer ${module}`, { code: "INTERNAL", op: "save_adapter" });
    return (matrix === "lora_A" ? layer.a : layer.b).read();
  };
  const dtype = adapter.layers.values().next().value?.a.dtype === "bfloat16" ? "bfloat16" : "float32";
  writeAdapterFolder(path, { config: adapter.config, ...about, dtype, bytesOf });
}
