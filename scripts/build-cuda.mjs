// `npm run build:cuda`: the addon with the CUDA backend, on any machine: installs the pinned compiler unless the user
// has one. What is built afterwards keeps the backend, as the compiler stays in build/cuda.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { installNvcc } from "../infra/cuda/toolkit.mjs";
import { bootstrap, fail, root, say } from "./bootstrap.mjs";

if (process.env.NIBBLE_CUDA === "off") fail("NIBBLE_CUDA=off is set: there is nothing to build");
installNvcc();
const node = bootstrap();
const ask = `console.log(require(${JSON.stringify(join(root, "build/native/Release/nibble.node"))}).cudaUnavailable())`;
const answer = spawnSync(node, ["-e", ask], { encoding: "utf8" });
if (answer.status !== 0) fail(`the addon does not load: ${answer.stderr}`);
const reason = answer.stdout.trim();
if (reason === "this build has no CUDA backend") fail(reason);
say(reason === "" ? "cuda: available" : `cuda: unavailable, ${reason}`);
