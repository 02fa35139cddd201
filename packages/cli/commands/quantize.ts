// nibble quantize: a 16- or 32-bit model folder into a 4-bit one.
import type { Command } from "commander";
import { bytes, count, duration } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import {
  addQuantOptions,
  endpointOption,
  jsonOption,
  outOption,
  type QuantFlags,
  quantOf,
  threadsOption,
} from "../options.ts";
import { StatusLine, tensorBar } from "../progress.ts";
import { withBackend } from "./run.ts";

interface Options extends QuantFlags {
  out: string;
  threads?: number;
  endpoint?: string;
  json?: boolean;
}

export function addQuantize(program: Command, io: Io): void {
  const command = program
    .command("quantize")
    .description("store a model's linear layers in 4 bits")
    .argument("<model-dir>", "model folder to read: config.json and safetensors; or org/name[@revision] of the Hub")
    .addOption(outOption("dir", "folder to write"));
  addQuantOptions(command)
    .addOption(threadsOption())
    .addOption(endpointOption())
    .addOption(jsonOption())
    .action((modelDir: string, options: Options) => quantize(io, modelDir, options));
}

async function quantize(io: Io, modelDir: string, options: Options): Promise<void> {
  const { out: outDir, threads = null } = options;
  const status = new StatusLine(io);
  const summary = await withBackend(io, options.endpoint, (backend) =>
    backend.quantize(
      { modelDir, outDir, quant: quantOf(options), threads },
      {
        signal: io.signal,
        onProgress: (progress) => status.show(tensorBar(progress)),
      },
    ),
  ).finally(() => status.clear());
  if (options.json) return printJson(io, summary);
  const { parameters, quantizedParameters, bitsPerParameter, bytesRead, bytesWritten, bytesPeak, seconds } = summary;
  line(io.stdout, `wrote ${summary.outDir}`);
  line(
    io.stdout,
    `  ${count(quantizedParameters)} of ${count(parameters)} parameters in ${bitsPerParameter.toFixed(3)} bits each`,
  );
  line(
    io.stdout,
    `  ${bytes(bytesRead)} read, ${bytes(bytesWritten)} written, peak ${bytes(bytesPeak)}, ${duration(seconds)}`,
  );
  line(io.stdout, `  digest ${summary.digest}`);
}
