// nibble merge: an adapter into its base, as one folder.
import { type Command, Option } from "commander";
import type { LogitDrift, MergeReport } from "#packages/engine";
import { bytes, count, duration, percent } from "../format.ts";
import { localFolder } from "../hub-folder.ts";
import { type Io, line, printJson } from "../io.ts";
import { jsonOption, outOption, threadsOption } from "../options.ts";
import { addTrainedAs, type TrainedAsFlags, trainedAs, withEngine } from "./local-engine.ts";

interface Options extends TrainedAsFlags {
  model: string;
  adapter: string;
  out: string;
  into: "trained" | "original";
  requantize?: boolean;
  dtype?: "float32" | "bfloat16" | "float16";
  threads?: number;
  json?: boolean;
}

const help = `
A QLoRA adapter was trained on the values that the 4-bit codes decode to. Merged into those (the default) the model
answers as base and adapter do; merged into the weights before quantization it is another model. What was written is
compared with base and adapter apart, in logits, whichever way. With --requantize, what a short training adds to values
that lie on the codes' grid is less than a code's half: where rounding to the nearest one loses it, codes are drawn by
chance, and it is warned of what is lost still.`;

export function addMerge(program: Command, io: Io): void {
  const command = program
    .command("merge")
    .description("merge an adapter into its base, and say how far the answers moved")
    .requiredOption("--model <dir>", "base model folder, 16-bit or quantized, or org/name at the Hub")
    .requiredOption("--adapter <dir>", "adapter folder, or org/name at the Hub")
    .addOption(outOption("dir", "folder to write"))
    .addOption(
      new Option("--into <weights>", "the base's values as trained on, or as before quantization")
        .choices(["trained", "original"])
        .default("trained"),
    )
    .option("--requantize", "write 4 bits again instead of plain numbers")
    .addOption(
      new Option("--dtype <dtype>", "what to write (default: the base's own before quantization)").choices([
        "float32",
        "bfloat16",
        "float16",
      ]),
    );
  addTrainedAs(command, "4")
    .addOption(threadsOption())
    .addOption(jsonOption())
    .addHelpText("after", help)
    .action((options: Options) => merge(io, options));
}

async function merge(io: Io, options: Options): Promise<void> {
  const { out: outDir, into, dtype = null, threads = null } = options;
  const [modelDir, adapterDir] = [await localFolder(io, options.model), await localFolder(io, options.adapter)];
  const requantize = options.requantize ? trainedAs({ ...options, bits: "4" }, true) : null;
  const job = { modelDir, adapterDir, outDir, into, dtype, quant: trainedAs(options, true) };
  const report = await withEngine(io, threads, (engine, call) => engine.merge({ ...job, requantize }, call));
  if (options.json) return printJson(io, report);
  print(io, report);
}

/** As much of the divergence as the adapter itself makes: then it is not in what was written. */
const lostShare = 0.5;

function print(io: Io, report: MergeReport): void {
  const { drift, driftWithout, into, dtype } = report;
  const base = report.trainedOnBase ? "the adapter names it" : "the adapter names no base";
  line(io.stdout, `wrote ${report.outDir}`);
  line(
    io.stdout,
    `  ${count(report.adaptedLayers)} layers merged into the ${into === "trained" ? "values trained on" : "original weights"}, ` +
      `${report.rounding === null ? "" : "4 bits of "}${dtype}, ${bytes(report.bytesWritten)}, ${duration(report.seconds)}`,
  );
  line(io.stdout, `  base ${report.baseDigest}: ${base}`);
  line(
    io.stdout,
    `  beside base and adapter apart, at ${drift.positions} positions: logits within ${drift.maxDifference.toPrecision(2)} ` +
      `of ${drift.maxLogit.toPrecision(3)}, mean divergence ${nats(drift)}, same most likely token ${percent(drift.sameTop)}`,
  );
  if (driftWithout === null) return;
  const how = report.rounding === "chance" ? "; codes drawn by chance, as the nearest ones lose it" : "";
  line(io.stdout, `  the base without the adapter: mean divergence ${nats(driftWithout)}${how}`);
  if (drift.meanDivergence < lostShare * driftWithout.meanDivergence) return;
  const got = `expected a divergence far below ${nats(driftWithout)}, got ${nats(drift)}`;
  line(io.stderr, `warning: most of the adapter is lost: ${got}; leave --requantize out`);
}

const nats = ({ meanDivergence }: LogitDrift) => `${meanDivergence.toExponential(1)} nats`;
