// A process with a time, for what may hang or crash on a card: whatever it does, there is the result that it printed or the
// reason why there is none, and nothing of it goes on to take memory or time of the card from what follows.
import { spawnSync } from "node:child_process";
import type { Command } from "../harness/child.ts";

/** The line that says most of what went wrong. */
function reasonOf(stderr: string): string | undefined {
  const lines = stderr.split("\n").filter((line) => line.trim() !== "");
  return (lines.find((line) => /Error\b.*:/.test(line)) ?? lines.at(-1))?.trim();
}

/** Those that it started, as Python with a peer, are in its group. */
function endGroup(pid: number): void {
  try {
    if (pid > 0) process.kill(-pid, "SIGKILL");
  } catch {} // it left none
}

/** What it prints last, a line of JSON; else why there is none. It is killed after `seconds`, and all that it started. */
export function lastLine<T extends object>({ file, args, env }: Command, seconds: number): T | string {
  const child = spawnSync(file, args, {
    ...{ encoding: "utf8", timeout: Math.ceil(seconds * 1000), killSignal: "SIGKILL", maxBuffer: 1 << 28 },
    ...({ detached: true } as object), // in a group of its own; Node's types do not know that spawnSync takes it
    env: { ...process.env, ...env },
  });
  endGroup(child.pid);
  if (child.signal === "SIGKILL" && child.error) return `took more than its ${seconds.toFixed(0)} s`;
  if (child.status === null && child.error) return child.error.message;
  if (child.status !== 0) return reasonOf(child.stderr ?? "") ?? `ended with ${child.signal ?? child.status}`;
  try {
    return JSON.parse(child.stdout.trimEnd().split("\n").at(-1) ?? "") as T;
  } catch {
    return `printed no result: ${child.stdout.slice(-200)}`;
  }
}
