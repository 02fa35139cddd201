// A base model in memory with an adapter on it, for work that reads their values: merging, exporting.
import { freeOnThrow } from "#native";
import { digestOfModel, type ModelFolder, ModelHasher, openAdapterFolder } from "#packages/hub";
import { loadWholeAdapter, withTables } from "./adapter-extras.ts";
import { attachAdapter, freeAdapter } from "./lora.ts";
import { freeModel, loadModel } from "./model-load.ts";
import type { LlamaModel } from "./models/llama.ts";
import type { QuantOptions } from "./quantize-tensor.ts";

export interface BaseAndAdapter {
  /** With the adapter's embedding and head, if it has any: its vocabulary may have grown. */
  model: LlamaModel;
  /** Of the base alone. */
  digest: string;
  /** The adapter names this base; null: it names none, or there is no adapter. */
  namesBase: true | null;
  adaptedLayers: number;
  free: () => void;
}

export interface BaseOptions {
  /** Null: the base alone. */
  adapterDir: string | null;
  /** How a 16-bit folder was quantized while the adapter was trained; null: it was not. */
  quant: QuantOptions | null;
  signal?: AbortSignal;
}

function loadBase(folder: ModelFolder, { quant, signal }: BaseOptions): { model: LlamaModel; digest: string } {
  const aborts = signal ? { signal } : {};
  const isMade = quant !== null && !folder.isQuantized;
  const hasher = isMade ? new ModelHasher() : undefined;
  const model = loadModel(folder, { device: "cpu", quant, ...aborts, ...(hasher ? { hasher } : {}) });
  return { model, digest: hasher ? hasher.digest(model.config) : digestOfModel(folder) };
}

/**
 * @param expected what the adapter must name, if it names a base; default: this base's digest.
 * @throws FAILED_PRECONDITION for an adapter of another base. Nothing stays in memory then.
 */
export function loadBaseAndAdapter(folder: ModelFolder, options: BaseOptions, expected?: string): BaseAndAdapter {
  return freeOnThrow(() => {
    const { model, digest } = loadBase(folder, options);
    if (options.adapterDir === null)
      return { model, digest, namesBase: null, adaptedLayers: 0, free: () => freeModel(model) };
    const pin = { config: model.config, digest: expected ?? digest };
    using adapterFolder = openAdapterFolder(options.adapterDir, pin);
    const adapter = loadWholeAdapter(adapterFolder, model);
    attachAdapter(model, adapter);
    const free = () => {
      freeAdapter(adapter);
      freeModel(model);
    };
    const namesBase = adapterFolder.baseDigest === null ? null : true;
    return { model: withTables(model, adapter), digest, namesBase, adaptedLayers: adapterFolder.modules.size, free };
  });
}
