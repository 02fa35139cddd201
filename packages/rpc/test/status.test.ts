import assert from "node:assert/strict";
import { test } from "node:test";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { QuotaFailureSchema } from "#gen/google/rpc/error_details_pb.ts";
import { NibbleError } from "#packages/errors";
import { toStatus } from "#packages/rpc";

const quotaOf = (error: NibbleError) =>
  toStatus(error).details.flatMap((any) => anyUnpack(any, QuotaFailureSchema)?.violations ?? []);

test("a limit that an error names travels as QuotaFailure", () => {
  const details = { quota: "waiting requests", limit: "2" };
  const full = new NibbleError("queue: expected at most 2", { code: "RESOURCE_EXHAUSTED", op: "generate", details });
  const [violation, ...more] = quotaOf(full);
  assert.deepEqual([violation?.subject, more.length], ["waiting requests", 0]);
  assert.match(violation!.description, /expected at most 2/);
  assert.deepEqual(quotaOf(new NibbleError("memory", { code: "RESOURCE_EXHAUSTED", op: "generate" })), []);
});
