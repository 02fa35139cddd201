// A base model in memory with an adapter on it, for work that reads their values: merging, exporting.
import { freeOnThrow } from "#native";
import { digestOfModel, type ModelFolder, ModelHasher, openAdapterFolder } from "#packages/hub";
import { attachAdapter, freeAdapter, loadAdapter } from "./lora.ts";
import { freeModel, loadModel } from "./model-load.ts";
import type { LlamaModel } from "./models/llama.ts";
import type { QuantOptions } from "./quantize-tensor.ts";

export interface BaseAndAdapter {
  model: LlamaModel;
  digest: string;
  /** Whether the adapter names this base; null: it names none, or there is no adapter. */
  namesBase: boolean | null;
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

/** @throws FAILED_PRECONDITION for an adapter of another base. Nothing stays in memory then. */
export function loadBaseAndAdapter(folder: ModelFolder, options: BaseOptions): BaseAndAdapter {
  return freeOnThrow(() => {
    const { model, digest } = loadBase(folder, options);
    if (options.adapterDir === null) return { model, digest, namesBase: null, free: () => freeModel(model) };
    using adapterFolder = openAdapterFolder(options.adapterDir, { config: model.config, digest });
    const adapter = loadAdapter(adapterFolder, "cpu", false);
    attachAdapter(model, adapter);
    const free = () => {
      freeAdapter(adapter);
      freeModel(model);
    };
    return { model, digest, namesBase: adapterFolder.baseDigest === null ? null : true, free };
  });
}
