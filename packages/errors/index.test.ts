import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { expect, NibbleError } from "./index.ts";

test("messages open with the op, once", () => {
  assert.equal(
    new NibbleError("a: expected 1, got 2", { code: "INTERNAL", op: "x" }).message,
    "[x] a: expected 1, got 2",
  );
  const other = new NibbleError("[y] a", { code: "INTERNAL", op: "x" });
  assert.deepEqual([other.message, other.reason], ["[y] a", "a"]);
});

test("system errors and the addon's errors keep their meaning", () => {
  const caught = (work: () => void) => {
    try {
      work();
    } catch (thrown) {
      return NibbleError.from(thrown, "read");
    }
    return assert.fail("expected a throw");
  };
  assert.equal(caught(() => readFileSync("/no/such/file")).code, "NOT_FOUND");
  const native = caught(() => {
    throw Object.assign(new Error("[allocate] memory limit"), { code: "RESOURCE_EXHAUSTED", op: "allocate" });
  });
  assert.deepEqual(
    [native.code, native.op, native.message],
    ["RESOURCE_EXHAUSTED", "allocate", "[allocate] memory limit"],
  );
  assert.equal(caught(() => AbortSignal.abort().throwIfAborted()).code, "CANCELLED");
});

test("expect throws INVALID_ARGUMENT with the details", () => {
  assert.throws(() => expect(false, "load", "rank: expected > 0, got 0", { file: "a" }), {
    code: "INVALID_ARGUMENT",
    details: { file: "a" },
  });
});
