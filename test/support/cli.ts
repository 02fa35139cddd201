// Runs the command line as its users do, as a process of its own.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export const mainFile = fileURLToPath(new URL("../../packages/cli/main.ts", import.meta.url));

export interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: Record<string, string>;
  input?: string;
  /** Sends this signal once stderr holds that text. */
  interrupt?: { after: string; signal: NodeJS.Signals };
}

export function nibble(args: readonly string[], { env = {}, input = "", interrupt }: RunOptions = {}): Promise<Run> {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", mainFile, ...args], {
    // A wrong folder may have the form of a name at the Hub: no test asks the public one.
    env: { ...process.env, NIBBLE_DEBUG: "", NIBBLE_ENDPOINT: undefined, HF_HUB_OFFLINE: "1", ...env },
  });
  const run: Run = { code: null, stdout: "", stderr: "" };
  let isInterrupted = false;
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    run.stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    run.stderr += text;
    if (!interrupt || isInterrupted || !run.stderr.includes(interrupt.after)) return;
    isInterrupted = true;
    child.kill(interrupt.signal);
  });
  // A command that fails early does not read what it is given.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ ...run, code }));
  });
}
