import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkId, decodePageToken, encodePageToken, formatName, isId, pageSizeOf, parseName } from "#packages/rpc";

const pattern = "adapters/{adapter}/versions/{version}";
const id = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,62}$/);

test("a name that was formatted parses to the same variables", () => {
  fc.assert(
    fc.property(id, id, (adapter, version) => {
      const name = formatName(pattern, { adapter, version });
      assert.deepEqual(parseName(pattern, name, "get"), { adapter, version });
    }),
  );
});

test("names of another form are refused, and the message says what was expected", () => {
  for (const name of [
    "",
    "adapters/a",
    "adapters/a/versions/1/x",
    "x/a/versions/1",
    "adapters//versions/1",
    "adapters/../versions/1",
  ]) {
    assert.throws(() => parseName(pattern, name, "get"), {
      code: "INVALID_ARGUMENT",
      message: `[get] name: expected ${pattern}, got ${JSON.stringify(name)}`,
    });
  }
});

test("ids", () => {
  for (const good of ["a", "0", "a-b", "a".repeat(63)]) assert.ok(isId(good), good);
  for (const bad of ["", "-a", "A", "a_b", "a/b", "é", "a".repeat(64), "a\n"]) assert.ok(!isId(bad), bad);
  assert.throws(() => checkId("A", "adapter_id", "create"), {
    code: "INVALID_ARGUMENT",
    details: { field: "adapter_id" },
  });
});

test("page tokens belong to their listing", () => {
  const token = encodePageToken("jobs", "17");
  assert.equal(decodePageToken("jobs", token, "list"), "17");
  assert.equal(decodePageToken("jobs", "", "list"), undefined);
  for (const bad of [encodePageToken("adapters", "17"), "nonsense", token.slice(1)]) {
    assert.throws(() => decodePageToken("jobs", bad, "list"), { code: "INVALID_ARGUMENT" });
  }
  assert.deepEqual([0, 7, 5000].map(pageSizeOf), [50, 7, 1000]);
});
