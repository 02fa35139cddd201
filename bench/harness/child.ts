// A measurement in a process of its own: what it prints last is one line of JSON. A process for each run keeps the
// peak of one run out of the next, and ours and the peers' are treated alike.
import { spawn } from "node:child_process";

export type Printed = Record<string, unknown>;

export interface Command {
  file: string;
  args: readonly string[];
  env?: Record<string, string>;
}

/** Runs to the end; the last line that it printed. @throws with the end of what it wrote on stderr when it fails. */
export async function runJson(command: Command): Promise<Printed> {
  const { stdout } = await finish(command);
  return parse(stdout.trimEnd().split("\n").at(-1) ?? "", command);
}

/** The same for a script that prints nothing but lines of JSON. */
export async function runLines(command: Command): Promise<Printed[]> {
  const { stdout } = await finish(command);
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => parse(line, command));
}

function parse(line: string, command: Command): Printed {
  try {
    return JSON.parse(line) as Printed;
  } catch {
    throw new Error(`${command.args.join(" ")}: expected a line of JSON, got ${JSON.stringify(line.slice(0, 200))}`);
  }
}

/** Seconds from the start of the process to its first byte on stdout; then it is let run to its end. */
export async function secondsToFirstByte(command: Command): Promise<number> {
  const started = performance.now();
  let first = Number.NaN;
  await finish(command, () => {
    if (Number.isNaN(first)) first = (performance.now() - started) / 1000;
  });
  if (Number.isNaN(first)) throw new Error(`${command.args[0]}: printed nothing`);
  return first;
}

function finish(command: Command, onOutput: () => void = () => {}): Promise<{ stdout: string }> {
  const { file, args, env = {} } = command;
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (data: Buffer) => {
      onOutput();
      stdout += data.toString();
    });
    child.stderr.on("data", (data: Buffer) => {
      stderr = (stderr + data.toString()).slice(-4000);
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (code === 0) resolve({ stdout });
      else reject(new Error(`${file} ${args.join(" ")}: ended with ${signal ?? code}\n${stderr}`));
    });
  });
}
