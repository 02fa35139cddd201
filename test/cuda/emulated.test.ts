// The suites for a card, *.cuda.ts, on the emulated one: an addon of its own, whose CUDA kernels run on the host.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { globSync } from "node:fs";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const built = spawnSync(process.execPath, ["scripts/build-emulated.mjs"], { cwd: root, encoding: "utf8" });
const addon = built.stdout.trim();

/** Its exit code and all that it printed. */
function run(suite: string): Promise<{ code: number | null; text: string }> {
  const args = ["--disable-warning=ExperimentalWarning", "--test-reporter=spec", "--test", suite];
  // A runner's child must not think that it is its parent's.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const child = spawn(process.execPath, args, { cwd: root, env: { ...env, NIBBLE_ADDON: addon } });
  let text = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, text })));
}

describe("on the emulated card", () => {
  test("the addon is built", () => assert.equal(built.status, 0, built.stderr));
  for (const suite of globSync("test/cuda/*.cuda.ts", { cwd: root }).sort()) {
    test(suite, async () => {
      const { code, text } = await run(suite);
      assert.equal(code, 0, text);
      assert.match(text, /pass [1-9]/);
      assert.match(text, /skipped 0/);
    });
  }
});
