// What merge and export share: the engine of this process, how a 16-bit base was quantized, the progress line.
import { type Command, Option } from "commander";
import type { Engine, TensorProgress } from "#packages/engine";
import type { Io } from "../io.ts";
import { addQuantOptions, type QuantFlags, quantOf } from "../options.ts";
import { StatusLine, tensorBar } from "../progress.ts";

export interface TrainedAsFlags extends QuantFlags {
  bits?: "4" | "16";
}

/** How train had a 16-bit base: the values that an adapter belongs to. A quantized folder says it itself. */
export function addTrainedAs(command: Command, bitsDefault: string): Command {
  const help = `of a 16-bit model's linear layers in training (default: ${bitsDefault})`;
  return addQuantOptions(command.addOption(new Option("--bits <bits>", help).choices(["4", "16"])), " with --bits 4");
}

export function trainedAs(flags: TrainedAsFlags, quantizedByDefault: boolean) {
  return (flags.bits === undefined ? quantizedByDefault : flags.bits === "4") ? quantOf(flags) : null;
}

/** Runs work on an engine of its own, with a status line that ends before anything is printed. */
export async function withEngine<T>(
  io: Io,
  threads: number | null,
  work: (engine: Engine, call: { signal: AbortSignal; onEvent: (p: TensorProgress) => void }) => Promise<T>,
): Promise<T> {
  // Imported when needed: --help should not wait for the engine to load.
  const { Engine } = await import("#packages/engine");
  const engine = new Engine(threads === null ? {} : { threads });
  const status = new StatusLine(io);
  const onEvent = (progress: TensorProgress) => status.show(tensorBar(progress));
  try {
    return await work(engine, { signal: io.signal, onEvent });
  } finally {
    status.clear();
    await engine.close();
  }
}
