// Answers one call: context, validation, the handler, errors, the log line, telemetry. It knows no sockets.
import { randomUUID } from "node:crypto";
import { setImmediate as tick } from "node:timers/promises";
import type { DescMethod, Message } from "@bufbuild/protobuf";
import type { ServerDuplexStream, ServerReadableStream, ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import { Metadata } from "@grpc/grpc-js";
import type { Logger } from "pino";
import { NibbleError } from "#packages/errors";
import { decode, encode, methodName, validate } from "./codec.ts";
import { toServiceError } from "./status.ts";
import { orAborted, pump, received } from "./streams.ts";
import { observeServerCall } from "./telemetry.ts";
import type { CallContext } from "./types.ts";

export type AnyServerCall =
  | ServerUnaryCall<Buffer, Buffer>
  | ServerReadableStream<Buffer, Buffer>
  | ServerWritableStream<Buffer, Buffer>
  | ServerDuplexStream<Buffer, Buffer>;

type Respond = (error: ReturnType<typeof toServiceError> | null, value?: Buffer) => void;
// The typed form is `Handler` in types.ts; here the method is only known at run time.
export type AnyHandler = (request: unknown, context: CallContext) => unknown;

/** What all calls of a server share. */
export interface CallScope {
  logger: Logger;
  drainSignal: AbortSignal;
  /** Calls in flight, by what aborts them. */
  inFlight: Set<AbortController>;
  callsInFlightMax: number;
  /** Limit for calls that come without a deadline and are not server streams, in milliseconds. */
  deadlineMsDefault: number;
}

function requestIdOf(metadata: Metadata): string {
  const [given] = metadata.get("x-request-id");
  return typeof given === "string" && given.length > 0 && given.length <= 128 ? given : randomUUID();
}

/** Aborts the controller when the client goes away or the deadline passes; returns what stops that. */
function watchCall(call: AnyServerCall, kind: DescMethod["methodKind"], scope: CallScope, abort: AbortController) {
  const given = call.getDeadline();
  const deadlineMs = given instanceof Date ? given.getTime() : given;
  const onCancel = () => {
    const isLate = Date.now() >= deadlineMs;
    abort.abort(
      isLate
        ? new NibbleError("the call: expected to end before its deadline", { code: "DEADLINE_EXCEEDED", op: "rpc" })
        : new NibbleError("the call: the client went away", { code: "CANCELLED", op: "rpc" }),
    );
  };
  const events: NodeJS.EventEmitter = call as ServerUnaryCall<Buffer, Buffer>;
  events.on("cancelled", onCancel);
  const hasLimit = !Number.isFinite(deadlineMs) && (kind === "unary" || kind === "client_streaming");
  const timer = hasLimit
    ? setTimeout(() => {
        const message = `the call: expected to end within ${scope.deadlineMsDefault} ms (set a deadline to allow more)`;
        abort.abort(new NibbleError(message, { code: "DEADLINE_EXCEEDED", op: "rpc" }));
      }, scope.deadlineMsDefault)
    : undefined;
  return {
    deadline: Number.isFinite(deadlineMs) ? new Date(deadlineMs) : undefined,
    stop: () => {
      clearTimeout(timer);
      events.off("cancelled", onCancel);
    },
  };
}

function admit(scope: CallScope): void {
  if (scope.drainSignal.aborted) throw scope.drainSignal.reason;
  if (scope.inFlight.size >= scope.callsInFlightMax) {
    const message = `calls in flight: expected at most ${scope.callsInFlightMax}, got one more`;
    throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "rpc" });
  }
}

/** Runs `work` as the answer to a call. `done` hears of its end, well or not. */
export async function answer(
  call: AnyServerCall,
  method: DescMethod,
  scope: CallScope,
  work: (context: CallContext) => Promise<void>,
  fail: (error: ReturnType<typeof toServiceError>) => void,
): Promise<void> {
  const started = performance.now();
  const name = methodName(method);
  const requestId = requestIdOf(call.metadata);
  const logger = scope.logger.child({ method: name, requestId });
  const abort = new AbortController();
  const { deadline, stop } = watchCall(call, method.methodKind, scope, abort);
  const context: CallContext = {
    method: name,
    signal: abort.signal,
    drainSignal: scope.drainSignal,
    deadline,
    metadata: call.metadata,
    requestId,
    peer: call.getPeer(),
    logger,
  };
  const observation = observeServerCall(name, method.methodKind, call.metadata);
  let failure: NibbleError | undefined;
  try {
    admit(scope);
    scope.inFlight.add(abort);
    await observation.run(() => work(context));
  } catch (thrown) {
    // Whatever an aborted handler throws, the reason it was aborted is what the client should hear.
    failure = NibbleError.from(abort.signal.aborted ? abort.signal.reason : thrown, method.localName);
    fail(toServiceError(failure, requestId));
  } finally {
    stop();
    scope.inFlight.delete(abort);
    // A handler that outlives its call stops as well.
    if (!abort.signal.aborted) abort.abort(new NibbleError("the call: it has ended", { code: "CANCELLED", op: "rpc" }));
  }
  const ms = Math.round((performance.now() - started) * 10) / 10;
  observation.end(failure?.code ?? "OK", failure);
  const line = { code: failure?.code ?? "OK", ms, peer: context.peer };
  if (!failure) logger.info(line, "call");
  else if (failure.code === "INTERNAL" || failure.code === "DATA_LOSS") logger.error({ ...line, err: failure }, "call");
  else logger.warn({ ...line, error: failure.message }, "call");
}

function parsed(method: DescMethod, bytes: Buffer): Message {
  const message = decode(method.input, bytes);
  validate(method.input, message, method.localName);
  return message;
}

type RequestStream = ServerReadableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;

async function* parsedAll(method: DescMethod, call: RequestStream, signal: AbortSignal): AsyncGenerator<Message> {
  for await (const bytes of received(call, signal)) yield parsed(method, bytes);
  // grpc-js reports the end of a stream that the client cancelled as if the client had finished it. Sending headers
  // makes it look whether the stream is still open, and report the cancellation a tick later if it is not.
  call.sendMetadata(new Metadata());
  await tick();
  signal.throwIfAborted();
}

async function* encodedAll(method: DescMethod, messages: AsyncIterable<unknown>): AsyncGenerator<Buffer> {
  for await (const message of messages) yield encode(method.output, message);
}

/** The grpc-js handler of a method. */
export function grpcHandler(method: DescMethod, handler: AnyHandler, scope: CallScope) {
  const requestOf = (call: AnyServerCall, context: CallContext): unknown =>
    method.methodKind === "unary" || method.methodKind === "server_streaming"
      ? parsed(method, (call as ServerUnaryCall<Buffer, Buffer>).request)
      : parsedAll(method, call as RequestStream, context.signal);
  if (method.methodKind === "unary" || method.methodKind === "client_streaming") {
    return (call: AnyServerCall, respond: Respond) =>
      answer(
        call,
        method,
        scope,
        async (context) => {
          const response = await orAborted((async () => handler(requestOf(call, context), context))(), context.signal);
          respond(null, encode(method.output, response));
        },
        (error) => respond(error),
      );
  }
  return (call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>) =>
    answer(
      call,
      method,
      scope,
      async (context) => {
        const responses = handler(requestOf(call, context), context) as AsyncIterable<unknown>;
        await pump(encodedAll(method, responses), call, context.signal);
        call.end();
      },
      (error) => call.destroyed || call.emit("error", error),
    );
}
