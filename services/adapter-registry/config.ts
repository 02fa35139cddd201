// The registry's settings, read once from the environment; a value that makes no sense stops the start.
import { NibbleError } from "#packages/errors";

export interface Config {
  /** NIBBLE_REGISTRY_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_REGISTRY_PORT: 0 picks a free one. Default: 50053. */
  port: number;
  /** NIBBLE_REGISTRY_DIR: folder of the database and the blobs; made if it is missing. Default: .nibble/registry. */
  dir: string;
  /** NIBBLE_REGISTRY_UPLOADS_MAX: uploads at a time. Default: 16. */
  uploadsMax: number;
  /** NIBBLE_REGISTRY_VERSION_BYTES_MAX: sum of a version's files, in bytes. Default: 16 GiB. */
  versionBytesMax: number;
  /** NIBBLE_REGISTRY_FREE_BYTES_MIN: bytes of the disk that uploads leave free. Default: 64 MiB. */
  freeBytesMin: number;
  /** NIBBLE_REGISTRY_DRAIN_MS: time that calls in flight get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

export type Environment = Readonly<Record<string, string | undefined>>;

function wholeNumber(env: Environment, name: string, fallback: number, max = Number.MAX_SAFE_INTEGER): number {
  const text = env[name];
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0 && value <= max) return value;
  const message = `${name}: expected a whole number from 0 to ${max}, got ${JSON.stringify(text)}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "config", details: { name } });
}

export function readConfig(env: Environment = process.env): Config {
  return {
    host: env["NIBBLE_REGISTRY_HOST"] || "127.0.0.1",
    port: wholeNumber(env, "NIBBLE_REGISTRY_PORT", 50_053, 65_535),
    dir: env["NIBBLE_REGISTRY_DIR"] || ".nibble/registry",
    uploadsMax: wholeNumber(env, "NIBBLE_REGISTRY_UPLOADS_MAX", 16),
    versionBytesMax: wholeNumber(env, "NIBBLE_REGISTRY_VERSION_BYTES_MAX", 16 * 2 ** 30),
    freeBytesMin: wholeNumber(env, "NIBBLE_REGISTRY_FREE_BYTES_MIN", 64 * 2 ** 20),
    drainMs: wholeNumber(env, "NIBBLE_REGISTRY_DRAIN_MS", 10_000),
  };
}
