// `npm run test:gpu`: packs build/gpu (see pack-gpu.mjs) and, where there is a card, runs its tests. Without one it says what
// to carry to a machine that has one. Results: bench/results/gpu-test.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root, say } from "./bootstrap.mjs";
import { pack, packFolder } from "./pack-gpu.mjs";

pack();
const hasCard = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8" }).stdout?.includes("GPU 0") ?? false;
if (hasCard) {
  const args = [join(packFolder, "run.sh"), join(root, "bench", "results", "gpu-test"), "--only", "tests,sanitizer"];
  process.exit(spawnSync("bash", args, { cwd: root, stdio: "inherit" }).status ?? 1);
}
say(
  "there is no NVIDIA card here, so no test was run. On a machine with one, in a copy of this folder with build/gpu:",
);
say("  build/gpu/run.sh OUT_FOLDER");
