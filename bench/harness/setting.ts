// What all rows share: how often, how many threads, which models, which peers.
import { fileURLToPath } from "node:url";
import { type Command, runJson } from "./child.ts";
import type { Subject } from "./compare.ts";
import type { Models } from "./models.ts";
import type { Peer, Peers } from "./peers.ts";

export interface Setting {
  runs: number;
  threads: number;
  models: Models;
  peers: Peers;
}

/** Picks the figure out of the line that a script prints. */
export type Pick = string | ((printed: Record<string, unknown>) => unknown);

/** One of our own scripts under bench/. */
export function ours(script: string, args: readonly string[]): Command {
  const path = fileURLToPath(new URL(`../${script}`, import.meta.url));
  return { file: process.execPath, args: ["--disable-warning=ExperimentalWarning", path, ...args] };
}

/** One figure of what the command prints; whole lines go to `all`. */
export function figure(name: string, command: Command, pick: Pick, all: Record<string, unknown>[] = []): Subject {
  const measure = async () => {
    const printed = await runJson(command);
    all.push(printed);
    const value = Number(typeof pick === "string" ? printed[pick] : pick(printed));
    if (Number.isFinite(value)) return value;
    throw new Error(`${command.args.join(" ")}: expected ${pick} to be a number, got ${JSON.stringify(printed)}`);
  };
  return { name, measure };
}

/** The peer's figure; none where it is not installed, and a note that says how to install it. */
export function peerFigure(
  name: string,
  peer: Peer,
  pick: Pick,
  { notes, all = [] }: { notes: string[]; all?: Record<string, unknown>[] },
): Subject[] {
  if ("command" in peer) return [figure(name, peer.command, pick, all)];
  if (!notes.includes(peer.note)) notes.push(peer.note);
  return [];
}
