// An addon that was built from other sources is refused, with what to do.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../test/support/folders.ts";
import { addon } from "./addon.ts";
import { boundaryDigest, checkBoundary } from "./boundary.ts";

const here = import.meta.dirname;

test("the addon that is loaded has the digest of the sources beside it", () => {
  assert.match(addon.boundary, /^[0-9a-f]{64}$/);
  assert.equal(boundaryDigest(here), addon.boundary);
});

test("an argument of another type, and an addon of before is refused, not so with another comment; without sources there is nothing to compare", (t) => {
  const folder = temporaryFolder(t);
  for (const name of ["binding", "ops"]) cpSync(join(here, name), join(folder, name), { recursive: true });
  const contract = readFileSync(join(folder, "ops", "norm.h"), "utf8");
  checkBoundary(addon, "nibble.node", folder);
  writeFileSync(join(folder, "ops", "norm.h"), `// Another word.\n\n${contract.replaceAll("\n", "  // why\n")}`);
  checkBoundary(addon, "nibble.node", folder);
  writeFileSync(join(folder, "ops", "norm.h"), contract.replace("float eps", "double eps"));
  const refusal = {
    code: "FAILED_PRECONDITION",
    message: /^\[native\] addon: expected one built.*got one.*new\.node;/,
  };
  assert.throws(() => checkBoundary(addon, "new.node", folder), refusal);
  assert.throws(() => checkBoundary({}, "new.node"), { message: /\(none\)/ });
  const bare = join(folder, "bare");
  mkdirSync(bare);
  checkBoundary({}, "new.node", bare);
});
