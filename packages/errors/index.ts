// The one error type of the TypeScript code. Its codes are google.rpc.Code names, so that a service
// answers with it without a table of its own. It knows no transport. Beside it: how to wait before another attempt.

export { BackOff, type BackOffOptions } from "./back-off.ts";

export const errorCodes = [
  "CANCELLED",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
] as const;

export type ErrorCode = (typeof errorCodes)[number];

export interface ErrorOptions {
  code: ErrorCode;
  /** What was being done; it opens the message: "[op] …". */
  op: string;
  /** Machine-readable facts (file, line, expected, got); they travel as ErrorInfo metadata. */
  details?: Record<string, string>;
  cause?: unknown;
}

export class NibbleError extends Error {
  override readonly name = "NibbleError";
  readonly code: ErrorCode;
  readonly op: string;
  readonly details: Record<string, string>;

  constructor(message: string, options: ErrorOptions) {
    super(message.startsWith("[") ? message : `[${options.op}] ${message}`, { cause: options.cause });
    this.code = options.code;
    this.op = options.op;
    this.details = options.details ?? {};
  }

  /** The message without what was being done: for a message that says more of where. */
  get reason(): string {
    return this.message.replace(/^\[[^\]]*\] /, "");
  }

  /** Any thrown value as a NibbleError. Errors of the addon, aborts and system errors keep their meaning. */
  static from(thrown: unknown, op = "nibble"): NibbleError {
    if (thrown instanceof NibbleError) return thrown;
    if (!(thrown instanceof Error)) return new NibbleError(String(thrown), { code: "INTERNAL", op });
    return new NibbleError(thrown.message, { code: codeOf(thrown), op: opOf(thrown) ?? op, cause: thrown });
  }
}

const codeOfSystemError: Record<string, ErrorCode> = {
  ENOENT: "NOT_FOUND",
  EACCES: "PERMISSION_DENIED",
  EPERM: "PERMISSION_DENIED",
  EROFS: "PERMISSION_DENIED",
  EEXIST: "ALREADY_EXISTS",
  ENOTDIR: "FAILED_PRECONDITION",
  EISDIR: "FAILED_PRECONDITION",
  ENAMETOOLONG: "INVALID_ARGUMENT",
  ENOSPC: "RESOURCE_EXHAUSTED",
  EDQUOT: "RESOURCE_EXHAUSTED",
  EMFILE: "RESOURCE_EXHAUSTED",
  ENOMEM: "RESOURCE_EXHAUSTED",
  EADDRINUSE: "FAILED_PRECONDITION",
  ECONNREFUSED: "UNAVAILABLE",
  ABORT_ERR: "CANCELLED",
};

function codeOf(error: Error): ErrorCode {
  const code = (error as { code?: unknown }).code;
  if (error.name === "AbortError") return "CANCELLED";
  if (error instanceof RangeError) return "INVALID_ARGUMENT";
  if (typeof code !== "string") return "INTERNAL";
  return errorCodes.find((known) => known === code) ?? codeOfSystemError[code] ?? "INTERNAL";
}

function opOf(error: Error): string | undefined {
  const op = (error as { op?: unknown }).op;
  return typeof op === "string" ? op : undefined;
}

/** INVALID_ARGUMENT unless `ok`. Say what was expected and what came. */
export function expect(ok: boolean, op: string, message: string, details?: Record<string, string>): asserts ok {
  if (!ok) throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, ...(details ? { details } : {}) });
}
