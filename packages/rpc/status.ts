// NibbleError to and from google.rpc.Status. A status travels in the trailer grpc-status-details-bin with ErrorInfo
// (reason, domain "nibble", the error's details), for bad input BadRequest with a violation for each field, and for a limit
// that an error's detail `quota` names, QuotaFailure.
import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { anyPack, anyUnpack } from "@bufbuild/protobuf/wkt";
import type { ServiceError } from "@grpc/grpc-js";
import { status as grpcStatus, Metadata } from "@grpc/grpc-js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RequestInfoSchema,
} from "#gen/google/rpc/error_details_pb.ts";
import type { Status } from "#gen/google/rpc/status_pb.ts";
import { StatusSchema } from "#gen/google/rpc/status_pb.ts";
import type { ErrorCode } from "#packages/errors";
import { errorCodes, NibbleError } from "#packages/errors";

export const errorDomain = "nibble";
const detailsKey = "grpc-status-details-bin";
/** HTTP/2 peers refuse large trailers, so a message and a detail have limits. */
const messageCharsMax = 2048;
const detailCharsMax = 1024;
const detailsMax = 32;

export interface FieldViolation {
  field: string;
  description: string;
}

/** Bad input with the fields that are wrong. */
export class BadRequestError extends NibbleError {
  readonly violations: FieldViolation[];

  constructor(op: string, violations: FieldViolation[], message?: string, details?: Record<string, string>) {
    const text = violations.map(({ field, description }) => (field ? `${field}: ${description}` : description));
    super(message ?? text.join("; "), { code: "INVALID_ARGUMENT", op, ...(details ? { details } : {}) });
    this.violations = violations;
  }
}

export function toGrpcCode(code: ErrorCode): grpcStatus {
  return grpcStatus[code];
}

/** UNKNOWN, and codes that do not exist, are INTERNAL here. */
export function fromGrpcCode(code: number): ErrorCode {
  const name = grpcStatus[code];
  return errorCodes.find((known) => known === name) ?? "INTERNAL";
}

function limited(text: string, charsMax: number): string {
  const whole = text.toWellFormed();
  return whole.length <= charsMax ? whole : `${whole.slice(0, charsMax - 1).toWellFormed()}…`;
}

function reasonOf(error: NibbleError): string {
  const op = error.op.replaceAll(/[^A-Za-z0-9]+/g, "_").toUpperCase();
  return `${op}_${error.code}`.slice(0, 63);
}

function packed<D extends DescMessage>(schema: D, init: MessageInitShape<D>): Any {
  return anyPack(schema, create(schema, init));
}

/** The google.rpc.Status of an error, as it also stands in records of jobs and operations. */
export function toStatus(thrown: unknown, requestId?: string): Status {
  const error = NibbleError.from(thrown);
  const entries = Object.entries({ op: error.op, ...error.details }).slice(0, detailsMax);
  const metadata = Object.fromEntries(entries.map(([key, value]) => [key, limited(String(value), detailCharsMax)]));
  const details = [packed(ErrorInfoSchema, { reason: reasonOf(error), domain: errorDomain, metadata })];
  if (error instanceof BadRequestError) {
    const fieldViolations = error.violations.slice(0, detailsMax).map(({ field, description }) => ({
      field: limited(field, detailCharsMax),
      description: limited(description, detailCharsMax),
    }));
    details.push(packed(BadRequestSchema, { fieldViolations }));
  }
  const { quota } = error.details;
  if (error.code === "RESOURCE_EXHAUSTED" && quota !== undefined) {
    const violation = { subject: limited(quota, detailCharsMax), description: limited(error.message, detailCharsMax) };
    details.push(packed(QuotaFailureSchema, { violations: [violation] }));
  }
  if (requestId) details.push(packed(RequestInfoSchema, { requestId }));
  return create(StatusSchema, {
    code: toGrpcCode(error.code),
    message: limited(error.message, messageCharsMax),
    details,
  });
}

/** The error that a google.rpc.Status describes. */
export function fromStatus(status: Status, op = "rpc"): NibbleError {
  let details: Record<string, string> = {};
  let violations: FieldViolation[] = [];
  for (const any of status.details) {
    const info = anyUnpack(any, ErrorInfoSchema);
    if (info && info.domain === errorDomain) details = { ...info.metadata };
    const bad = anyUnpack(any, BadRequestSchema);
    if (bad) violations = bad.fieldViolations.map(({ field, description }) => ({ field, description }));
  }
  const { op: remoteOp = op, ...rest } = details;
  const code = fromGrpcCode(status.code);
  if (code === "INVALID_ARGUMENT" && violations.length > 0) {
    return new BadRequestError(remoteOp, violations, status.message, rest);
  }
  return new NibbleError(status.message, { code, op: remoteOp, details: rest });
}

/** What a grpc-js handler hands back for an error. */
export function toServiceError(thrown: unknown, requestId?: string): Partial<ServiceError> {
  const status = toStatus(thrown, requestId);
  const metadata = new Metadata();
  metadata.set(detailsKey, Buffer.from(toBinary(StatusSchema, status)));
  return { code: status.code, details: status.message, metadata };
}

/** The NibbleError of what grpc-js reports for a call. `where` names the call and the peer. */
export function fromServiceError(error: ServiceError, op: string, where: string): NibbleError {
  const [bytes] = error.metadata?.get(detailsKey) ?? [];
  if (bytes instanceof Uint8Array) {
    try {
      return fromStatus(fromBinary(StatusSchema, bytes), op);
    } catch {
      // A foreign server's details that do not parse: the code and text remain.
    }
  }
  const message = `${where}: ${error.details || error.message}`;
  return new NibbleError(message, { code: fromGrpcCode(error.code), op, details: { peer: where }, cause: error });
}
