// Server-sent events: back-pressure, heartbeats, errors before and after the first event, clients that leave.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { NibbleError } from "#packages/errors";
import { events } from "#packages/http";
import { startServer } from "./support.ts";

const options = { onError: (error: NibbleError) => JSON.stringify({ error: error.message }), end: "[DONE]" };
const failure = new NibbleError("no more", { code: "UNAVAILABLE", op: "test" });

test("events, then the end; an error in the middle is the last event, one at the start is the answer's status", async (t) => {
  const server = await startServer(t, {
    "GET /good": () => events(series(2), options),
    "GET /middle": () => events(series(1, failure), options),
    "GET /start": () => events(series(0, failure), options),
  });
  const text = async (path: string) => (await fetch(server.url + path)).text();
  assert.equal(await text("/good"), "data: 0\n\ndata: 1\n\ndata: [DONE]\n\n");
  assert.equal(await text("/middle"), 'data: 0\n\ndata: {"error":"[test] no more"}\n\n');
  assert.equal((await fetch(`${server.url}/start`)).status, 503);
});

async function* series(count: number, then?: Error): AsyncGenerator<string> {
  for (let i = 0; i < count; i++) yield String(i);
  if (then) throw then;
}

test("silence is filled with comments, before the first event as well", async (t) => {
  const server = await startServer(t, {
    "GET /": () =>
      events(
        (async function* () {
          await sleep(60);
          yield "a";
          await sleep(60);
        })(),
        { ...options, heartbeatMs: 10 },
      ),
  });
  const text = await (await fetch(server.url)).text();
  const [before = "", after = ""] = text.split("data: a\n\n");
  assert.ok(before.startsWith(": \n\n"), text);
  assert.match(after, /^(: \n\n)+data: \[DONE\]\n\n$/);
});

test("a client that does not read holds the source back; one that leaves ends it", async (t) => {
  let made = 0;
  const ended = Promise.withResolvers<void>();
  const piece = "x".repeat(64 << 10);
  async function* endless(): AsyncGenerator<string> {
    try {
      for (;;) {
        made++;
        yield piece;
      }
    } finally {
      ended.resolve();
    }
  }
  const server = await startServer(t, { "GET /": () => events(endless(), options) });
  const abort = new AbortController();
  const answer = await fetch(server.url, { signal: abort.signal });
  assert.equal(answer.status, 200);
  let before = -1;
  while (made !== before) {
    before = made;
    await sleep(100);
  }
  // What the sockets hold, and not more: it made nothing while nobody read.
  assert.ok(made < 1000, `${made} pieces`);
  abort.abort();
  await ended.promise;
});
