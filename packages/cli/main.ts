// nibble's entry: one command line, one exit code. scripts/nibble.mjs starts it on the pinned Node.
import { failureOf } from "./errors.ts";
import { interruptOf } from "./interrupt.ts";
import type { Io } from "./io.ts";
import { createProgram } from "./program.ts";

export async function main(args: readonly string[]): Promise<void> {
  const { stdin, stdout, stderr, env } = process;
  const interrupt = interruptOf(process);
  const io: Io = { stdin, stdout, stderr, env, signal: interrupt.signal };
  // A reader that has seen enough (`nibble … | head`) is no failure of ours.
  stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  try {
    await createProgram(io).parseAsync(args, { from: "user" });
  } catch (thrown) {
    // After Ctrl-C every call ends in its own way; what ended them says it best.
    const cause = interrupt.signal.aborted ? interrupt.signal.reason : thrown;
    const { exitCode, text } = failureOf(cause, env["NIBBLE_DEBUG"] === "1");
    stderr.write(text);
    process.exitCode = interrupt.exitCode ?? exitCode;
  }
}

if (import.meta.main) await main(process.argv.slice(2));
