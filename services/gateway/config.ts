// The gateway's settings, read once from the environment; a value that makes no sense stops the start.
import { NibbleError } from "#packages/errors";
import { isLoopback } from "#packages/http";
import { type Environment, textSetting, wholeSetting } from "#packages/rpc";

export interface Config {
  /** NIBBLE_GATEWAY_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_GATEWAY_PORT: 0 picks a free one. Default: 50055. */
  port: number;
  /**
   * NIBBLE_GATEWAY_KEYS: keys that callers send as "Authorization: Bearer …", separated by commas; "name=key" names the
   * caller, whose keys may be several. Default: none, which only an address of this machine alone allows.
   */
  keys: readonly string[];
  /** NIBBLE_GATEWAY_KEY_REQUESTS_MAX: answers of one caller under way at a time; further ones are 429. Default: 0, any number. */
  keyRequestsMax: number;
  /** NIBBLE_GATEWAY_ORIGINS: web origins ("https://…") whose pages may call, separated by commas. Default: none. */
  origins: readonly string[];
  /** NIBBLE_GATEWAY_DIR: folder of uploaded files and of what fine-tuning writes. Default: .nibble/gateway. */
  dir: string;
  /** NIBBLE_INFERENCE_ENDPOINT: host:port. Default: 127.0.0.1:50054. */
  inference: string;
  /** NIBBLE_TRAINER_ENDPOINT: host:port. Default: 127.0.0.1:50052. */
  trainer: string;
  /** NIBBLE_REGISTRY_ENDPOINT: host:port. Default: 127.0.0.1:50053. */
  registry: string;
  /** NIBBLE_GATEWAY_BODY_BYTES_MAX: of a request of JSON. Default: 16 MiB. */
  bodyBytesMax: number;
  /** NIBBLE_GATEWAY_FILE_BYTES_MAX: of an uploaded file. Default: 512 MiB. */
  fileBytesMax: number;
  /** NIBBLE_GATEWAY_FILES_BYTES_MAX: of all uploaded files together. Default: 16 GiB. */
  filesBytesMax: number;
  /** NIBBLE_GATEWAY_CONNECTIONS_MAX: at a time; further ones are closed at once. Default: 4096. */
  connectionsMax: number;
  /** NIBBLE_GATEWAY_IDLE_MS: silence of a client after which its connection is cut. Default: 120,000. */
  idleMsMax: number;
  /** NIBBLE_GATEWAY_REQUEST_MS: for the whole of a request to come. Default: 3,600,000. */
  requestMsMax: number;
  /** NIBBLE_GATEWAY_HEARTBEAT_MS: silence of a stream after which a comment is sent. Default: 15,000. */
  heartbeatMs: number;
  /** NIBBLE_GATEWAY_ALIAS_MS: time for which it is remembered which version a name stands for. Default: 1000. */
  aliasMs: number;
  /** NIBBLE_GATEWAY_METRICS_MODELS_MAX: models with figures of their own; later ones are "other". Default: 200. */
  metricsModelsMax: number;
  /** NIBBLE_GATEWAY_DRAIN_MS: time that answers under way get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

const listOf = (text: string): string[] =>
  text
    .split(",")
    .map((one) => one.trim())
    .filter((one) => one !== "");

export function readConfig(env: Environment = process.env): Config {
  const config: Config = {
    host: textSetting(env, "NIBBLE_GATEWAY_HOST", "127.0.0.1"),
    port: wholeSetting(env, "NIBBLE_GATEWAY_PORT", 50_055, { max: 65_535 }),
    keys: listOf(textSetting(env, "NIBBLE_GATEWAY_KEYS", "")),
    keyRequestsMax: wholeSetting(env, "NIBBLE_GATEWAY_KEY_REQUESTS_MAX", 0),
    origins: listOf(textSetting(env, "NIBBLE_GATEWAY_ORIGINS", "")),
    dir: textSetting(env, "NIBBLE_GATEWAY_DIR", ".nibble/gateway"),
    inference: textSetting(env, "NIBBLE_INFERENCE_ENDPOINT", "127.0.0.1:50054"),
    trainer: textSetting(env, "NIBBLE_TRAINER_ENDPOINT", "127.0.0.1:50052"),
    registry: textSetting(env, "NIBBLE_REGISTRY_ENDPOINT", "127.0.0.1:50053"),
    bodyBytesMax: wholeSetting(env, "NIBBLE_GATEWAY_BODY_BYTES_MAX", 16 << 20, { min: 1 }),
    fileBytesMax: wholeSetting(env, "NIBBLE_GATEWAY_FILE_BYTES_MAX", 512 << 20, { min: 1 }),
    filesBytesMax: wholeSetting(env, "NIBBLE_GATEWAY_FILES_BYTES_MAX", 16 * 2 ** 30, { min: 1 }),
    connectionsMax: wholeSetting(env, "NIBBLE_GATEWAY_CONNECTIONS_MAX", 4096, { min: 1 }),
    idleMsMax: wholeSetting(env, "NIBBLE_GATEWAY_IDLE_MS", 120_000, { min: 1 }),
    requestMsMax: wholeSetting(env, "NIBBLE_GATEWAY_REQUEST_MS", 3_600_000),
    heartbeatMs: wholeSetting(env, "NIBBLE_GATEWAY_HEARTBEAT_MS", 15_000, { min: 1 }),
    aliasMs: wholeSetting(env, "NIBBLE_GATEWAY_ALIAS_MS", 1000),
    metricsModelsMax: wholeSetting(env, "NIBBLE_GATEWAY_METRICS_MODELS_MAX", 200),
    drainMs: wholeSetting(env, "NIBBLE_GATEWAY_DRAIN_MS", 10_000),
  };
  if (config.keys.length > 0 || isLoopback(config.host)) return config;
  const message = `NIBBLE_GATEWAY_KEYS: expected keys, since ${config.host} is reached from other machines, got none`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "config", details: { name: "NIBBLE_GATEWAY_KEYS" } });
}
