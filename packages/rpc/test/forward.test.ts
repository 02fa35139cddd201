// Calls through a front: messages, errors, cancellation and a server that is gone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import { createClient, createServer, forward } from "#packages/rpc";
import { collect, failure, startRegistry } from "./support.ts";

type Handlers = Parameters<typeof startRegistry>[1];

async function startFront(t: Parameters<typeof startRegistry>[0], handlers: Handlers) {
  const { server } = await startRegistry(t, handlers);
  const behind = forward(RegistryService, server.address);
  const front = await createServer({ services: [behind] });
  const client = createClient(RegistryService, front.address);
  t.after(async () => {
    client.close();
    await front.drain(0);
    behind.close();
  });
  return { client, server };
}

const header = { adapterId: "a", baseDigest: "d", files: [{ path: "x", sizeBytes: 1n, sha256: "0".repeat(64) }] };

test("unary calls, downloads and uploads pass through, and so do their errors", async (t) => {
  const { client } = await startFront(t, {
    getAdapter: ({ name }, { requestId }) => {
      if (name === "adapters/none") {
        throw new NibbleError("no such adapter", { code: "NOT_FOUND", op: "get", details: { name } });
      }
      return { adapter: { name, etag: requestId } };
    },
    downloadFile: async function* ({ offset }) {
      for (let i = 0; i < 3; i++) yield { offset: offset + BigInt(i), data: new Uint8Array([i]) };
    },
    createVersion: async (parts) => ({ version: { bytesTotal: BigInt((await collect(parts)).length) } }),
  });
  const { adapter } = await client.getAdapter({ name: "adapters/a" }, { metadata: { "x-request-id": "r-1" } });
  assert.deepEqual([adapter?.name, adapter?.etag], ["adapters/a", "r-1"]);
  const error = await failure(client.getAdapter({ name: "adapters/none" }));
  assert.deepEqual([error.code, error.op, error.details], ["NOT_FOUND", "get", { name: "adapters/none" }]);
  const parts = await collect(client.downloadFile({ name: "adapters/a/versions/1", path: "x", offset: 5n }));
  assert.deepEqual(
    parts.map(({ offset }) => offset),
    [5n, 6n, 7n],
  );
  const upload = async function* () {
    yield { part: { case: "header" as const, value: header } };
    yield { part: { case: "chunk" as const, value: { path: "x", data: new Uint8Array(8) } } };
  };
  assert.equal((await client.createVersion(upload())).version?.bytesTotal, 2n);
});

test("a client that goes away is gone for the server behind as well", async (t) => {
  const stopped = Promise.withResolvers<string>();
  const { client } = await startFront(t, {
    downloadFile: async function* (_, { signal }) {
      signal.addEventListener("abort", () => stopped.resolve((signal.reason as NibbleError).code));
      for (let i = 0n; !signal.aborted; i++) {
        yield { offset: i, data: new Uint8Array(1) };
        await new Promise(setImmediate);
      }
    },
  });
  for await (const part of client.downloadFile({ name: "adapters/a/versions/1", path: "x" })) {
    if (part.offset > 2n) break;
  }
  assert.equal(await stopped.promise, "CANCELLED");
});

test("a server behind that is gone is UNAVAILABLE", async (t) => {
  const { client, server } = await startFront(t, { getAdapter: () => ({}) });
  await client.getAdapter({ name: "adapters/a" });
  await server.drain(0);
  assert.equal((await failure(client.getAdapter({ name: "adapters/a" }))).code, "UNAVAILABLE");
});
