// A typed gRPC client over protobuf-es descriptors: deadlines, cancellation, NibbleErrors, back-pressure, keepalive.
import type { Readable } from "node:stream";
import type { DescMethod, DescService, Message } from "@bufbuild/protobuf";
import type { ServiceError, CallOptions as WireOptions } from "@grpc/grpc-js";
import { ChannelCredentials, Client as GrpcClient, Metadata } from "@grpc/grpc-js";
import { NibbleError } from "#packages/errors";
import type { BufferMethod } from "./codec.ts";
import { bufferMethod, decode, encode, methodName } from "./codec.ts";
import { fromServiceError } from "./status.ts";
import { pump } from "./streams.ts";
import type { Observation } from "./telemetry.ts";
import { observeClientCall } from "./telemetry.ts";
import type { CallOptions, Client } from "./types.ts";

export interface ClientOptions {
  /** Deadline of unary calls, in milliseconds. Default: 30,000. */
  deadlineMs?: number;
  /** Deadline of streaming calls, in milliseconds. Default: 3,600,000. */
  streamDeadlineMs?: number;
  /** Wait for a server that is not there yet until the deadline, instead of failing at once. Default: false. */
  waitForReady?: boolean;
  /** Sent with every call. */
  metadata?: Record<string, string>;
  /** Largest message either way, in bytes. Default: 16 MiB. */
  messageBytesMax?: number;
  /** Flow-control window, in bytes. Default: 1 MiB. */
  windowBytes?: number;
  /** Silence after which a connection with calls is probed, in milliseconds. Default: 20,000. */
  keepaliveMs?: number;
  /** Default: without TLS. */
  credentials?: ChannelCredentials;
}

const deadlineMsDefault = 30_000;
const streamDeadlineMsDefault = 3_600_000;

function channelOptions(options: ClientOptions) {
  const bytesMax = options.messageBytesMax ?? 16 << 20;
  return {
    "grpc.max_receive_message_length": bytesMax,
    "grpc.max_send_message_length": bytesMax,
    "grpc-node.flow_control_window": options.windowBytes ?? 1 << 20,
    "grpc.keepalive_time_ms": options.keepaliveMs ?? 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
    // Retries would buffer what is streamed. Callers retry what they know to be idempotent (request_id).
    "grpc.enable_retries": 0,
    // Loopback and cluster addresses are not to go through a proxy that the environment names.
    "grpc.enable_http_proxy": 0,
  };
}

/** One call under way: what the four kinds of calls share. */
interface Started {
  metadata: Metadata;
  wire: WireOptions;
  observation: Observation;
  error(thrown: unknown): NibbleError;
}

class Caller {
  readonly #grpc: GrpcClient;
  readonly #address: string;
  readonly #options: ClientOptions;

  constructor(address: string, options: ClientOptions) {
    const credentials = options.credentials ?? ChannelCredentials.createInsecure();
    this.#grpc = new GrpcClient(address, credentials, channelOptions(options));
    this.#address = address;
    this.#options = options;
  }

  close(): void {
    this.#grpc.close();
  }

