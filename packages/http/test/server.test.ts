// The kit's server: routes, ids, who goes away, the drain, and what is no HTTP at all.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { objectOf } from "#packages/http";
import { startServer } from "./support.ts";

test("a path's parts are decoded; another method is told which ones there are", async (t) => {
  const server = await startServer(t, { "GET /v1/:a/*rest": async ({ params }) => ({ json: params }) });
  const answer = await fetch(`${server.url}/v1/x%20y/z/%C3%BC`, { headers: { "X-Request-Id": "mine" } });
  assert.deepEqual(await answer.json(), { a: "x y", rest: "z/ü" });
  assert.equal(answer.headers.get("x-request-id"), "mine");
  const refused = await fetch(`${server.url}/v1/x/y`, { method: "POST" });
  assert.equal(refused.status, 404);
  assert.match(await refused.text(), /none; GET/);
});

test("a client that goes away aborts the work, before the answer and in the middle of it", async (t) => {
  const gone = Promise.withResolvers<string>();
  const entered = Promise.withResolvers<void>();
  const server = await startServer(t, {
    "POST /work": async (request) => {
      await objectOf(request);
      request.signal.addEventListener("abort", () => gone.resolve(request.signal.reason.code));
      entered.resolve();
      await gone.promise;
      request.signal.throwIfAborted();
      return {};
    },
  });
  const abort = new AbortController();
  const call = fetch(`${server.url}/work`, { method: "POST", body: "{}", signal: abort.signal });
  await entered.promise;
  abort.abort();
  await assert.rejects(call);
  assert.equal(await gone.promise, "CANCELLED");
});

test("a stop waits for the answers under way, refuses new connections, and cuts what takes too long", async (t) => {
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<void>();
  let drains = false;
  const server = await startServer(t, {
    "GET /slow": async ({ drainSignal }) => {
      drainSignal.addEventListener("abort", () => {
        drains = true;
      });
      entered.resolve();
      await leave.promise;
      return { json: "done" };
    },
  });
  const call = fetch(`${server.url}/slow`);
  await entered.promise;
  const closed = server.close(60_000);
  assert.equal(drains, true);
  await assert.rejects(fetch(`${server.url}/slow`));
  leave.resolve();
  assert.equal(await (await call).json(), "done");
  assert.equal(await closed, true);

  const reached = Promise.withResolvers<void>();
  const stuck = await startServer(t, {
    "GET /never": () => {
      reached.resolve();
      return new Promise(() => {});
    },
  });
  const cut = assert.rejects(fetch(`${stuck.url}/never`));
  await reached.promise;
  assert.equal(await stuck.close(10), false);
  await cut;
});

test("anything at all on the wire ends in an answer or a closed connection, and the server goes on", async (t) => {
  const server = await startServer(t, { "POST /work": async (request) => ({ json: await objectOf(request) }) });
  const port = Number(new URL(server.url).port);
  const exchange = async (bytes: Uint8Array): Promise<string> => {
    const socket = connect({ host: "127.0.0.1", port });
    let got = "";
    socket.on("data", (piece) => {
      got += piece;
    });
    socket.on("error", () => {});
    const closed = once(socket, "close");
    socket.end(bytes);
    await closed;
    return got;
  };
  const head = fc.constantFrom(
    "POST /work HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
    "GET /%ff HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "POST /work HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "",
  );
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("\r\n", "\r\n\r\n", "Content-Length: 5\r\n\r\n"),
  );
  await fc.assert(
    fc.asyncProperty(head, text, fc.uint8Array({ maxLength: 64 }), async (first, second, third) => {
      const got = await exchange(Buffer.concat([Buffer.from(first + second), third]));
      assert.match(got, /^(HTTP\/1\.1 [2-4]\d\d |$)/);
    }),
    { numRuns: 100 },
  );
  await fc.assert(
    fc.asyncProperty(fc.json(), async (body) => {
      const answer = await fetch(`${server.url}/work`, { method: "POST", body });
      const value: unknown = JSON.parse(body);
      const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
      assert.equal(answer.status, isObject ? 200 : 400);
      await answer.text();
    }),
    { numRuns: 30 },
  );
});
