// The Python that interop tests run (NIBBLE_PYTHON, else python3), if it has what they import.
import { spawn, spawnSync } from "node:child_process";

export const python = process.env["NIBBLE_PYTHON"] ?? "python3";

/** False, or why tests that need these modules are skipped. */
export function skipWithout(...modules: string[]): string | false {
  const found = spawnSync(python, ["-c", `import ${modules.join(", ")}`], { encoding: "utf8" });
  return found.status === 0 ? false : `${python} has no ${modules.join(", ")}`;
}

export interface PythonRun {
  /** Null: it was killed. */
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface PythonProcess {
  ended: Promise<PythonRun>;
  kill(): void;
}

/** Beside the test's own event loop: a server under test may live in it. */
export function startPython(args: readonly string[], env: Record<string, string>): PythonProcess {
  const child = spawn(python, args, { env: { ...process.env, ...env } });
  const run: PythonRun = { code: null, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    run.stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    run.stderr += text;
  });
  const ended = new Promise<PythonRun>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ ...run, code }));
  });
  return { ended, kill: () => void child.kill("SIGKILL") };
}
