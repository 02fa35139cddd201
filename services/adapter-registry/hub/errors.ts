// Errors of the hub as HTTP answers: the status, and the header by which clients tell a missing repository from a
// missing file.
import type { ErrorCode } from "#packages/errors";
import { NibbleError } from "#packages/errors";
import type { Answer } from "./http.ts";

export type HubCode = "RepoNotFound" | "RevisionNotFound" | "EntryNotFound" | "GatedRepo";

const statusOf: Record<ErrorCode, number> = {
  INVALID_ARGUMENT: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  NOT_FOUND: 404,
  ALREADY_EXISTS: 409,
  // git's word for it at the Hub: "a commit has happened since".
  ABORTED: 412,
  FAILED_PRECONDITION: 412,
  OUT_OF_RANGE: 416,
  DATA_LOSS: 422,
  // The disk is full: trying again at once does not help, and clients do not try on a 507.
  RESOURCE_EXHAUSTED: 507,
  CANCELLED: 499,
  INTERNAL: 500,
  UNIMPLEMENTED: 501,
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
};

export function hubError(code: ErrorCode, hubCode: HubCode, message: string, details = {}): NibbleError {
  return new NibbleError(message, { code, op: "hub", details: { ...details, hub_code: hubCode } });
}

/** Too many at a time: the client may try again in a second. */
export function busy(message: string): NibbleError {
  return new NibbleError(message, { code: "UNAVAILABLE", op: "hub", details: { retry_after: "1" } });
}

/** Header values are bytes of one line; anything else is left out of them. */
function asHeader(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]+/g, " ").slice(0, 1000);
}

export function answerOf(error: NibbleError): Answer {
  const { hub_code, sha, size, retry_after, exact } = error.details;
  const isOurs = error.code === "INTERNAL";
  const text = isOurs ? "[hub] an error of the server; its log says more" : (exact ?? error.message);
  return {
    status: retry_after ? 429 : statusOf[error.code],
    headers: {
      "X-Error-Message": asHeader(text),
      ...(hub_code ? { "X-Error-Code": hub_code } : {}),
      ...(sha ? { "X-Repo-Commit": sha } : {}),
      ...(size ? { "Content-Range": `bytes */${size}` } : {}),
      ...(retry_after ? { "Retry-After": retry_after } : {}),
      ...(error.code === "UNAUTHENTICATED" ? { "WWW-Authenticate": "Bearer" } : {}),
    },
    json: { error: text },
  };
}
