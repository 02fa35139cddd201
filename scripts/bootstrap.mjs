// Installs and builds what a fresh clone lacks, and says what it does; a second run does nothing.
// Plain JavaScript: it must run on any Node >= 20.19, before the pinned Node is there.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { nvcc } from "../infra/cuda/nvcc.mjs";

export const root = fileURLToPath(new URL("..", import.meta.url));
const stampFolder = join(root, "build", "stamps");

export function say(text) {
  process.stderr.write(`nibble: ${text}\n`);
}

export function fail(text) {
  say(text);
  process.exit(1);
}

function filesUnder(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((e) => (e.isDirectory() ? filesUnder(join(folder, e.name)) : [join(folder, e.name)]));
}

export function digestOf(paths) {
  const hash = createHash("sha256");
  for (const path of paths) {
    const files = statSync(path).isDirectory() ? filesUnder(path) : [path];
    for (const file of files) hash.update(relative(root, file)).update("\0").update(readFileSync(file));
  }
  return hash.digest("hex");
}

export function isStamped(name, digest) {
  const file = join(stampFolder, name);
  return existsSync(file) && readFileSync(file, "utf8") === digest;
}

export function stamp(name, digest) {
  mkdirSync(stampFolder, { recursive: true });
  writeFileSync(join(stampFolder, name), digest);
}

export function run(command, args, what) {
  const started = Date.now();
  const result = spawnSync(command, args, { cwd: root, encoding: "utf8", maxBuffer: 1 << 28 });
  if (result.error || result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ""}${result.stderr ?? ""}`);
    fail(`${what} failed (${result.error?.message ?? `exit ${result.status}`}). What it printed is above.`);
  }
  return Math.round((Date.now() - started) / 1000);
}

function installDependencies() {
  const digest = digestOf([join(root, "package.json"), join(root, "package-lock.json")]);
  if (isStamped("npm", digest) && existsSync(join(root, "node_modules"))) return;
  say("installing npm dependencies and the pinned Node runtime (once)…");
  say(`…done in ${run("npm", ["install", "--no-save", "--no-audit", "--no-fund"], "npm install")} s`);
  stamp("npm", digest);
}

/** What CMake is told of CUDA; part of what an addon is built from. */
const cudaOptions = () => {
  const compiler = nvcc();
  return { NIBBLE_CUDA: compiler === null ? "off" : "on", NIBBLE_NVCC: compiler ?? "" };
};

/** Digest of what the native code is built from: its build files, the given folders, and the choice of CUDA. */
export function nativeDigest(folders) {
  const files = ["CMakeLists.txt", "native/CMakeLists.txt", "native/cuda.cmake"];
  const sources = folders.map((f) => `native/${f}`);
  return `${digestOf([...files, ...sources].map((f) => join(root, f)))} ${JSON.stringify(cudaOptions())}`;
}

function buildAddon() {
  const digest = nativeDigest(["core", "ops", "backends", "binding"]);
  if (isStamped("native", digest) && existsSync(join(root, "build/native/Release/nibble.node"))) return;
  const options = cudaOptions();
  say(`building the native addon with cmake-js, CUDA ${options.NIBBLE_CUDA} (once; a minute or two)…`);
  const cmakeJs = createRequire(import.meta.url).resolve("cmake-js/bin/cmake-js");
  const define = Object.entries(options).map(([name, value]) => `--CD${name}=${value}`);
  const where = ["-O", "build/native", "--parallel", String(availableParallelism()), ...define];
  // Asked for by name: compile alone keeps what a build folder was configured with, CUDA or not.
  const seconds = run(process.execPath, [cmakeJs, "configure", ...where], "configuring the addon");
  say(`…done in ${seconds + run(process.execPath, [cmakeJs, "compile", ...where], "building the addon")} s`);
  stamp("native", digest);
}

function works(command, args) {
  const result = spawnSync(command, args, { stdio: "ignore" });
  return !result.error && result.status === 0;
}

/** Whether the compiler finds the headers. */
function hasGoogleTest() {
  const source = "#include <gtest/gtest.h>\n";
  return (
    spawnSync("c++", ["-x", "c++", "-E", "-"], { input: source, stdio: ["pipe", "ignore", "ignore"] }).status === 0
  );
}

export function installGoogleTest() {
  if (hasGoogleTest()) return;
  if (process.getuid?.() !== 0 || !works("apt-get", ["--version"])) {
    fail("GoogleTest is missing; install it (Debian: apt-get install libgtest-dev) and run this again");
  }
  say("installing GoogleTest (libgtest-dev, once)…");
  const install = ["install", "-y", "--no-install-recommends", "libgtest-dev"];
  if (works("apt-get", install)) return;
  run("apt-get", ["update"], "apt-get update");
  run("apt-get", install, "installing libgtest-dev");
}

/** The path of the Node runtime that package.json pins. */
function pinnedNode() {
  const name = `node-${process.platform}-${process.arch}`;
  const binary = join(root, "node_modules", name, "bin", "node");
  if (existsSync(binary)) return binary;
  if (Number(process.versions.node.split(".")[0]) >= 24) return process.execPath;
  return fail(`no pinned Node 24 for ${process.platform}-${process.arch}, and this is Node ${process.versions.node}`);
}

export function bootstrap() {
  installDependencies();
  buildAddon();
  return pinnedNode();
}

const orphanedCheckMs = 500;

/** Runs a script of the repository on the pinned Node, passes signals on, and exits as it does. */
export function runOnPinnedNode(script, args) {
  // What Node makes of the sources, types stripped and compiled, is kept: a start reads it in a tenth of the time.
  const env = { NODE_COMPILE_CACHE: join(root, "build", "compile-cache"), ...process.env };
  const child = spawn(bootstrap(), ["--disable-warning=ExperimentalWarning", join(root, script), ...args], {
    stdio: "inherit",
    env,
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  // npx puts a shell between itself and this process, which does not pass SIGTERM on: its end is the sign.
  const parent = process.ppid;
  const isNpms = process.env.npm_command !== undefined;
  const check = () => process.ppid !== parent && child.kill("SIGTERM");
  if (isNpms) setInterval(check, orphanedCheckMs).unref();
  child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
}
