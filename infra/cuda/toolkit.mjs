// Installs the CUDA compiler where the user has none: the pinned wheels of requirements.txt, laid out as a toolkit folder
// in build/cuda/toolkit. Plain JavaScript, as the bootstrap is.
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { digestOf, fail, isStamped, root, run, say, stamp } from "../../scripts/bootstrap.mjs";
import { nvcc, toolkit } from "./nvcc.mjs";

const requirements = join(root, "infra", "cuda", "requirements.txt");
const compiler = join(toolkit, "bin", "nvcc");

/** Wheels hold the files but not the names and modes that a toolkit folder has. */
function layOut(made) {
  symlinkSync("lib", join(made, "lib64"));
  for (const name of readdirSync(join(made, "lib"))) {
    const plain = /^(lib.*\.so)\..*/.exec(name)?.[1];
    if (plain) symlinkSync(name, join(made, "lib", plain));
  }
  for (const bin of [join(made, "bin"), join(made, "nvvm", "bin")]) {
    for (const entry of readdirSync(bin, { withFileTypes: true })) {
      if (entry.isFile()) chmodSync(join(bin, entry.name), 0o755);
    }
  }
}

/** The compiler's path. Does nothing where there is one already. Needs python3 with pip. */
export function installNvcc() {
  const found = nvcc();
  const digest = digestOf([requirements]);
  if (found !== null && (found !== compiler || isStamped("cuda-toolkit", digest))) return found;
  say("installing the CUDA compiler from wheels (once, 280 MB)…");
  const site = `${toolkit}.new`;
  for (const folder of [site, toolkit]) rmSync(folder, { recursive: true, force: true });
  mkdirSync(site, { recursive: true });
  const pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--require-hashes", "--target", site];
  const seconds = run("python3", [...pip, "-r", requirements], "installing the CUDA compiler");
  layOut(join(site, "nvidia", "cu13"));
  renameSync(join(site, "nvidia", "cu13"), toolkit);
  rmSync(site, { recursive: true });
  const works = spawnSync(compiler, ["--version"], { encoding: "utf8" });
  if (works.status !== 0) fail(`${compiler} does not run: ${works.stderr || works.error}`);
  stamp("cuda-toolkit", digest);
  say(`…done in ${seconds} s`);
  return compiler;
}
