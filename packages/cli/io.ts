// What a command has of the process: streams, the environment and the wish to stop. Tests and scripts make
// their own; only main.ts and interrupt.ts touch the process itself.
import type { Readable, Writable } from "node:stream";

export interface Io {
  stdin: Readable & { isTTY?: boolean };
  /** Results only: with --json exactly one object. */
  stdout: Writable & { isTTY?: boolean };
  /** Progress and messages. */
  stderr: Writable & { isTTY?: boolean; columns?: number };
  env: Readonly<Record<string, string | undefined>>;
  /** Aborts on Ctrl-C. */
  signal: AbortSignal;
}

export function line(stream: Writable, text: string): void {
  stream.write(`${text}\n`);
}

/** One JSON object on a line of its own. */
export function printJson(io: Io, value: object): void {
  line(io.stdout, JSON.stringify(value));
}
