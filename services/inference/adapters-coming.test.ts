// Adapters that come from disk side by side: an engine that is told when it has read one.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AdapterInfo } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { until } from "../../test/support/services.ts";
import type { AdapterFetcher, LocalAdapter } from "./adapter-source.ts";
import { Adapters } from "./adapters.ts";
import type { LoadedModel } from "./model.ts";

const bytes = 10;
const never = new AbortController().signal;

/** Adapters a0, a1, … on disk but for the last ones: `room` of them fit. */
async function many(count: number, room: number) {
  let isHeld = false;
  /** What the engine reads now, by id. */
  const reading = new Map<string, PromiseWithResolvers<void>>();
  const inEngine = new Set<string>();
  const engineModel = {
    async loadAdapter(engineId: string) {
      const read = Promise.withResolvers<void>();
      reading.set(engineId.split(" ")[0]!, read);
      if (isHeld) await read.promise;
      inEngine.add(engineId);
      assert.ok(inEngine.size <= room, `${inEngine.size} in memory`);
      return { bytes } as AdapterInfo;
    },
    unloadAdapter: async (engineId: string) => ({ bytesFreed: inEngine.delete(engineId) ? bytes : 0 }),
  };
  const settings = { modelDir: "", dtype: "float32" };
  const model = { digest: "sha256:base", settings, engineModel } as unknown as LoadedModel;
  const local = (dir: string) => ({ dir, version: "", content: dir, baseDigest: null, bytes }) as LocalAdapter;
  const fetcher: AdapterFetcher = { fetch: async ({ value }) => local(value), again: async ({ dir }) => local(dir) };
  const adapters = new Adapters({ now: () => 0, fetcher, model, bytesMax: room * bytes, waitingMax: 100 });
  const options = { expectedBaseDigest: "", replace: false, pinned: false };
  for (let i = 0; i < count; i++) {
    await adapters.load({ ...options, id: `a${i}`, source: { case: "adapterDir", value: `${i}` } }, never);
  }
  isHeld = true;
  reading.clear();
  return { adapters, reading, inEngine };
}

test("several come at a time, each once however many wait for it, and no more than fit", async () => {
  const { adapters, reading, inEngine } = await many(10, 3);
  const wanted = ["a0", "a1", "a0", "a2", "a3"];
  const held = wanted.map((id) => adapters.hold(id, never));
  await until(() => reading.size === 3);
  assert.deepEqual([...reading.keys()], ["a0", "a1", "a2"]);
  reading.get("a2")!.resolve();
  const third = await held[3]!;
  // The fourth has its room when one is held by nobody.
  third.release();
  await until(() => reading.has("a3"));
  for (const { resolve } of reading.values()) resolve();
  const all = await Promise.all(held);
  assert.deepEqual([all[0]!.engineId, all[0]!.engineId?.startsWith("a0 ")], [all[2]!.engineId, true]);
  for (const { release } of all.toSpliced(3, 1)) release();
  assert.equal(inEngine.size, 3);
  assert.equal(adapters.bytesResident, 3 * bytes);
});

test("who gives up leaves it to the others; one that does not come gives its room back", async () => {
  const { adapters, reading } = await many(6, 2);
  const leave = new AbortController();
  const left = adapters.hold("a0", leave.signal);
  const other = adapters.hold("a0", never);
  const broken = adapters.hold("a1", never);
  await until(() => reading.size === 2);
  leave.abort(new NibbleError("gone", { code: "CANCELLED", op: "test" }));
  await assert.rejects(left, { code: "CANCELLED" });
  reading.get("a1")!.reject(new NibbleError("damaged", { code: "DATA_LOSS", op: "test" }));
  await assert.rejects(broken, { code: "DATA_LOSS" });
  assert.equal(adapters.bytesResident, bytes);
  reading.get("a0")!.resolve();
  (await other).release();
  assert.equal(await adapters.unload("a0", never), bytes);
  assert.equal(adapters.bytesResident, 0);
});
