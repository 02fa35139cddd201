// A gRPC server over protobuf-es descriptors, with health, reflection and drain. It knows no service.
import type { DescService } from "@bufbuild/protobuf";
import type { ServerOptions as ChannelOptions, UntypedServiceImplementation } from "@grpc/grpc-js";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import type { Logger } from "pino";
import { pino } from "pino";
import { NibbleError } from "#packages/errors";
import type { AnyHandler, CallScope } from "./calls.ts";
import { grpcHandler } from "./calls.ts";
import { bufferMethods } from "./codec.ts";
import { Health } from "./health.ts";
import { reflectionServices } from "./reflection.ts";
import type { Handlers } from "./types.ts";

/** A service and its handlers. */
export interface Implementation {
  readonly service: DescService;
  readonly handlers: Record<string, AnyHandler>;
}

/** Pairs a service with a handler for each of its methods. */
export function implement<S extends DescService>(service: S, handlers: Handlers<S>): Implementation {
  return { service, handlers: handlers as unknown as Record<string, AnyHandler> };
}

export interface ServerOptions {
  services: Implementation[];
  /** Default: 127.0.0.1. */
  host?: string;
  /** 0 picks a free one. Default: 0. */
  port?: number;
  /** Default: no log. */
  logger?: Logger;
  /** Largest message either way, in bytes. Default: 16 MiB. */
  messageBytesMax?: number;
  /** Flow-control window of a stream, in bytes; HTTP/2's own 64 KiB limits a stream to 64 KiB a round trip. Default: 1 MiB. */
  windowBytes?: number;
  /** Further calls are refused with RESOURCE_EXHAUSTED. Default: 1000. */
  callsInFlightMax?: number;
  /** Limit for unary and client-streaming calls that come without a deadline, in milliseconds. Default: 600,000. */
  deadlineMsDefault?: number;
  /** Silence after which a connection is probed, in milliseconds. Default: 30,000. */
  keepaliveMs?: number;
  /** Default: true. */
  reflection?: boolean;
  /** Called with the server's health before it listens, for services that are not always ready. */
  onHealth?: (health: Health) => void;
  /** Default: without TLS. */
  credentials?: ServerCredentials;
}

export interface RunningServer {
  /** host:port. */
  readonly address: string;
  readonly port: number;
  readonly health: Health;
  readonly callsInFlight: number;
  /**
   * Stops: health answers NOT_SERVING, new calls are refused, calls in flight may finish for `deadlineMs`, then they
   * are cancelled with UNAVAILABLE. A second call waits for the first. True if every call finished by itself.
   */
  drain(deadlineMs?: number): Promise<boolean>;
}

/** Time that cancelled calls get to send their status before connections are cut. */
const statusFlushMs = 250;
const drainMsDefault = 10_000;

function channelOptions(options: ServerOptions): ChannelOptions {
  const bytesMax = options.messageBytesMax ?? 16 << 20;
  return {
    "grpc.max_receive_message_length": bytesMax,
    "grpc.max_send_message_length": bytesMax,
    "grpc-node.flow_control_window": options.windowBytes ?? 1 << 20,
    "grpc.keepalive_time_ms": options.keepaliveMs ?? 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
  };
}

function bind(server: Server, host: string, port: number, credentials: ServerCredentials): Promise<number> {
  const address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => {
      if (!error) return resolve(bound);
      const inUse = error.message.includes("EADDRINUSE");
      const message = inUse
        ? `${address}: expected a free port, got one that another process listens on`
        : `${address}: expected an address to listen on, got: ${error.message}`;
      const code = inUse ? "FAILED_PRECONDITION" : "INVALID_ARGUMENT";
      reject(new NibbleError(message, { code, op: "listen", details: { address }, cause: error }));
    });
  });
}

export async function createServer(options: ServerOptions): Promise<RunningServer> {
  const draining = new AbortController();
  const scope: CallScope = {
    logger: options.logger ?? pino({ enabled: false }),
    drainSignal: draining.signal,
    inFlight: new Set(),
    callsInFlightMax: options.callsInFlightMax ?? 1000,
    deadlineMsDefault: options.deadlineMsDefault ?? 600_000,
  };
  const health = new Health(options.services.map(({ service }) => service.typeName));
  options.onHealth?.(health);
  const services = [...options.services, health.implementation()];
  if (options.reflection ?? true) services.push(...reflectionServices(services.map(({ service }) => service)));

  const server = new Server(channelOptions(options));
  for (const { service, handlers } of services) {
    const calls = service.methods.map((method) => {
      const handler = handlers[method.localName];
      if (!handler) throw new Error(`${service.typeName}: expected a handler for ${method.name}, got none`);
      return [method.localName, grpcHandler(method, handler, scope)];
    });
    server.addService(bufferMethods(service), Object.fromEntries(calls) as UntypedServiceImplementation);
  }
  const host = options.host ?? "127.0.0.1";
  const port = await bind(server, host, options.port ?? 0, options.credentials ?? ServerCredentials.createInsecure());
  let drained: Promise<boolean> | undefined;
  return {
    address: `${host.includes(":") ? `[${host}]` : host}:${port}`,
    port,
    health,
    get callsInFlight() {
      return scope.inFlight.size;
    },
    drain: (deadlineMs = drainMsDefault) => {
      drained ??= drain(server, health, scope, draining, deadlineMs);
      return drained;
    },
  };
}

async function drain(
  server: Server,
  health: Health,
  scope: CallScope,
  draining: AbortController,
  deadlineMs: number,
): Promise<boolean> {
  const reason = new NibbleError("the server: is shutting down", { code: "UNAVAILABLE", op: "drain" });
  health.close();
  draining.abort(reason);
  const finished = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  if (await within(finished, deadlineMs)) return true;
  scope.logger.warn({ callsInFlight: scope.inFlight.size }, "drain: out of time, cancelling calls");
  for (const abort of [...scope.inFlight]) abort.abort(reason);
  await within(finished, statusFlushMs);
  server.forceShutdown();
  return false;
}

/** Whether the promise settles within `ms`. */
async function within(promise: Promise<void>, ms: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), ms);
  const isInTime = await Promise.race([promise.then(() => true), late.promise]);
  clearTimeout(timer);
  return isInTime;
}
