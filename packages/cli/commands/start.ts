// nibble start: the whole stack, until it is told to stop.
import type { Command } from "commander";
import type { Io } from "../io.ts";
import { whole } from "../options.ts";
import { hubPortAfter, portDefault } from "../stack/config.ts";

export interface StartOptions {
  host?: string;
  port?: number;
  home?: string;
  model?: string;
}

export function addStart(program: Command, io: Io): void {
  program
    .command("start")
    .description("run all services on this machine until Ctrl-C")
    .option("--host <host>", "to listen on (NIBBLE_HOST; default: 127.0.0.1)")
    .option(
      "--port <n>",
      `of the stack; its services have the next five, the Hub's API ${hubPortAfter} after (NIBBLE_PORT; default: ${portDefault}; 0: free ones)`,
      whole(0),
    )
    .option("--model <dir>", "base model to serve from the start, a folder or a name of the Hub (default: none)")
    .option("--home <dir>", "where jobs and adapters are kept (NIBBLE_HOME; default: .nibble)")
    .action(async (options: StartOptions) => (await import("./start-work.ts")).runStack(io, options));
}
