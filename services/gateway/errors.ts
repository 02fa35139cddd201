// Errors in the shape of OpenAI's API, with the HTTP status by which its clients know whether to try again.
import type { ErrorCode } from "#packages/errors";
import { NibbleError } from "#packages/errors";
import type { Answer } from "#packages/http";

const statusOf: Record<ErrorCode, number> = {
  INVALID_ARGUMENT: 400,
  FAILED_PRECONDITION: 400,
  OUT_OF_RANGE: 400,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  NOT_FOUND: 404,
  ALREADY_EXISTS: 409,
  ABORTED: 409,
  RESOURCE_EXHAUSTED: 429,
  CANCELLED: 499,
  INTERNAL: 500,
  DATA_LOSS: 500,
  UNIMPLEMENTED: 501,
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
};
/** Seconds after which trying again makes sense. */
const retryAfter: Partial<Record<ErrorCode, string>> = { RESOURCE_EXHAUSTED: "1", UNAVAILABLE: "1" };

export interface RefusalOptions {
  code?: ErrorCode;
  /** The parameter that is wrong, as the client wrote it: "messages[0].role". */
  param?: string;
  /** OpenAI's word for it, for example model_not_found. */
  openaiCode?: string;
}

/** Something that is wrong with a request, for OpenAI's clients. */
export function refusal(
  message: string,
  { code = "INVALID_ARGUMENT", param, openaiCode }: RefusalOptions = {},
): NibbleError {
  const details = { ...(param ? { param } : {}), ...(openaiCode ? { openai_code: openaiCode } : {}) };
  return new NibbleError(message, { code, op: "request", details });
}

export const modelNotFound = (name: string, reason: string): NibbleError =>
  refusal(`model: expected one that is there, got ${JSON.stringify(name.slice(0, 200))}: ${reason}`, {
    code: "NOT_FOUND",
    param: "model",
    openaiCode: "model_not_found",
  });

export function notFound(method: string, path: string, allowed: readonly string[]): NibbleError {
  if (allowed.length === 0) {
    return refusal(`${method} ${path}: expected an address of the API, got none`, {
      code: "NOT_FOUND",
      openaiCode: "unknown_url",
    });
  }
  const message = `${path}: expected ${allowed.join(" or ")}, got ${method}`;
  const details = { allow: allowed.join(", "), openai_code: "method_not_supported" };
  return new NibbleError(message, { code: "INVALID_ARGUMENT", op: "request", details });
}

function typeOf(status: number): string {
  if (status === 429) return "rate_limit_error";
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

const codeOf: Partial<Record<ErrorCode, string>> = {
  UNAUTHENTICATED: "invalid_api_key",
  RESOURCE_EXHAUSTED: "rate_limit_exceeded",
  UNAVAILABLE: "service_unavailable",
};

function statusOfError({ code, details }: NibbleError): number {
  if (details["allow"] !== undefined) return 405;
  return details["reason"] === "too_large" ? 413 : statusOf[code];
}

/** What the body of an error, or the last event of a stream that failed, holds. */
export function errorBody(error: NibbleError): { error: Record<string, string | null> } {
  const { param, field, openai_code } = error.details;
  const isOurs = error.code === "INTERNAL";
  const message = isOurs ? "[gateway] an error of the server; its log says more" : error.message;
  const code = openai_code ?? codeOf[error.code] ?? null;
  return { error: { message, type: typeOf(statusOfError(error)), param: param ?? field ?? null, code } };
}

export function errorAnswer(error: NibbleError): Answer {
  const after = retryAfter[error.code];
  const { allow } = error.details;
  return {
    status: statusOfError(error),
    headers: {
      ...(after === undefined ? {} : { "Retry-After": after }),
      ...(allow === undefined ? {} : { Allow: allow }),
      ...(error.code === "UNAUTHENTICATED" ? { "WWW-Authenticate": "Bearer" } : {}),
    },
    json: errorBody(error),
  };
}
