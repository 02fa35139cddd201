// The quantizer's settings, read once from the environment; a value that makes no sense stops the start.
import { availableParallelism } from "node:os";
import { type Environment, textSetting, wholeSetting } from "#packages/rpc";

export interface Config {
  /** NIBBLE_QUANTIZER_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_QUANTIZER_PORT: 0 picks a free one. Default: 50051. */
  port: number;
  /** NIBBLE_QUANTIZER_DIR: folder of the database of operations; made if it is missing. Default: .nibble/quantizer. */
  dir: string;
  /** NIBBLE_QUANTIZER_WAITING_MAX: operations that may wait while one runs. Default: 16. */
  waitingMax: number;
  /** NIBBLE_QUANTIZER_THREADS: CPU threads of an operation that asks for none. Default: all cores. */
  threads: number;
  /** NIBBLE_QUANTIZER_DRAIN_MS: time that calls in flight get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

export function readConfig(env: Environment = process.env): Config {
  return {
    host: textSetting(env, "NIBBLE_QUANTIZER_HOST", "127.0.0.1"),
    port: wholeSetting(env, "NIBBLE_QUANTIZER_PORT", 50_051, { max: 65_535 }),
    dir: textSetting(env, "NIBBLE_QUANTIZER_DIR", ".nibble/quantizer"),
    waitingMax: wholeSetting(env, "NIBBLE_QUANTIZER_WAITING_MAX", 16),
    threads: wholeSetting(env, "NIBBLE_QUANTIZER_THREADS", availableParallelism(), { min: 1, max: 1024 }),
    drainMs: wholeSetting(env, "NIBBLE_QUANTIZER_DRAIN_MS", 10_000),
  };
}
