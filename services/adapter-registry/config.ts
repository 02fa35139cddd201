// The registry's settings, read once from the environment; a value that makes no sense stops the start.
import { type Environment, textSetting, wholeSetting } from "#packages/rpc";

export interface Config {
  /** NIBBLE_REGISTRY_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_REGISTRY_PORT: 0 picks a free one. Default: 50053. */
  port: number;
  /** NIBBLE_REGISTRY_HUB_PORT: of the Hub's HTTP API; 0 picks a free one. Default: 50060, with port 0 a free one. */
  hubPort: number;
  /**
   * NIBBLE_REGISTRY_HUB_TOKEN: who changes something over HTTP, or reads what is private or gated, must send it.
   * Default: none, everybody who reaches the port may do everything.
   */
  hubToken: string;
  /** NIBBLE_REGISTRY_DIR: folder of the database and the blobs; made if it is missing. Default: .nibble/registry. */
  dir: string;
  /** NIBBLE_REGISTRY_UPLOADS_MAX: uploads at a time. Default: 16. */
  uploadsMax: number;
  /** NIBBLE_REGISTRY_VERSION_BYTES_MAX: sum of a version's files, in bytes. Default: 16 GiB. */
  versionBytesMax: number;
  /** NIBBLE_REGISTRY_PART_BYTES: files above it come over HTTP in parts of this size. Default: 64 MiB. */
  partBytes: number;
  /** NIBBLE_REGISTRY_FREE_BYTES_MIN: bytes of the disk that uploads leave free. Default: 64 MiB. */
  freeBytesMin: number;
  /** NIBBLE_REGISTRY_DRAIN_MS: time that calls in flight get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

export function readConfig(env: Environment = process.env): Config {
  const port = wholeSetting(env, "NIBBLE_REGISTRY_PORT", 50_053, { max: 65_535 });
  return {
    host: textSetting(env, "NIBBLE_REGISTRY_HOST", "127.0.0.1"),
    port,
    hubPort: wholeSetting(env, "NIBBLE_REGISTRY_HUB_PORT", port === 0 ? 0 : 50_060, { max: 65_535 }),
    hubToken: textSetting(env, "NIBBLE_REGISTRY_HUB_TOKEN", ""),
    dir: textSetting(env, "NIBBLE_REGISTRY_DIR", ".nibble/registry"),
    uploadsMax: wholeSetting(env, "NIBBLE_REGISTRY_UPLOADS_MAX", 16, { min: 1 }),
    versionBytesMax: wholeSetting(env, "NIBBLE_REGISTRY_VERSION_BYTES_MAX", 16 * 2 ** 30),
    partBytes: wholeSetting(env, "NIBBLE_REGISTRY_PART_BYTES", 64 * 2 ** 20, { min: 1 }),
    freeBytesMin: wholeSetting(env, "NIBBLE_REGISTRY_FREE_BYTES_MIN", 64 * 2 ** 20),
    drainMs: wholeSetting(env, "NIBBLE_REGISTRY_DRAIN_MS", 10_000),
  };
}
