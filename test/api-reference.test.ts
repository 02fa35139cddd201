// docs/api.md says what the protos say.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { apiReference } from "../scripts/api-reference.ts";

test("docs/api.md is up to date: run `npm run docs:api` if this fails", () => {
  const page = apiReference();
  assert.ok(page.includes("nibble.trainer.v1.TrainerService"));
  assert.ok(readFileSync("docs/api.md", "utf8") === page, "docs/api.md is stale");
});

test("every link of the page leads somewhere", () => {
  const page = readFileSync("docs/api.md", "utf8");
  const anchors = new Set([...page.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id));
  for (const [, target] of page.matchAll(/\]\(#([^)]+)\)/g)) assert.ok(anchors.has(target), target);
});
