// Every kind of call, and every error, over real sockets.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { errorCodes, NibbleError } from "#packages/errors";
import { BadRequestError, createClient } from "#packages/rpc";
import { collect, failure, startRegistry } from "./support.ts";

test("unary, server-streaming and client-streaming calls carry their messages", async (t) => {
  const { client } = await startRegistry(t, {
    getAdapter: ({ name }) => ({ adapter: { name, latestVersion: 3n } }),
    downloadFile: async function* ({ offset }) {
      for (let i = 0; i < 3; i++) yield { offset: offset + BigInt(i), data: new Uint8Array([i]) };
    },
    createVersion: async (parts) => {
      const all = await collect(parts);
      return { version: { name: "adapters/a/versions/1", bytesTotal: BigInt(all.length) } };
    },
  });
  const { adapter } = await client.getAdapter({ name: "adapters/a" });
  assert.deepEqual([adapter?.name, adapter?.latestVersion], ["adapters/a", 3n]);
  const parts = await collect(client.downloadFile({ name: "adapters/a/versions/1", path: "x", offset: 7n }));
  assert.deepEqual(
    parts.map((part) => [part.offset, [...part.data]]),
    [
      [7n, [0]],
      [8n, [1]],
      [9n, [2]],
    ],
  );
  const upload = async function* () {
    yield { part: { case: "header" as const, value: header } };
    for (let i = 0; i < 4; i++) {
      yield { part: { case: "chunk" as const, value: { path: "x", data: new Uint8Array(100_000) } } };
    }
  };
  const { version } = await client.createVersion(upload());
  assert.equal(version?.bytesTotal, 5n);
});

const header = { adapterId: "a", baseDigest: "d", files: [{ path: "x", sizeBytes: 1n, sha256: "0".repeat(64) }] };

test("every error code arrives as it was thrown, with op and details", async (t) => {
  let code = errorCodes[0] as (typeof errorCodes)[number];
  const { client } = await startRegistry(t, {
    getAdapter: () => {
      throw new NibbleError("adapter: expected one, got none — ünïcode", { code, op: "get", details: { name: "a" } });
    },
    // biome-ignore lint/correctness/useYield: it fails before it has something to send.
    downloadFile: async function* () {
      throw new NibbleError("file: gone", { code, op: "download", details: { path: "x" } });
    },
  });
  for (code of errorCodes) {
    const error = await failure(client.getAdapter({ name: "adapters/a" }));
    assert.deepEqual([error.code, error.op, error.details], [code, "get", { name: "a" }]);
    assert.equal(error.message, "[get] adapter: expected one, got none — ünïcode");
    const streamed = await failure(collect(client.downloadFile({ name: "adapters/a/versions/1", path: "x" })));
    assert.deepEqual([streamed.code, streamed.op, streamed.details], [code, "download", { path: "x" }]);
  }
});

test("a thrown value that is no NibbleError is INTERNAL, and a very long message is cut", async (t) => {
  const { client } = await startRegistry(t, {
    getAdapter: () => {
      throw new Error(`${"x".repeat(100_000)}\ud800`);
    },
  });
  const error = await failure(client.getAdapter({ name: "adapters/a" }));
  assert.equal(error.code, "INTERNAL");
  assert.ok(error.message.length <= 2048 && error.message.endsWith("…"));
});

test("a message that breaks its rules is refused with every field that does", async (t) => {
  let calls = 0;
  const { client } = await startRegistry(t, {
    listVersions: () => {
      calls++;
      return {};
    },
    createVersion: async (parts) => {
      await collect(parts);
      return {};
    },
  });
  const error = await failure(client.listVersions({ parent: "nothing", pageSize: -1 }));
  assert.ok(error instanceof BadRequestError);
  assert.equal(error.code, "INVALID_ARGUMENT");
  assert.deepEqual(error.violations.map(({ field }) => field).sort(), ["page_size", "parent"]);
  assert.match(error.message, /^\[listVersions\] parent: /);
  assert.equal(calls, 0);
  const upload = async function* () {
    yield { part: { case: "chunk" as const, value: { data: new Uint8Array((1 << 20) + 1) } } };
  };
  const streamed = await failure(client.createVersion(upload()));
  assert.ok(streamed instanceof BadRequestError);
  assert.equal(streamed.violations[0]?.field, "chunk.data");
});

test("bytes that are no message are INVALID_ARGUMENT", async (t) => {
  const { server } = await startRegistry(t, {});
  const raw = new grpc.Client(server.address, grpc.ChannelCredentials.createInsecure());
  t.after(() => raw.close());
  const error = await new Promise<grpc.ServiceError | null>((resolve) => {
    const same = (bytes: Buffer) => bytes;
    const path = "/nibble.registry.v1.RegistryService/GetAdapter";
    raw.makeUnaryRequest(path, same, same, Buffer.from([0xff, 0xff]), (thrown) => resolve(thrown));
  });
  assert.equal(error?.code, grpc.status.INVALID_ARGUMENT);
});

test("nobody listening is UNAVAILABLE, and the address is named", async (t) => {
  const client = createClient(RegistryService, "127.0.0.1:1", { deadlineMs: 5000 });
  t.after(() => client.close());
  const error = await failure(client.getAdapter({ name: "adapters/a" }));
  assert.equal(error.code, "UNAVAILABLE");
  assert.match(error.message, /^\[getAdapter\] nibble\.registry\.v1\.RegistryService\/GetAdapter at 127\.0\.0\.1:1: /);
});

test("too many calls at a time are refused", async (t) => {
  const gate = Promise.withResolvers<void>();
  const entered = Promise.withResolvers<void>();
  const { client } = await startRegistry(
    t,
    {
      getAdapter: async () => {
        entered.resolve();
        await gate.promise;
        return {};
      },
    },
    { server: { callsInFlightMax: 1 } },
  );
  const first = client.getAdapter({ name: "adapters/a" });
  await entered.promise;
  const error = await failure(client.getAdapter({ name: "adapters/a" }));
  assert.equal(error.code, "RESOURCE_EXHAUSTED");
  gate.resolve();
  await first;
});

test("a request id goes through, and comes back in the error's details", async (t) => {
  let seen = "";
  const { client } = await startRegistry(t, {
    getAdapter: (_, { requestId }) => {
      seen = requestId;
      return {};
    },
  });
  await client.getAdapter({ name: "adapters/a" }, { metadata: { "x-request-id": "r-17" } });
  assert.equal(seen, "r-17");
});
