import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.ts";
import { publishFolder, replaceFile, withoutEmptyFolders } from "./files.ts";

test("a file is replaced whole, and a replacement that fails leaves no litter", (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "state.json");
  replaceFile(path, "one");
  replaceFile(path, new TextEncoder().encode("two"));
  assert.equal(readFileSync(path, "utf8"), "two");
  mkdirSync(join(folder, "in-the-way"));
  assert.throws(() => replaceFile(join(folder, "in-the-way"), "three"), { name: "NibbleError" });
  assert.throws(() => replaceFile(join(folder, "none", "a"), "x"), { code: "NOT_FOUND" });
  assert.deepEqual(readdirSync(folder).sort(), ["in-the-way", "state.json"]);
});

test("work that fails leaves no folder empty that it made, and every other as it is", async (t) => {
  const folder = temporaryFolder(t);
  const [there, made, full] = [join(folder, "there"), join(folder, "made/deep"), join(folder, "full")];
  mkdirSync(there);
  const work = withoutEmptyFolders([there, made, full, join(folder, "never")], async () => {
    mkdirSync(made, { recursive: true });
    mkdirSync(full);
    writeFileSync(join(full, "a"), "a");
    throw new Error("why");
  });
  await assert.rejects(work, { message: "why" });
  assert.deepEqual(readdirSync(folder).sort(), ["full", "there"]);
});

test("a folder takes the place of an old one of its kind, and of no other", (t) => {
  const folder = temporaryFolder(t);
  const [staging, target] = [join(folder, "new"), join(folder, "old")];
  for (const path of [staging, target]) {
    mkdirSync(path);
    writeFileSync(join(path, "a.bin"), path);
  }
  assert.throws(() => publishFolder(staging, target, () => false), { code: "FAILED_PRECONDITION" });
  assert.equal(readFileSync(join(target, "a.bin"), "utf8"), target);
  publishFolder(staging, target, (name) => name.endsWith(".bin"));
  assert.equal(readFileSync(join(target, "a.bin"), "utf8"), staging);
  assert.deepEqual(readdirSync(folder), ["old"]);
});
