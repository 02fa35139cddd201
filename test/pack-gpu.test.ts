// What is carried to a machine with a card is enough: a checkout with no npm packages but those of the pack runs the bench
// and the suites.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const checkout = mkdtempSync(join(tmpdir(), "nibble-checkout-"));
after(() => rmSync(checkout, { recursive: true, force: true }));
const needed = [
  "package.json",
  "native/*.ts",
  "packages",
  "bench",
  "test/support",
  "test/cuda",
  "test/golden",
  "scripts/*.mjs",
  "infra",
];
for (const file of needed.flatMap((pattern) => globSync(pattern, { cwd: root }))) {
  mkdirSync(join(checkout, dirname(file)), { recursive: true });
  cpSync(join(root, file), join(checkout, file), { recursive: true });
}
spawnSync(process.execPath, ["scripts/pack-gpu.mjs", "--packages", checkout], { cwd: root });

const { NODE_TEST_CONTEXT: _, ...parent } = process.env;
const env = {
  ...parent,
  NIBBLE_ADDON: join(root, "build/native/Release/nibble.node"),
  NIBBLE_COMMIT: "carried\n",
};

test("the bench runs, and says of which commit it is", () => {
  const where = ["--device", "cpu", "--shape", "tiny", "--out", checkout, "--peers-python", "/no/python"];
  const args = ["bench/gpu.ts", ...where, "--rows", "quantize-7b,step-7b"];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: checkout, env, encoding: "utf8" });
  assert.equal(status, 0, `${stdout}${stderr}`);
  assert.match(stdout, /commit carried;/);
});

for (const suite of globSync("test/cuda/*.cuda.ts", { cwd: root })) {
  test(`${suite} finds all that it imports`, () => {
    // No device is needed for that, and none of its tests are run.
    const args = ["--test-name-pattern", "^nothing$", suite];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: checkout, env, encoding: "utf8" });
    assert.equal(status, 0, `${stdout}${stderr}`);
  });
}
