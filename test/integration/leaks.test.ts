// `npm run test:leaks`, shortened: memory after a few hundred steps and loads is that after a few dozen.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

test("training steps and loaded adapters leave nothing behind", () => {
  const script = fileURLToPath(new URL("../../scripts/leaks.ts", import.meta.url));
  const args = ["--disable-warning=ExperimentalWarning", script, "--short"];
  const run = spawnSync(process.execPath, args, { encoding: "utf8" });
  assert.equal(run.status, 0, run.stdout + run.stderr);
  assert.match(run.stdout, /training steps: .* ok\nadapters loaded: .* ok\nnative memory in use at the end: 0 bytes/);
});
