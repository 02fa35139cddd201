// The main of a service: telemetry, log, server, then SIGTERM or SIGINT -> drain -> exit. With the telemetry it is the
// only part of the kit that touches the process.
import type { Logger } from "pino";
import { pino } from "pino";
import { NibbleError } from "#packages/errors";
import type { Implementation, RunningServer, ServerOptions } from "./server.ts";
import { createServer } from "./server.ts";
import { startTelemetry } from "./telemetry.ts";

/** What a service hands to runService. */
export interface ServiceSetup extends Omit<ServerOptions, "services" | "logger"> {
  services: Implementation[];
  /** Time that calls in flight get when the service is told to stop, in milliseconds. Default: 10,000. */
  drainMs?: number;
  /** Runs when the drain begins, beside it: tell jobs to stop. */
  onDrain?: () => Promise<void> | void;
  /** Runs after the drain: close stores, models, threads. */
  close?: () => Promise<void> | void;
}

/** Exit codes, as sysexits names them. */
export const exitCodes = { ok: 0, internal: 70, unavailable: 69, config: 78 } as const;

/**
 * Not pino's own stream: when whoever reads the log is gone, that one's flush at the exit tries again for ever, and
 * the process never ends. Node's stdout is as synchronous for pipes, and its error is let go here.
 */
function standardOutput(): { write(line: string): void } {
  process.stdout.on("error", () => {});
  return { write: (line) => void process.stdout.write(line) };
}

export function createLogger(name: string, level = "info"): Logger {
  const base = { name, pid: process.pid };
  return pino({ name, level, base, timestamp: pino.stdTimeFunctions.isoTime }, standardOutput());
}

function exitCodeOf(error: NibbleError): number {
  if (error.code === "INTERNAL") return exitCodes.internal;
  return error.code === "UNAVAILABLE" ? exitCodes.unavailable : exitCodes.config;
}

/** Resolves with the first signal that asks the process to stop; the second one ends it at once. */
function stopSignal(logger: Logger): Promise<NodeJS.Signals> {
  const first = Promise.withResolvers<NodeJS.Signals>();
  let count = 0;
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.on(name, () => {
      count++;
      if (count === 1) return first.resolve(name);
      logger.error({ signal: name }, "told to stop twice: exiting at once");
      process.exit(exitCodes.internal);
    });
  }
  return first.promise;
}

/** What runs until the process is told to stop. */
export interface Running {
  /** host:port, for the log line by which others know that it listens. */
  address: string;
  /** More for that line. */
  listening?: Record<string, unknown>;
  /** More for the line that says what is still under way. */
  underWay?: () => Record<string, unknown>;
  /** True if everything under way finished by itself. */
  stop(): Promise<boolean>;
}

/**
 * Runs a server until it is told to stop, then exits the process: 0 after a drain, 78 for bad configuration (a port in
 * use, a missing folder), 69 or 70 otherwise. `start` reads the configuration.
 */
export async function runProcess(name: string, start: (logger: Logger) => Promise<Running>) {
  const logger = createLogger(name, process.env["NIBBLE_LOG_LEVEL"] ?? "info");
  const stopping = stopSignal(logger);
  const telemetry = await startTelemetry({ serviceName: `nibble-${name}` });
  let code: number = exitCodes.ok;
  try {
    const running = await start(logger);
    logger.info({ address: running.address, ...running.listening }, "listening");
    const signal = await stopping;
    logger.info({ signal, ...running.underWay?.() }, "draining");
    const allFinished = await running.stop();
    logger.info({ allFinished }, "stopped");
  } catch (thrown) {
    const error = NibbleError.from(thrown, name);
    logger.fatal({ err: error }, error.message);
    code = exitCodeOf(error);
  }
  await telemetry
    .shutdown()
    .catch((error: unknown) => logger.warn({ err: error }, "telemetry: not all of it was sent"));
  logger.flush();
  process.exit(code);
}

async function stop(setup: ServiceSetup, server: RunningServer): Promise<boolean> {
  const [allFinished] = await Promise.all([server.drain(setup.drainMs), setup.onDrain?.()]);
  await setup.close?.();
  return allFinished;
}

/** A gRPC service as a process. `build` reads the configuration and makes the handlers. */
export function runService(name: string, build: (logger: Logger) => Promise<ServiceSetup> | ServiceSetup) {
  return runProcess(name, async (logger) => {
    const setup = await build(logger);
    const server = await createServer({ ...setup, logger });
    return {
      address: server.address,
      listening: { services: setup.services.map(({ service }) => service.typeName) },
      underWay: () => ({ callsInFlight: server.callsInFlight }),
      stop: () => stop(setup, server),
    };
  });
}
