// `npm run test:native [-- --tsan] [-- --gtest_filter=…]`: builds the C++ tests under sanitizers, address and
// undefined behaviour unless asked for threads, and runs them. Installs GoogleTest where it is missing.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { installGoogleTest, isStamped, nativeDigest, root, run, say, stamp } from "./bootstrap.mjs";

const threads = process.argv.includes("--tsan");
const rest = process.argv.slice(2).filter((argument) => argument !== "--tsan");
const name = threads ? "native-test-tsan" : "native-test";
const folder = join(root, "build", name);

function build() {
  const digest = nativeDigest(["core", "ops", "backends", "test"]);
  if (isStamped(name, digest) && existsSync(join(folder, "nibble_test"))) return;
  installGoogleTest();
  const sanitizers = threads ? "thread" : "address,undefined";
  say(`building the C++ tests with -fsanitize=${sanitizers} (a minute or two)…`);
  // The CUDA backend is emulated here: its kernels run on the host, under the sanitizers.
  const options = ["-DNIBBLE_TESTS=ON", `-DNIBBLE_SANITIZE=${sanitizers}`, "-DNIBBLE_CUDA=off"];
  run("cmake", ["-S", join(root, "native"), "-B", folder, ...options], "configuring the C++ tests");
  const parallel = ["--parallel", String(availableParallelism())];
  say(`…done in ${run("cmake", ["--build", folder, ...parallel], "building the C++ tests")} s`);
  stamp(name, digest);
}

build();
const options = { UBSAN_OPTIONS: "print_stacktrace=1", TSAN_OPTIONS: "halt_on_error=1" };
const env = { ...options, ...process.env };
const result = spawnSync(join(folder, "nibble_test"), ["--gtest_brief=1", ...rest], { stdio: "inherit", env });
process.exit(result.status ?? 1);
