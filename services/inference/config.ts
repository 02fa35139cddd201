// The inference service's settings, read once from the environment; a value that makes no sense stops the start.
import { availableParallelism } from "node:os";
import { type DeviceChoice, deviceChoices } from "#packages/engine";
import { choiceSetting, type Environment, textSetting, wholeSetting } from "#packages/rpc";

export interface Config {
  /** NIBBLE_INFERENCE_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_INFERENCE_PORT: 0 picks a free one. Default: 50054. */
  port: number;
  /** NIBBLE_INFERENCE_DIR: folder for adapters that come from the registry. Default: .nibble/inference. */
  dir: string;
  /** NIBBLE_INFERENCE_MODEL: folder of a base model to load before the service listens. Default: none. */
  modelDir: string;
  /** NIBBLE_INFERENCE_MODEL_ID: that model's id. Default: base. */
  modelId: string;
  /** NIBBLE_INFERENCE_BITS: 4 or 16 for that model's linear layers. Default (0): as the folder has them. */
  bits: 0 | 4 | 16;
  /** NIBBLE_INFERENCE_DTYPE: what that model computes in, float32 or bfloat16. Default: float32. */
  dtype: "float32" | "bfloat16";
  /** NIBBLE_INFERENCE_THREADS: CPU threads of a model that asks for none. Default: all cores. */
  threads: number;
  /** NIBBLE_INFERENCE_DEVICE: what models are loaded to: cpu, cuda, or auto, which is cuda where there is one. Default: cpu. */
  device: DeviceChoice;
  /** NIBBLE_INFERENCE_SEQUENCES_MAX: answers that are computed together. Default: 16. */
  sequencesMax: number;
  /** NIBBLE_INFERENCE_STEP_TOKENS_MAX: tokens of a step; a longer prompt is computed in parts. Default: 512. */
  stepTokensMax: number;
  /** NIBBLE_INFERENCE_CACHE_TOKENS_MAX: tokens, prompt and answer, of all running answers together. Default: 8192. */
  cacheTokensMax: number;
  /** NIBBLE_INFERENCE_WAITING_MAX: requests that may wait for a place. Default: 256. */
  waitingMax: number;
  /** NIBBLE_INFERENCE_UNREAD_MAX: tokens of an answer that wait for a slow reader; one further behind loses it. Default: 4096. */
  unreadMax: number;
  /** NIBBLE_INFERENCE_PREFIX_CACHE: on or off: requests with the same beginning share its keys and values. Default: on. */
  prefixCache: boolean;
  /** NIBBLE_INFERENCE_ADAPTER_BYTES_MAX: of adapters in memory; others wait on disk. 0: no limit. Default: 1 GiB. */
  adapterBytesMax: number;
  /** NIBBLE_INFERENCE_RESUME_MS: time that a named answer goes on, or is kept, without a reader. Default: 30,000. */
  resumeMs: number;
  /** NIBBLE_INFERENCE_RESUMABLE_MAX: named answers that are kept at a time. Default: 1024. */
  resumableMax: number;
  /** NIBBLE_INFERENCE_RESUME_EVENTS_MAX: last events of each that are kept. Default: 4096. */
  resumeEventsMax: number;
  /** NIBBLE_REGISTRY_ENDPOINT: host:port of the registry. Default: 127.0.0.1:50053. */
  registry: string;
  /** NIBBLE_INFERENCE_DRAIN_MS: time that running answers get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

export function readConfig(env: Environment = process.env): Config {
  return {
    host: textSetting(env, "NIBBLE_INFERENCE_HOST", "127.0.0.1"),
    port: wholeSetting(env, "NIBBLE_INFERENCE_PORT", 50_054, { max: 65_535 }),
    dir: textSetting(env, "NIBBLE_INFERENCE_DIR", ".nibble/inference"),
    modelDir: textSetting(env, "NIBBLE_INFERENCE_MODEL", ""),
    modelId: textSetting(env, "NIBBLE_INFERENCE_MODEL_ID", "base"),
    bits: Number(choiceSetting(env, "NIBBLE_INFERENCE_BITS", ["0", "4", "16"], "0")) as 0 | 4 | 16,
    dtype: choiceSetting(env, "NIBBLE_INFERENCE_DTYPE", ["float32", "bfloat16"], "float32"),
    threads: wholeSetting(env, "NIBBLE_INFERENCE_THREADS", availableParallelism(), { min: 1, max: 1024 }),
    device: choiceSetting(env, "NIBBLE_INFERENCE_DEVICE", deviceChoices, "cpu"),
    sequencesMax: wholeSetting(env, "NIBBLE_INFERENCE_SEQUENCES_MAX", 16, { min: 1 }),
    stepTokensMax: wholeSetting(env, "NIBBLE_INFERENCE_STEP_TOKENS_MAX", 512, { min: 1 }),
    cacheTokensMax: wholeSetting(env, "NIBBLE_INFERENCE_CACHE_TOKENS_MAX", 8192, { min: 16 }),
    waitingMax: wholeSetting(env, "NIBBLE_INFERENCE_WAITING_MAX", 256),
    unreadMax: wholeSetting(env, "NIBBLE_INFERENCE_UNREAD_MAX", 4096, { min: 1 }),
    prefixCache: choiceSetting(env, "NIBBLE_INFERENCE_PREFIX_CACHE", ["on", "off"], "on") === "on",
    adapterBytesMax: wholeSetting(env, "NIBBLE_INFERENCE_ADAPTER_BYTES_MAX", 1 << 30),
    resumeMs: wholeSetting(env, "NIBBLE_INFERENCE_RESUME_MS", 30_000),
    resumableMax: wholeSetting(env, "NIBBLE_INFERENCE_RESUMABLE_MAX", 1024),
    resumeEventsMax: wholeSetting(env, "NIBBLE_INFERENCE_RESUME_EVENTS_MAX", 4096, { min: 1 }),
    registry: textSetting(env, "NIBBLE_REGISTRY_ENDPOINT", "127.0.0.1:50053"),
    drainMs: wholeSetting(env, "NIBBLE_INFERENCE_DRAIN_MS", 10_000),
  };
}
