// The corpus generator: the same seed gives the same text for ever, and it keeps back what fine-tuning is to teach.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { documents, kinds } from "../../scripts/quickstart/corpus.ts";

const take = (seed: number, count: number) => [...documents(seed).take(count)];

test("a seed always gives the same documents", () => {
  const digest = createHash("sha256").update(take(7, 2000).join("\0")).digest("hex");
  assert.equal(digest, "d83db383980a3ff06d7670bc139c9831c2b5bbed51f693b1c3127c8060ab95dd");
});

test("another seed gives other documents", () => {
  const first = new Set(take(7, 500));
  const shared = take(8, 500).filter((text) => first.has(text));
  assert.ok(shared.length < 50, `${shared.length} of 500 are the same`);
});

test("the shares of the kinds add up to all documents", () => {
  assert.equal(
    kinds.reduce((sum, { share }) => sum + share, 0),
    100,
  );
});

test("no document asks a question that has an answer, and none is written as JSON", () => {
  for (const text of take(7, 3000)) {
    assert.doesNotMatch(text, /\b(What|Who|Where|Which|Whose|How many)\b[^.]*\?/, text);
    assert.doesNotMatch(text, /[{}[\]]/, text);
  }
});
