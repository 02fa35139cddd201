// The hub's HTTP port by itself: who is waited for, and who is not.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { objectOf, route } from "../http.ts";
import { HubServer } from "../server.ts";

const idleMsShort = 100;

async function startServer(t: TestContext, { workMs = 0, idleMsMax = 60_000 } = {}): Promise<URL> {
  const routes = route("POST", "/work", async (request) => {
    const body = await objectOf(request);
    await sleep(workMs);
    return { json: body };
  });
  const logger = pino({ enabled: false });
  const server = await HubServer.start({ routes, host: "127.0.0.1", port: 0, logger, check: () => {}, idleMsMax });
  t.after(() => server.close(0));
  return new URL(server.url);
}

test("work that takes longer than a client may be silent is waited for", async (t) => {
  const url = await startServer(t, { workMs: 4 * idleMsShort, idleMsMax: idleMsShort });
  const answer = await fetch(new URL("/work", url), { method: "POST", body: '{"a":1}' });
  assert.deepEqual(await answer.json(), { a: 1 });
});

test("a client that stops in the middle of its request is cut", async (t) => {
  const { hostname, port } = await startServer(t, { idleMsMax: idleMsShort });
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => {});
  socket.write("POST /work HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{");
  socket.resume();
  await once(socket, "close");
});

test("what is no request, and paths that are no paths, end in an answer", async (t) => {
  const url = await startServer(t);
  const { hostname, port } = url;
  for (const text of [
    "nonsense\r\n\r\n",
    "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET //[ HTTP/1.1\r\nHost: h\r\n\r\n",
  ]) {
    const socket = connect({ host: hostname, port: Number(port) });
    socket.end(text);
    let got = "";
    for await (const piece of socket) got += piece;
    assert.match(got, /^HTTP\/1\.1 4\d\d /, text);
  }
  assert.equal((await fetch(new URL("/work", url), { method: "POST", body: "[]" })).status, 400);
});

test("a client that is still sending gets the answer that refuses what it sends", async (t) => {
  const url = await startServer(t);
  // More than the sockets' buffers hold: without it the client would be cut off before it reads the answer.
  for (let round = 0; round < 5; round++) {
    const body = Buffer.alloc(40 << 20, " ");
    const answer = await fetch(new URL("/work", url), { method: "POST", body });
    assert.equal(answer.status, 400);
    assert.match(await answer.text(), /expected at most 16777216 bytes, got more/);
  }
});
