// `npm run pack:gpu`: build/gpu, all that a bare machine with a card needs beside the checkout: the pinned Node, the addon
// with the CUDA backend, the C++ tests, the npm packages that the engine imports, and run.sh. No network, no npm, no
// compiler is needed there; python3, which unpacks, is.
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { installNvcc } from "../infra/cuda/toolkit.mjs";
import { bootstrap, digestOf, fail, installGoogleTest, isStamped, root, run, say, stamp } from "./bootstrap.mjs";

export const packFolder = join(root, "build", "gpu");

/** What the engine, its tests on a card and the bench import; test/pack-gpu.test.ts holds that it is enough. */
const runtimePackages = [
  "@huggingface/jinja",
  "@huggingface/tokenizers",
  "csv-parse",
  "hyparquet",
  "hyparquet-compressors",
  "yaml",
];

/** Of the whole folder: what the machines that we know take along, 64 MiB, less a checkout of 25 MB or somewhat more. */
const bytesMax = 38 * 2 ** 20;

/** The C++ tests for a card, in the addon's build folder: its kernels, which take longest, are compiled once. */
function buildTests() {
  installGoogleTest();
  const folder = join(root, "build", "native");
  say("building the C++ tests for a card (a minute or two)…");
  run("cmake", ["-B", folder, "-DNIBBLE_CARD_TESTS=ON"], "configuring the C++ tests");
  const build = ["--build", folder, "--target", "nibble_test", "--parallel", String(availableParallelism())];
  say(`…done in ${run("cmake", build, "building the C++ tests")} s`);
  return join(folder, "nibble_test");
}

/** With what they depend on. */
function withDependencies(names) {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const all = new Set(names);
  for (const name of all) {
    for (const needed of Object.keys(packages[`node_modules/${name}`]?.dependencies ?? {})) all.add(needed);
  }
  return [...all];
}

/** The npm packages into `folder`/node_modules, as a copy. */
function copyPackages(folder) {
  for (const name of withDependencies(runtimePackages)) {
    cpSync(join(root, "node_modules", name), join(folder, "node_modules", name), { recursive: true });
  }
}

/** A program without symbols. */
function stripped(from, to) {
  if (spawnSync("strip", ["-o", to, from]).status !== 0) copyFileSync(from, to);
}

/** FILE becomes FILE.xz, a fifth of it. Python's lzma is what the other machine unpacks with too. */
function compress(file) {
  const script =
    "import lzma,shutil,sys; shutil.copyfileobj(open(sys.argv[1],'rb'), lzma.open(sys.argv[1]+'.xz','wb',preset=9))";
  run("python3", ["-c", script, file], `compressing ${file}`);
  rmSync(file);
}

const inPack = (name) => join(packFolder, name);

function packNode(node) {
  const digest = digestOf([join(root, "package-lock.json")]);
  if (isStamped("gpu-node", digest) && existsSync(inPack("node.xz"))) return;
  say("compressing the pinned Node (once; a minute)…");
  stripped(node, inPack("node"));
  compress(inPack("node"));
  stamp("gpu-node", digest);
}

/** What `fill` writes to a folder becomes NAME.tar.xz. */
function packFolderOf(name, fill) {
  const at = mkdtempSync(join(tmpdir(), "nibble-pack-"));
  fill(at);
  run("tar", ["-cf", inPack(`${name}.tar`), "-C", at, "."], `packing ${name}`);
  compress(inPack(`${name}.tar`));
  rmSync(at, { recursive: true });
}

export function pack() {
  if (process.env.NIBBLE_CUDA === "off") fail("NIBBLE_CUDA=off is set: there is nothing for a card to pack");
  installNvcc();
  const node = bootstrap();
  mkdirSync(packFolder, { recursive: true });
  for (const name of readdirSync(packFolder)) if (name !== "node.xz") rmSync(inPack(name)); // of a pack before
  packNode(node);
  packFolderOf("packages", copyPackages);
  const tests = buildTests();
  packFolderOf("programs", (at) => {
    // In one file the kernels, which both have, take their room once.
    stripped(join(root, "build/native/Release/nibble.node"), join(at, "nibble.node"));
    stripped(tests, join(at, "nibble_test"));
  });
  copyFileSync(join(root, "infra/cuda/run-gpu.sh"), inPack("run.sh"));
  const commit = spawnSync("git", ["describe", "--always", "--dirty=+"], { cwd: root, encoding: "utf8" }).stdout ?? "";
  writeFileSync(inPack("commit"), commit);
  const sizes = readdirSync(packFolder).map((name) => ({ name, bytes: statSync(inPack(name)).size }));
  const total = sizes.reduce((sum, { bytes }) => sum + bytes, 0);
  say(
    `build/gpu: ${sizes.map(({ name, bytes }) => `${name} ${(bytes / 1e6).toFixed(1)}`).join(", ")}; ${(total / 1e6).toFixed(1)} MB`,
  );
  if (total > bytesMax) fail(`build/gpu: expected at most ${bytesMax} bytes, got ${total}`);
}

const isMain = process.argv[1] === fileURLToPath(import.meta.url);
// `--packages FOLDER`: only the npm packages, as they are.
if (isMain && process.argv[2] === "--packages") copyPackages(process.argv[3]);
else if (isMain) {
  pack();
  say("to a machine with a card, with the checkout: build/gpu; there, in the checkout: build/gpu/run.sh OUT_FOLDER");
}
