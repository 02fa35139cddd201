// Requests and answers as handlers see them. They know no sockets.
import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import type { Logger } from "pino";

export interface Request {
  method: string;
  url: URL;
  /** Parts of the path by the names of the route, decoded. */
  params: Record<string, string>;
  headers: IncomingMessage["headers"];
  /** To be read once; what is not read is dropped. */
  body: AsyncIterable<Buffer>;
  /** "http://host:port" as the client calls this server. */
  origin: string;
  /** Aborts when the client goes away before it has the whole answer; its reason is a NibbleError. */
  signal: AbortSignal;
  /** Aborts when the server begins to stop: a stream that waits for news should then end. */
  drainSignal: AbortSignal;
  /** The client's X-Request-Id, or a fresh UUID. It is in the log and in the answer. */
  requestId: string;
  logger: Logger;
}

export interface Answer {
  /** Default: 200. */
  status?: number;
  headers?: Record<string, string>;
  json?: unknown;
  /** Of the type that the headers say. */
  text?: string;
  /** Its length, where it is known, is among the headers. */
  stream?: () => Readable;
}

export type Handler = (request: Request) => Promise<Answer>;

export interface Route {
  method: string;
  /** As it was written: the name of the route in logs, traces and metrics. */
  path: string;
  pattern: RegExp;
  handler: Handler;
}
