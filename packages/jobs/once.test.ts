import assert from "node:assert/strict";
import { test } from "node:test";
import { Once } from "./once.ts";

test("calls at one time share an attempt, a later call makes its own", async () => {
  const once = new Once<number>();
  let made = 0;
  const make = async () => {
    await new Promise((resolve) => setImmediate(resolve));
    return ++made;
  };
  assert.deepEqual(await Promise.all([once.run("a", make), once.run("a", make), once.run("b", make)]), [1, 1, 2]);
  assert.equal(await once.run("a", make), 3);
});

test("an attempt that fails fails for all who share it, and is forgotten", async () => {
  const once = new Once<number>();
  const fail = () => Promise.reject(new Error("no"));
  const both = await Promise.allSettled([once.run("a", fail), once.run("a", fail)]);
  assert.deepEqual(
    both.map(({ status }) => status),
    ["rejected", "rejected"],
  );
  assert.equal(await once.run("a", async () => 1), 1);
});
