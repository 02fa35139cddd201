// The trainer's settings, read once from the environment; a value that makes no sense stops the start.
import { availableParallelism } from "node:os";
import { type DeviceChoice, deviceChoices } from "#packages/engine";
import { choiceSetting, type Environment, textSetting, wholeSetting } from "#packages/rpc";

export interface Config {
  /** NIBBLE_TRAINER_HOST: address to listen on. Default: 127.0.0.1. */
  host: string;
  /** NIBBLE_TRAINER_PORT: 0 picks a free one. Default: 50052. */
  port: number;
  /** NIBBLE_TRAINER_DIR: folder of the database of jobs and events; made if it is missing. Default: .nibble/trainer. */
  dir: string;
  /** NIBBLE_TRAINER_WAITING_MAX: jobs that may wait while one runs. Default: 64. */
  waitingMax: number;
  /** NIBBLE_TRAINER_THREADS: CPU threads of a job that asks for none. Default: all cores. */
  threads: number;
  /** NIBBLE_TRAINER_DEVICE: what jobs run on: cpu, cuda, or auto, which is cuda where there is one. Default: cpu. */
  device: DeviceChoice;
  /** NIBBLE_REGISTRY_ENDPOINT: host:port of the registry for jobs that name none. Default: 127.0.0.1:50053. */
  registry: string;
  /** NIBBLE_TRAINER_DRAIN_MS: time that calls in flight get at a stop, in milliseconds. Default: 10,000. */
  drainMs: number;
}

export function readConfig(env: Environment = process.env): Config {
  return {
    host: textSetting(env, "NIBBLE_TRAINER_HOST", "127.0.0.1"),
    port: wholeSetting(env, "NIBBLE_TRAINER_PORT", 50_052, { max: 65_535 }),
    dir: textSetting(env, "NIBBLE_TRAINER_DIR", ".nibble/trainer"),
    waitingMax: wholeSetting(env, "NIBBLE_TRAINER_WAITING_MAX", 64),
    threads: wholeSetting(env, "NIBBLE_TRAINER_THREADS", availableParallelism(), { min: 1, max: 1024 }),
    device: choiceSetting(env, "NIBBLE_TRAINER_DEVICE", deviceChoices, "cpu"),
    registry: textSetting(env, "NIBBLE_REGISTRY_ENDPOINT", "127.0.0.1:50053"),
    drainMs: wholeSetting(env, "NIBBLE_TRAINER_DRAIN_MS", 10_000),
  };
}
