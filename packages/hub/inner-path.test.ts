import assert from "node:assert/strict";
import { test } from "node:test";
import { checkInnerPaths, isInnerPath } from "./inner-path.ts";

test("paths that leave their folder, or that no file can have, are refused", () => {
  for (const path of ["a", "adapter_model.safetensors", "a/b/c", "..a", "a..b", ".hidden"])
    assert.ok(isInnerPath(path), path);
  const bad = ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "a\\b", "a\0b", "x".repeat(256)];
  for (const path of bad) assert.ok(!isInnerPath(path), path);
});

test("lists with a path twice, or a file that is also a folder, are refused by name", () => {
  checkInnerPaths(["a/b", "a/c", "ab"], "x");
  assert.throws(() => checkInnerPaths(["a", "b", "a"], "x"), { code: "INVALID_ARGUMENT", details: { path: "a" } });
  assert.throws(() => checkInnerPaths(["a/b/c", "a/b"], "x"), /file "a\/b\/c": expected not to lie in a\/b/);
  assert.throws(() => checkInnerPaths(["ok", "../up"], "x"), { details: { path: "../up" } });
});
