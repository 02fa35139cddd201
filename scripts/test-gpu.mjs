// `npm run test:gpu`: builds the C++ tests for a card into build/gpu and, where there is one, runs them. Without one it
// says what to carry to a machine that has one. Results: bench/results/gpu-test.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { installNvcc } from "../infra/cuda/toolkit.mjs";
import { installGoogleTest, isStamped, nativeDigest, root, run, say, stamp } from "./bootstrap.mjs";

const name = "native-test-cuda";
const folder = join(root, "build", name);
const binary = join(root, "build", "gpu", "nibble_test");

function build() {
  const compiler = installNvcc();
  const digest = nativeDigest(["core", "ops", "backends", "test"]);
  if (isStamped(name, digest) && existsSync(binary)) return;
  installGoogleTest();
  say("building the C++ tests for a card (some minutes)…");
  // The C++ library is linked in: the other machine may have an older one.
  const link = "-DCMAKE_EXE_LINKER_FLAGS=-static-libstdc++ -static-libgcc";
  const options = ["-DNIBBLE_TESTS=ON", "-DNIBBLE_SANITIZE=", "-DNIBBLE_CUDA=on", `-DNIBBLE_NVCC=${compiler}`, link];
  run("cmake", ["-S", join(root, "native"), "-B", folder, ...options], "configuring the C++ tests");
  const parallel = ["--parallel", String(availableParallelism())];
  say(`…done in ${run("cmake", ["--build", folder, ...parallel], "building the C++ tests")} s`);
  mkdirSync(join(root, "build", "gpu"), { recursive: true });
  copyFileSync(join(folder, "nibble_test"), binary);
  stamp(name, digest);
}

build();
const hasCard = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8" }).stdout?.includes("GPU 0") ?? false;
if (hasCard) {
  const args = [binary, join(root, "bench", "results", "gpu-test")];
  process.exit(spawnSync(join(root, "infra/cuda/test-gpu.sh"), args, { stdio: "inherit" }).status ?? 1);
}
say("there is no NVIDIA card here, so no test was run. On a machine with one, in a copy of this folder:");
say("  infra/cuda/test-gpu.sh build/gpu/nibble_test OUT_FOLDER");
