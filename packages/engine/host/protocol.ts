// What the main thread and the engine's worker say to each other: calls with a number, events of a call,
// one result or error for each. The worker's come as arrays, in order. Everything is structured-cloned; no native handle
// crosses.
import type { ErrorCode } from "#packages/errors";

export type ToWorker = { kind: "call"; id: number; method: string; args: unknown } | { kind: "cancel"; id: number };

export interface WireError {
  code: ErrorCode;
  op: string;
  message: string;
  details: Record<string, string>;
}

export type FromWorker =
  | { kind: "event"; id: number; event: unknown }
  | { kind: "result"; id: number; result: unknown }
  | { kind: "error"; id: number; error: WireError };
