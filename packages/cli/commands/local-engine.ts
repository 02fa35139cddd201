// What merge and export share: the engine of this process, how a 16-bit base was quantized, the progress line.
import { type Command, Option } from "commander";
import { baseQuantTypes, blockSizes } from "#packages/data";
import type { Engine, QuantOptions, TensorProgress } from "#packages/engine";
import type { Io } from "../io.ts";
import { StatusLine, tensorBar } from "../progress.ts";

export interface TrainedAsFlags {
  bits?: "4" | "16";
  type: QuantOptions["type"];
  blockSize: string;
  doubleQuant: boolean;
}

/** How train had a 16-bit base: the values that an adapter belongs to. A quantized folder says it itself. */
export function addTrainedAs(command: Command, bitsDefault: string): Command {
  return command
    .addOption(
      new Option("--bits <bits>", `of a 16-bit model's linear layers in training (default: ${bitsDefault})`).choices([
        "4",
        "16",
      ]),
    )
    .addOption(new Option("--type <type>", "4-bit type with --bits 4").choices(baseQuantTypes).default("nf4"))
    .addOption(
      new Option("--block-size <n>", "weights that share one absmax").choices(blockSizes.map(String)).default("64"),
    )
    .option("--no-double-quant", "each block's absmax in 32 bits");
}

export function trainedAs({ bits, type, blockSize, doubleQuant }: TrainedAsFlags, quantizedByDefault: boolean) {
  const quant: QuantOptions = { type, blockSize: Number(blockSize), doubleQuant };
  return (bits === undefined ? quantizedByDefault : bits === "4") ? quant : null;
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
