// Model files: safetensors, model folders, adapter folders and digests on disk, and their ways from and to the Hub
// (remote/). It deals in bytes, shapes and dtype names; it knows no tensors of the engine.

export {
  type AdapterExtras,
  AdapterFolder,
  type AdapterModule,
  type AdapterToWrite,
  adapterConfigFileName,
  adapterWeightsFileName,
  openAdapterFolder,
  writeAdapterFolder,
} from "./adapter-folder.ts";
export { adapterKey, type LoraMatrix } from "./adapter-keys.ts";
export type { AdapterProbe } from "./adapter-probes.ts";
export { digestOfModel, ModelHasher } from "./digest.ts";
export * from "./dtypes.ts";
export {
  checkFileTarget,
  checkFolderTarget,
  publishFolder,
  replaceFile,
  syncFolder,
  withoutEmptyFolders,
} from "./files.ts";
export * from "./gguf/index.ts";
export { checkInnerPaths, isInnerPath } from "./inner-path.ts";
export { readObjectFile } from "./json.ts";
export * from "./llama-config.ts";
export * from "./llama-weights.ts";
export {
  type LoraConfig,
  type LoraModule,
  loraModules,
  loraScaling,
  parseLoraConfig,
  type SavedModule,
  unknownTargets,
} from "./lora-config.ts";
export { type AdapterCard, type ModelCard, printModelCard } from "./model-card.ts";
export {
  type FolderTensor,
  indexFileName,
  ModelFolder,
  openModelFolder,
  readModelConfig,
  weightsFileName,
} from "./model-folder.ts";
export {
  checkModelTarget,
  ModelWriter,
  type ModelWriterOptions,
  quantizationConfig,
  type TensorToWrite,
  type WrittenModel,
  writeModelFolder,
} from "./model-writer.ts";
export {
  type FloatDType,
  type QuantState,
  type QuantStateTensors,
  quantBlockSizes,
  quantStateJson,
  quantStateNames,
  quantStateSpecs,
  quantTypes,
  type StoredQuantState,
  type StoredQuantType,
} from "./quant-state.ts";
export type { RepoType } from "./remote/cache.ts";
export type { CardFields } from "./remote/card.ts";
export { describingFiles, localFolder, repoInPlaceOf } from "./remote/local-folder.ts";
export { type PulledRepo, type PullOptions, type PullProgress, pullRepo } from "./remote/pull.ts";
export { type PushedFolder, type PushOptions, type PushProgress, pushFolder } from "./remote/push.ts";
export { parseRepoName, type RepoName, repoNameOf, repoOfSnapshot } from "./remote/repo-name.ts";
export { type HubSettings, hubSettings, hubUrlFileName, nibbleHome } from "./remote/settings.ts";
export type { Rope, RopeScaling } from "./rope-config.ts";
export { openSafetensors, SafetensorsFile } from "./safetensors.ts";
export type { TensorInfo, TensorSpec } from "./safetensors-header.ts";
export { SafetensorsSpool, SafetensorsWriter, type WriterOptions } from "./safetensors-writer.ts";
export { readChatTemplate, tokenizerFiles } from "./tokenizer-files.ts";
