// What a server asks to wait, and when it is given up.
import assert from "node:assert/strict";
import { test } from "node:test";
import { askedWaitMs, backOffOf } from "./hub-fetch.ts";

test("the wait that is asked for: seconds, a date, the Hub's rate limit", () => {
  const asked = (headers: Record<string, string>) => askedWaitMs(new Headers(headers));
  assert.equal(asked({ "retry-after": "7" }), 7000);
  assert.equal(asked({ "retry-after": new Date(Date.now() - 5000).toUTCString() }), 0);
  assert.ok((asked({ "retry-after": new Date(Date.now() + 60_000).toUTCString() }) ?? 0) > 30_000);
  assert.equal(asked({ ratelimit: '"api";r=0;t=55' }), 55_000);
  assert.equal(asked({ ratelimit: '"api";r=12;t=55' }), undefined);
  assert.equal(asked({ "retry-after": "soon" }), undefined);
  assert.equal(asked({}), undefined);
});

test("attempts end; progress begins them anew; a wait beyond the limit is none", async () => {
  const attempts = backOffOf({ attemptsMax: 3, waitMsFirst: 1, waitMsMax: 1000 });
  assert.equal(await attempts.again(1001), false);
  assert.deepEqual([await attempts.again(), await attempts.again(5), await attempts.again()], [true, true, false]);
  attempts.progress();
  assert.equal(await attempts.again(), true);
});
