// Servers and clients for the kit's tests: real sockets on loopback, handlers given by the test.
import type { TestContext } from "node:test";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import type { Client, ClientOptions, Handlers, RunningServer, ServerOptions } from "#packages/rpc";
import { createClient, createServer, implement } from "#packages/rpc";

export type RegistryHandlers = Handlers<typeof RegistryService>;
export type RegistryClient = Client<typeof RegistryService>;

/** The registry's contract with the given handlers; the others answer UNIMPLEMENTED. */
export function registryWith(handlers: Partial<RegistryHandlers>) {
  const missing = () => {
    throw new NibbleError("the handler: not part of this test", { code: "UNIMPLEMENTED", op: "test" });
  };
  const all = Object.fromEntries(RegistryService.methods.map((method) => [method.localName, missing]));
  return implement(RegistryService, { ...all, ...handlers } as unknown as RegistryHandlers);
}

/** A running registry with the given handlers and a client of it; both end with the test. */
export async function startRegistry(
  t: TestContext,
  handlers: Partial<RegistryHandlers>,
  options: { server?: Partial<ServerOptions>; client?: ClientOptions } = {},
): Promise<{ server: RunningServer; client: RegistryClient }> {
  const server = await createServer({ services: [registryWith(handlers)], ...options.server });
  const client = createClient(RegistryService, server.address, options.client);
  t.after(async () => {
    client.close();
    await server.drain(0);
  });
  return { server, client };
}

export async function collect<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const message of messages) all.push(message);
  return all;
}

/** The error that a promise rejects with; fails if it does not. */
export async function failure(promise: Promise<unknown>): Promise<NibbleError> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof NibbleError) return thrown;
    throw thrown;
  }
  throw new Error("expected the call to fail");
}
