// Passes every call of a service on to the server that has it: one address in front of many. It decides nothing.
import type { DescService } from "@bufbuild/protobuf";
import type { ClientOptions } from "./client.ts";
import { createClient } from "./client.ts";
import type { Implementation } from "./server.ts";
import type { CallContext, CallOptions } from "./types.ts";

export interface Forwarded extends Implementation {
  close(): void;
}

type AnyMethod = (request: unknown, options: CallOptions) => unknown;

/** A client that goes away, and its deadline, reach the server behind. */
function optionsOf({ signal, deadline, requestId }: CallContext): CallOptions {
  const deadlineMs = deadline === undefined ? Number.POSITIVE_INFINITY : Math.max(1, deadline.getTime() - Date.now());
  return { signal, deadlineMs, metadata: { "x-request-id": requestId } };
}

export function forward(service: DescService, address: string, options: ClientOptions = {}): Forwarded {
  const client = createClient(service, address, options);
  const methods = client as unknown as Record<string, AnyMethod>;
  const handlers = service.methods.map(({ localName }) => [
    localName,
    (request: unknown, context: CallContext) => methods[localName]?.(request, optionsOf(context)),
  ]);
  return { service, handlers: Object.fromEntries(handlers), close: () => client.close() };
}
