// Types of handlers and clients, derived from protobuf-es service descriptors.
import type { DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { Metadata } from "@grpc/grpc-js";
import type { Logger } from "pino";

/** What a handler knows about the call it answers. */
export interface CallContext {
  /** "nibble.trainer.v1.TrainerService/GetTrainingJob". */
  readonly method: string;
  /** Aborts when the client goes away, the deadline passes or a drain runs out of time; its reason is a NibbleError. */
  readonly signal: AbortSignal;
  /** Aborts when the server begins to drain. A stream that waits for news should then end with UNAVAILABLE. */
  readonly drainSignal: AbortSignal;
  /** When the client stops waiting. Undefined: it set no deadline. */
  readonly deadline: Date | undefined;
  readonly metadata: Metadata;
  /** The client's x-request-id, or a fresh UUID. It is in every log line and in error details. */
  readonly requestId: string;
  readonly peer: string;
  readonly logger: Logger;
}

type Input<M extends DescMethod> = MessageShape<M["input"]>;
type Output<M extends DescMethod> = MessageShape<M["output"]>;
type InputInit<M extends DescMethod> = MessageInitShape<M["input"]>;
type OutputInit<M extends DescMethod> = MessageInitShape<M["output"]>;

export type Handler<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: Input<M>, context: CallContext) => Promise<OutputInit<M>> | OutputInit<M>
  : M["methodKind"] extends "server_streaming"
    ? (request: Input<M>, context: CallContext) => AsyncIterable<OutputInit<M>>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<Input<M>>, context: CallContext) => Promise<OutputInit<M>>
      : (requests: AsyncIterable<Input<M>>, context: CallContext) => AsyncIterable<OutputInit<M>>;

/** One handler for each method of a service. */
export type Handlers<S extends DescService> = { [K in keyof S["method"]]: Handler<S["method"][K]> };

export interface CallOptions {
  /** Time the call may take, in milliseconds. Infinity: no deadline, for streams that watch. Default: the client's. */
  deadlineMs?: number;
  /** Cancels the call. */
  signal?: AbortSignal;
  /** Metadata to send. */
  metadata?: Record<string, string>;
}

export type ClientMethod<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: InputInit<M>, options?: CallOptions) => Promise<Output<M>>
  : M["methodKind"] extends "server_streaming"
    ? (request: InputInit<M>, options?: CallOptions) => AsyncIterable<Output<M>>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<InputInit<M>>, options?: CallOptions) => Promise<Output<M>>
      : (requests: AsyncIterable<InputInit<M>>, options?: CallOptions) => AsyncIterable<Output<M>>;

/** A method for each method of the service, and `close`. */
export type Client<S extends DescService> = { [K in keyof S["method"]]: ClientMethod<S["method"][K]> } & {
  /** Ends the connection. Calls that still run fail with UNAVAILABLE. */
  close(): void;
};
