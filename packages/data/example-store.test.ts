import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.ts";
import { ExampleStore, storeBufferBytes } from "./example-store.ts";

const example = (i: number, length: number) => ({
  inputIds: Int32Array.from({ length }, (_, k) => i + k),
  labels: Int32Array.from({ length }, (_, k) => (k % 3 === 0 ? -100 : i + k)),
  weight: 1 + i / 4,
});

test("what is put in comes out, from memory and from the file, in any order", (t) => {
  const folder = join(temporaryFolder(t), "made", "when needed");
  const lengths = Array.from({ length: 4000 }, (_, i) => 1 + ((i * 7919) % 3000));
  using store = new ExampleStore({ folder });
  for (const [i, length] of lengths.entries()) store.add(example(i, length));
  assert.ok(8 * store.tokens > 2 * storeBufferBytes, "the test's set is larger than what is kept in memory");
  assert.deepEqual(readdirSync(folder), [], "the file has no name that could be left behind");
  for (const i of [3999, 0, 1234, 2000, 3998, 1]) assert.deepEqual(store.get(i), example(i, lengths[i] ?? 0));
  assert.deepEqual([store.count, store.longest], [4000, 3000]);
  assert.equal(
    store.tokens,
    lengths.reduce((a, b) => a + b, 0),
  );
});

test("a store that only counts has shapes and no ids", () => {
  const store = new ExampleStore("lengths");
  store.add({ inputIds: Int32Array.of(5, 6, 7, 8), labels: Int32Array.of(-100, 6, -100, 8), weight: 1 });
  assert.deepEqual([store.lengthOf(0), store.trainedOf(0), store.trainedTokens], [4, 2, 2]);
  assert.deepEqual(store.get(0).labels, Int32Array.of(-100, -100, 0, 0));
});

test("a folder that cannot be written to is said", (t) => {
  const store = new ExampleStore({ folder: join(temporaryFolder(t), "\0") });
  const big = example(0, storeBufferBytes / 8);
  store.add(big);
  assert.throws(() => store.add(big), { name: "NibbleError" });
});
