// Messages to and from bytes, with validation of what comes in. grpc-js itself only sees buffers, so that a message
// that does not parse is answered as bad input, and the size of what waits to be sent is known.
import type { DescMessage, DescMethod, DescService, Message, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import type { MethodDefinition } from "@grpc/grpc-js";
import { NibbleError } from "#packages/errors";
import { BadRequestError } from "./status.ts";

const validator = createValidator();

export function encode(schema: DescMessage, init: unknown): Buffer {
  const bytes = toBinary(schema, create(schema, init as MessageInitShape<DescMessage>));
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function decode(schema: DescMessage, bytes: Buffer): Message {
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    const message = `${schema.typeName}: expected its protobuf encoding, got ${bytes.length} bytes that do not parse`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "decode", cause });
  }
}

/** Throws BadRequestError with every violation of the rules written in the protos. */
export function validate(schema: DescMessage, message: Message, op: string): void {
  const result = validator.validate(schema, message);
  if (result.kind === "valid") return;
  if (result.kind === "error") {
    throw new NibbleError(`${schema.typeName}: ${result.error.message}`, { code: "INTERNAL", op, cause: result.error });
  }
  throw new BadRequestError(
    op,
    result.violations.map(({ field, message }) => ({ field: pathToString(field), description: message })),
  );
}

export type BufferMethod = MethodDefinition<Buffer, Buffer>;

const identity = (bytes: Buffer): Buffer => bytes;

export function methodName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

/** The grpc-js form of a method whose messages are bytes. */
export function bufferMethod(method: DescMethod): BufferMethod {
  return {
    path: `/${methodName(method)}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: identity,
    requestDeserialize: identity,
    responseSerialize: identity,
    responseDeserialize: identity,
    originalName: method.localName,
  };
}

export function bufferMethods(service: DescService): Record<string, BufferMethod> {
  return Object.fromEntries(service.methods.map((method) => [method.localName, bufferMethod(method)]));
}
