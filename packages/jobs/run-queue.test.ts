import assert from "node:assert/strict";
import { test } from "node:test";
import { NibbleError } from "#packages/errors";
import { RunQueue } from "./run-queue.ts";

const reason = new NibbleError("stop", { code: "UNAVAILABLE", op: "test" });

/** A run that lasts until it is let go or aborted. */
function gate(log: string[], name: string) {
  const { promise, resolve } = Promise.withResolvers<void>();
  const run = async (signal: AbortSignal) => {
    log.push(`${name} begins`);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    log.push(`${name} ends${signal.aborted ? ` by ${(signal.reason as NibbleError).code}` : ""}`);
  };
  return { run, open: resolve };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("entries run one at a time in order, and a full queue refuses", async () => {
  const queue = new RunQueue("test", 1);
  const log: string[] = [];
  const [a, b, c] = [gate(log, "a"), gate(log, "b"), gate(log, "c")];
  queue.reserve().start("a", a.run);
  queue.reserve().start("b", b.run);
  assert.equal(queue.waitingCount, 1);
  assert.throws(() => queue.reserve(), { code: "RESOURCE_EXHAUSTED", message: /at most 1 waiting/ });
  queue.reserve({ beyondLimit: true }).start("c", c.run);
  a.open();
  await settled();
  assert.deepEqual(log, ["a begins", "a ends", "b begins"]);
  b.open();
  c.open();
  await settled();
  assert.deepEqual(log.slice(3), ["b ends", "c begins", "c ends"]);
});

test("a reserved place counts until it is released", () => {
  const queue = new RunQueue("test", 0);
  const place = queue.reserve();
  assert.throws(() => queue.reserve(), { code: "RESOURCE_EXHAUSTED" });
  place.release();
  place.release();
  queue.reserve();
  assert.throws(() => queue.reserve(), { code: "RESOURCE_EXHAUSTED" });
});

test("cancelling drops what waits and aborts what runs", async () => {
  const queue = new RunQueue("test", 5);
  const log: string[] = [];
  queue.reserve().start("a", gate(log, "a").run);
  queue.reserve().start("b", gate(log, "b").run);
  const cancelled = new NibbleError("no", { code: "CANCELLED", op: "test" });
  assert.equal(queue.cancel("b", cancelled), "dropped");
  assert.equal(queue.cancel("b", cancelled), "absent");
  assert.equal(queue.cancel("a", cancelled), "aborted");
  await settled();
  assert.deepEqual(log, ["a begins", "a ends by CANCELLED"]);
});

test("close waits for what runs, forgets what waits, and refuses what comes", async () => {
  const queue = new RunQueue("test", 5);
  const log: string[] = [];
  queue.reserve().start("a", gate(log, "a").run);
  queue.reserve().start("b", gate(log, "b").run);
  const place = queue.reserve();
  await queue.close(reason);
  place.start("c", gate(log, "c").run);
  await settled();
  assert.deepEqual(log, ["a begins", "a ends by UNAVAILABLE"]);
  assert.throws(() => queue.reserve(), reason);
});
