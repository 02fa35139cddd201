// nibble export: a model, with an adapter in it if there is one, as a GGUF file for llama.cpp.
import { type Command, Option } from "commander";
import type { ExportGgufOptions } from "#packages/engine";
import { bytes, count, duration } from "../format.ts";
import { localFolder } from "../hub-folder.ts";
import { type Io, line, printJson } from "../io.ts";
import { jsonOption, outOption, threadsOption } from "../options.ts";
import { addTrainedAs, type TrainedAsFlags, trainedAs, withEngine } from "./local-engine.ts";

interface Options extends TrainedAsFlags {
  model: string;
  adapter?: string;
  out: string;
  format: ExportGgufOptions["type"];
  threads?: number;
  json?: boolean;
}

/** packages/hub's ggufFileTypes; named here so that --help does not load it. */
const formats = ["f32", "f16", "bf16", "q8_0", "q4_0"];

export function addExport(program: Command, io: Io): void {
  const command = program
    .command("export")
    .description("write a GGUF file that llama.cpp runs")
    .requiredOption(
      "--model <dir>",
      "model folder with its tokenizer.json, 16-bit or quantized, or org/name at the Hub",
    )
    .option("--adapter <dir>", "adapter folder to merge on the way, or org/name at the Hub")
    .addOption(outOption("file", "file to write, such as model.gguf"))
    .addOption(
      new Option("--format <format>", "of the weights; q4_0 has the embedding and the head in q8_0")
        .choices(formats)
        .default("f16"),
    );
  addTrainedAs(command, "4 with --adapter, else 16")
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action((options: Options) => exportGguf(io, options));
}

async function exportGguf(io: Io, options: Options): Promise<void> {
  const { out: outFile, format: type, threads = null } = options;
  const modelDir = await localFolder(io, options.model);
  const adapterDir = options.adapter === undefined ? null : await localFolder(io, options.adapter);
  const quant = trainedAs(options, adapterDir !== null);
  const report = await withEngine(io, threads, (engine, call) =>
    engine.exportGguf({ modelDir, adapterDir, quant, outFile, type }, call),
  );
  if (options.json) return printJson(io, report);
  line(io.stdout, `wrote ${report.outFile}`);
  line(
    io.stdout,
    `  ${count(report.tensors)} tensors, ${report.type}, ${bytes(report.bytesWritten)}, ${duration(report.seconds)}`,
  );
}
