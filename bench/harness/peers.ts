// Which peers are installed, and how to install those that are not. Nothing here is a dependency of Nibble.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "./child.ts";

/** The Python packages that peers need, each with what measures it. */
const packages = ["numpy", "torch", "transformers", "peft", "bitsandbytes", "safetensors", "gguf", "llama-cpp-python"];

const installPython = (names: readonly string[]) =>
  `python3 -m venv peers && peers/bin/pip install ${names.join(" ")}, then --peers-python peers/bin/python`;
const installNode = "npm install --prefix peers node-llama-cpp, then --peers-node-llama peers";

export type Peer = { command: Command } | { note: string };

export const peerScript = (name: string): string => fileURLToPath(new URL(`../peers/${name}`, import.meta.url));

/** What is imported of node-llama-cpp, installed below the folder. */
export const nodeLlamaEntry = (dir: string): string => join(dir, "node_modules/node-llama-cpp/dist/index.js");

export class Peers {
  /** Version by package; a package that is not installed is not in it. */
  readonly versions: Record<string, string>;
  private readonly python: string;
  private readonly nodeLlamaDir: string | null;

  constructor(python: string, nodeLlamaDir: string | null) {
    this.python = python;
    this.nodeLlamaDir = nodeLlamaDir;
    this.versions = { ...pythonVersions(python), ...nodeLlamaVersion(nodeLlamaDir) };
  }

  /** A script under bench/peers on the peers' Python, or how to install the packages that it lacks. */
  pythonScript(
    peer: string,
    needed: readonly string[],
    script: string,
    args: readonly string[],
    env: Record<string, string> = {},
  ): Peer {
    const missing = needed.filter((name) => this.versions[name] === undefined);
    if (missing.length > 0)
      return { note: `${peer} is not installed (${missing.join(", ")}): ${installPython(needed)}` };
    // No progress bars, and no look at a hub for a folder that is here.
    const quiet = { HF_HUB_OFFLINE: "1", TQDM_DISABLE: "1", TRANSFORMERS_VERBOSITY: "error" };
    return { command: { file: this.python, args: [peerScript(script), ...args], env: { ...quiet, ...env } } };
  }

  /** A script under bench/peers on this Node; its first argument is node-llama-cpp's entry. */
  nodeLlamaScript(script: string, args: readonly string[]): Peer {
    if (this.nodeLlamaDir === null || this.versions["node-llama-cpp"] === undefined) {
      return { note: `node-llama-cpp is not installed: ${installNode}` };
    }
    const entry = nodeLlamaEntry(this.nodeLlamaDir);
    return { command: { file: process.execPath, args: [peerScript(script), entry, ...args] } };
  }
}

function pythonVersions(python: string): Record<string, string> {
  const script = [
    "import importlib.metadata as m, json, sys",
    "found = {d.metadata['Name'].replace('_', '-').lower(): d.version for d in m.distributions()}",
    "print(json.dumps({'python': sys.version.split()[0], **{n: found[n] for n in sys.argv[1:] if n in found}}))",
  ].join("\n");
  const { status, stdout } = spawnSync(python, ["-c", script, ...packages], { encoding: "utf8" });
  return status === 0 ? (JSON.parse(stdout) as Record<string, string>) : {};
}

function nodeLlamaVersion(dir: string | null): Record<string, string> {
  const file = dir === null ? "" : join(dir, "node_modules/node-llama-cpp/package.json");
  if (!existsSync(file)) return {};
  const { version } = JSON.parse(readFileSync(file, "utf8")) as { version: string };
  return { "node-llama-cpp": version };
}
