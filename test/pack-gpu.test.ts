// What is carried to a machine with a card is enough: a checkout with no npm packages but those of the pack runs the bench
// and the suites, whatever of it fails.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, describe, test } from "node:test";
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

describe("run.sh, of a pack whose tests pass, fail, crash and hang", () => {
  const pack = mkdtempSync(join(tmpdir(), "nibble-pack-"));
  const out = join(pack, "out");
  after(() => rmSync(pack, { recursive: true, force: true }));
  // As GoogleTest's program; a test that fails takes those that come after it in the process with it.
  const tests = `#!/usr/bin/env bash
    for argument; do
      case $argument in
      --gtest_list_tests) printf 'Running main()\\nGood.\\n  One\\nBad.\\n  First\\n  Second\\nCrash.\\n  One\\nHang.\\n  One\\n' && exit ;;
      --gtest_filter=*) filter=\${argument#*=} ;;
      --gtest_output=json:*) json=\${argument#*:} ;;
      esac
    done
    case $filter in
    Hang*) sleep 1000 ;;
    Crash*) kill -SEGV $$ ;;
    Bad.First | 'Bad.*') echo "expected this, got that" && exit 1 ;;
    esac
    echo '{"tests": 1}' >"$json"`;
  const written = { nibble_test: tests, node: `#!/bin/sh\nexec ${process.execPath} "$@"\n`, "nibble.node": "" };
  for (const [name, text] of Object.entries(written)) writeFileSync(join(pack, name), text, { mode: 0o755 });
  spawnSync("tar", ["-cf", "programs.tar", "nibble_test", "nibble.node"], { cwd: pack });
  spawnSync("tar", ["-cf", "packages.tar", "-T", "/dev/null"], { cwd: pack });
  const compress = "import lzma,sys\nfor f in sys.argv[1:]: lzma.open(f + '.xz', 'wb').write(open(f, 'rb').read())";
  const files = ["node", "programs.tar", "packages.tar"].map((name) => join(pack, name));
  const made = spawnSync("python3", ["-c", compress, ...files]);
  const skip = made.status === 0 ? false : "it unpacks with python3, which is not here";
  writeFileSync(join(pack, "commit"), "packed\n");
  cpSync(join(root, "infra/cuda/run-gpu.sh"), join(pack, "run.sh"));

  function runSh(...args: string[]) {
    // Of the environment nothing is left but where python3 is.
    const clean = {
      PATH: process.env["PATH"] ?? "",
      NIBBLE_ADDON: env.NIBBLE_ADDON,
      NIBBLE_PEERS_PYTHON: "/no/python",
    };
    const options = { cwd: checkout, env: clean, encoding: "utf8" } as const;
    return spawnSync("bash", [join(pack, "run.sh"), out, "--device", "cpu", "--shape", "tiny", ...args], options);
  }
  const read = (name: string) => readFileSync(join(out, name), "utf8");

  test("tests that failed are named, alone too, and the bench runs all the same", { skip }, () => {
    const { status, stdout, stderr } = runSh("--seconds", "60", "--rows", "quantize-7b,step-7b");
    assert.equal(status, 1, stderr);
    assert.match(stdout, /C\+\+ tests: exit 1, 4 suites, 3 failed/);
    const text = read("tests.txt");
    assert.match(text, /-- Bad\.\* exit 1\nexpected this, got that/);
    assert.match(text, /-- Crash\.\* exit 139/);
    assert.match(text, /-- Hang\.\* exit none, its time was over/);
    assert.match(
      text,
      /of the 4 tests of these suites, each in its own process, 3 failed:\nBad\.First\nCrash\.One\nHang\.One\n/,
    );
    assert.deepEqual(JSON.parse(read("test.json"))["Good._"], { exit: 0, result: { tests: 1 } });
    assert.match(stdout, /bench: exit 0/);
    assert.match(read("bench.txt"), /commit packed; .*quantize-7b: .*step-7b: /s);
  });

  test("where no device can be used it says why", { skip }, () => {
    const { status, stdout } = runSh("--device", "cuda");
    assert.equal(status, 1);
    assert.match(stdout, /no card that can be used here, nothing was run: ./);
    assert.equal(read("summary.txt").split("\n").length, 3);
  });
});
