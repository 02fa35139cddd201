// Deadlines, cancellation and back-pressure: work stops when nobody waits for it, and nothing piles up.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep, setImmediate as tick } from "node:timers/promises";
import { NibbleError } from "#packages/errors";
import { collect, failure, startRegistry } from "./support.ts";

const file = { name: "adapters/a/versions/1", path: "x" };
const aborted = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

test("a deadline ends the call on both sides", async (t) => {
  const reason = Promise.withResolvers<unknown>();
  const { client } = await startRegistry(t, {
    getAdapter: async (_, { signal, deadline }) => {
      assert.ok(deadline instanceof Date);
      await aborted(signal);
      reason.resolve(signal.reason);
      return {};
    },
  });
  const error = await failure(client.getAdapter({ name: "adapters/a" }, { deadlineMs: 50 }));
  assert.equal(error.code, "DEADLINE_EXCEEDED");
  const seen = await reason.promise;
  assert.ok(seen instanceof NibbleError);
  assert.ok(seen.code === "DEADLINE_EXCEEDED" || seen.code === "CANCELLED", seen.code);
});

test("a call without a deadline gets the server's", async (t) => {
  const { client } = await startRegistry(
    t,
    { getAdapter: () => new Promise(() => {}) },
    { server: { deadlineMsDefault: 30 } },
  );
  const error = await failure(client.getAdapter({ name: "adapters/a" }, { deadlineMs: Number.POSITIVE_INFINITY }));
  assert.equal(error.code, "DEADLINE_EXCEEDED");
  assert.match(error.message, /within 30 ms/);
});

test("cancelling a unary call reaches its handler", async (t) => {
  const entered = Promise.withResolvers<void>();
  const reason = Promise.withResolvers<NibbleError>();
  const { client } = await startRegistry(t, {
    getAdapter: async (_, { signal }) => {
      entered.resolve();
      await aborted(signal);
      reason.resolve(signal.reason);
      return {};
    },
  });
  const cancel = new AbortController();
  const call = client.getAdapter({ name: "adapters/a" }, { signal: cancel.signal });
  await entered.promise;
  cancel.abort();
  assert.equal((await failure(call)).code, "CANCELLED");
  assert.equal((await reason.promise).code, "CANCELLED");
  const late = client.getAdapter({ name: "adapters/a" }, { signal: cancel.signal });
  assert.equal((await failure(late)).code, "CANCELLED");
});

test("a reader that leaves the loop ends the server's generator", async (t) => {
  const ended = Promise.withResolvers<void>();
  const { client, server } = await startRegistry(t, {
    downloadFile: async function* () {
      try {
        for (;;) {
          yield { data: new Uint8Array(1000) };
          await tick();
        }
      } finally {
        ended.resolve();
      }
    },
  });
  for await (const part of client.downloadFile(file)) {
    assert.equal(part.data.length, 1000);
    break;
  }
  await ended.promise;
  while (server.callsInFlight > 0) await tick();
});

test("a slow reader holds the producer back", async (t) => {
  const total = 400;
  let produced = 0;
  const { client } = await startRegistry(t, {
    downloadFile: async function* () {
      for (; produced < total; produced++) yield { offset: BigInt(produced), data: new Uint8Array(256 * 1024) };
    },
  });
  let read = 0;
  for await (const part of client.downloadFile(file)) {
    assert.equal(part.offset, BigInt(read++));
    if (read === 1) {
      // Time enough to produce all 100 MB if nothing held the handler back.
      let before = -1;
      while (before !== produced) {
        before = produced;
        await sleep(100);
      }
      assert.ok(produced < 60, `expected a few dozen messages ahead of the reader, got ${produced}`);
    }
  }
  assert.equal(read, total);
});

test("a slow handler holds an upload back", async (t) => {
  let sent = 0;
  const go = Promise.withResolvers<void>();
  const { client } = await startRegistry(t, {
    createVersion: async (parts) => {
      await go.promise;
      const all = await collect(parts);
      return { version: { bytesTotal: BigInt(all.length) } };
    },
  });
  const upload = async function* () {
    for (; sent < 400; sent++) yield { part: { case: "chunk" as const, value: { data: new Uint8Array(256 * 1024) } } };
  };
  const call = client.createVersion(upload());
  let before = -1;
  while (before !== sent || sent === 0) {
    before = sent;
    await sleep(100);
  }
  assert.ok(sent < 60, `expected a few dozen messages ahead of the handler, got ${sent}`);
  go.resolve();
  assert.equal((await call).version?.bytesTotal, 400n);
});

test("an upload whose source fails is cancelled, and the source's error comes out", async (t) => {
  const heard = Promise.withResolvers<unknown>();
  const arrived = Promise.withResolvers<void>();
  const { client } = await startRegistry(t, {
    createVersion: async (parts) => {
      try {
        for await (const _ of parts) arrived.resolve();
      } catch (error) {
        heard.resolve(error);
        throw error;
      }
      return {};
    },
  });
  const upload = async function* () {
    yield { part: { case: "chunk" as const, value: { data: new Uint8Array(1) } } };
    await arrived.promise;
    throw new NibbleError("the disk: gone", { code: "DATA_LOSS", op: "read" });
  };
  const error = await failure(client.createVersion(upload()));
  assert.deepEqual([error.code, error.op], ["DATA_LOSS", "read"]);
  assert.equal(((await heard.promise) as NibbleError).code, "CANCELLED");
});

test("a handler that refuses an upload early stops its source", async (t) => {
  let isStopped = false;
  const { client } = await startRegistry(t, {
    createVersion: async () => {
      throw new NibbleError("the disk: full", { code: "RESOURCE_EXHAUSTED", op: "write" });
    },
  });
  const upload = async function* () {
    try {
      for (;;) yield { part: { case: "chunk" as const, value: { data: new Uint8Array(1 << 20) } } };
    } finally {
      isStopped = true;
    }
  };
  const error = await failure(client.createVersion(upload()));
  assert.equal(error.code, "RESOURCE_EXHAUSTED");
  while (!isStopped) await tick();
});
