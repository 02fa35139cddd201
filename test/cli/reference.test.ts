// docs/cli.md says what --help says.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { cliReference } from "../../scripts/cli-reference.ts";

test("docs/cli.md is up to date: run `npm run docs:cli` if this fails", () => {
  const page = cliReference();
  assert.ok(page.includes("## nibble adapters push") && page.includes("--gradient-checkpointing"));
  assert.ok(readFileSync("docs/cli.md", "utf8") === page, "docs/cli.md is stale");
});
