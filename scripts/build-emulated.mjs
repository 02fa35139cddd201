// `npm run build:emulated`: an addon whose CUDA device is the emulation of backends/cuda/emulation, in the same build
// folder as the addon. NIBBLE_ADDON=build/native/Release/nibble_emulated.node takes it: the engine with `--device cuda` on
// a machine without a card, slow and exact. Tests use it.
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { bootstrap, isStamped, nativeDigest, root, run, say, stamp } from "./bootstrap.mjs";

const addon = join(root, "build/native/Release/nibble_emulated.node");
const name = "native-emulated";

bootstrap();
const digest = nativeDigest(["core", "ops", "backends", "binding"]);
if (!isStamped(name, digest) || !existsSync(addon)) {
  say("building the addon with an emulated card (once; a minute or so)…");
  const args = ["--build", join(root, "build/native"), "--target", "nibble_emulated"];
  const parallel = ["--parallel", String(availableParallelism())];
  say(`…done in ${run("cmake", [...args, ...parallel], "building the addon")} s`);
  stamp(name, digest);
}
process.stdout.write(`${addon}\n`);