  #start(method: DescMethod, options: CallOptions): Started {
    if (options.signal?.aborted) {
      throw new NibbleError("the call: was cancelled before it began", { code: "CANCELLED", op: method.localName });
    }
    const metadata = new Metadata({ waitForReady: this.#options.waitForReady ?? false });
    for (const [key, value] of Object.entries({ ...this.#options.metadata, ...options.metadata })) {
      metadata.set(key, value);
    }
    const isUnary = method.methodKind === "unary";
    const deadlineMs =
      options.deadlineMs ??
      (isUnary
        ? (this.#options.deadlineMs ?? deadlineMsDefault)
        : (this.#options.streamDeadlineMs ?? streamDeadlineMsDefault));
    const where = `${methodName(method)} at ${this.#address}`;
    return {
      metadata,
      wire: Number.isFinite(deadlineMs) ? { deadline: Date.now() + deadlineMs } : {},
      observation: observeClientCall(methodName(method), method.methodKind, metadata),
      error: (thrown) =>
        isServiceError(thrown)
          ? fromServiceError(thrown, method.localName, where)
          : NibbleError.from(thrown, method.localName),
    };
  }

  /** Unary and client-streaming calls: `open` starts one, `feed` sends its requests. */
  async #single<C extends { cancel(): void }>(
    method: DescMethod,
    options: CallOptions,
    open: (started: Started, done: (error: ServiceError | null, value?: Buffer) => void) => C,
    feed?: (call: C, signal: AbortSignal) => Promise<void>,
  ): Promise<Message> {
    const started = this.#start(method, options);
    const ended = new AbortController();
    let stop = () => {};
    try {
      const bytes = await started.observation.run(() => {
        const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
        const call = open(started, (error, value) => (error || !value ? reject(error) : resolve(value)));
        stop = cancelOnAbort(call, options.signal);
        const settled = promise.finally(() => ended.abort());
        feed?.(call, ended.signal).catch((thrown) => {
          if (ended.signal.aborted) return;
          reject(thrown);
          call.cancel();
        });
        return settled;
      });
      started.observation.end("OK");
      return decode(method.output, bytes);
    } catch (thrown) {
      const error = started.error(thrown);
      started.observation.end(error.code, error);
      throw error;
    } finally {
      stop();
    }
  }

  unary(method: DescMethod, wire: BufferMethod, request: unknown, options: CallOptions): Promise<Message> {
    const bytes = encode(method.input, request);
    return this.#single(method, options, (started, done) =>
      this.#grpc.makeUnaryRequest(wire.path, identity, identity, bytes, started.metadata, started.wire, done),
    );
  }

  clientStream(method: DescMethod, wire: BufferMethod, requests: AsyncIterable<unknown>, options: CallOptions) {
    return this.#single(
      method,
      options,
      (started, done) =>
        this.#grpc.makeClientStreamRequest(wire.path, identity, identity, started.metadata, started.wire, done),
      async (call, signal) => {
        await pump(encodedAll(method, requests), call, signal);
        call.end();
      },
    );
  }

  async *serverStream(method: DescMethod, wire: BufferMethod, request: unknown, options: CallOptions) {
    const started = this.#start(method, options);
    const bytes = encode(method.input, request);
    const call = this.#grpc.makeServerStreamRequest(
      wire.path,
      identity,
      identity,
      bytes,
      started.metadata,
      started.wire,
    );
    yield* this.#responses(method, call, started, options);
  }

  async *bidiStream(method: DescMethod, wire: BufferMethod, requests: AsyncIterable<unknown>, options: CallOptions) {
    const started = this.#start(method, options);
    const call = this.#grpc.makeBidiStreamRequest(wire.path, identity, identity, started.metadata, started.wire);
    const ended = new AbortController();
    pump(encodedAll(method, requests), call, ended.signal).then(
      () => call.end(),
      (thrown) => {
        if (!ended.signal.aborted) call.destroy(thrown);
      },
    );
    try {
      yield* this.#responses(method, call, started, options);
    } finally {
      ended.abort();
    }
  }

  async *#responses(
    method: DescMethod,
    call: Readable & { cancel(): void },
    started: Started,
    options: CallOptions,
  ): AsyncGenerator<Message> {
    const stop = cancelOnAbort(call, options.signal);
    let code = "CANCELLED";
    let error: NibbleError | undefined;
    try {
      for await (const bytes of call) yield decode(method.output, bytes);
      code = "OK";
    } catch (thrown) {
      error = started.error(thrown);
      code = error.code;
      throw error;
    } finally {
      stop();
      // Whoever leaves the loop early cancels the call; for one that has ended this does nothing. The status that
      // then comes is of no interest.
      call.on("error", () => {});
      call.cancel();
      started.observation.end(code, error);
    }
  }
}

const identity = (bytes: Buffer): Buffer => bytes;

function isServiceError(thrown: unknown): thrown is ServiceError {
  return thrown instanceof Error && typeof (thrown as { code?: unknown }).code === "number" && "metadata" in thrown;
}

function cancelOnAbort(call: { cancel(): void }, signal: AbortSignal | undefined): () => void {
  const onAbort = () => call.cancel();
  signal?.addEventListener("abort", onAbort, { once: true });
  return () => signal?.removeEventListener("abort", onAbort);
}

async function* encodedAll(method: DescMethod, messages: AsyncIterable<unknown>): AsyncGenerator<Buffer> {
  for await (const message of messages) yield encode(method.input, message);
}

/** A client of one service at host:port. Connects on the first call. */
export function createClient<S extends DescService>(
  service: S,
  address: string,
  options: ClientOptions = {},
): Client<S> {
  const caller = new Caller(address, options);
  const methods = service.methods.map((method) => {
    const wire = bufferMethod(method);
    const call = (input: unknown, callOptions: CallOptions = {}): unknown => {
      switch (method.methodKind) {
        case "unary":
          return caller.unary(method, wire, input, callOptions);
        case "client_streaming":
          return caller.clientStream(method, wire, input as AsyncIterable<unknown>, callOptions);
        case "server_streaming":
          return caller.serverStream(method, wire, input, callOptions);
        case "bidi_streaming":
          return caller.bidiStream(method, wire, input as AsyncIterable<unknown>, callOptions);
      }
    };
    return [method.localName, call];
  });
  return Object.assign(Object.fromEntries(methods), { close: () => caller.close() }) as Client<S>;
}
