// nibble estimate: tokens, memory by kind and time of a training run before it runs. With --paper, the QLoRA paper's
// own figures and ours for its models.
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { type Command, Option } from "commander";
import { readRecipe, recipeFields, type TrainRecipe } from "#packages/data";
import type { QuoteSummary } from "../backend.ts";
import { bytes, count, duration, table } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { endpointOption, jsonOption } from "../options.ts";
import { withBackend } from "./run.ts";
import { optionsOf, typedFlags } from "./train.ts";

interface Options extends Record<string, unknown> {
  config?: string;
  evalData?: string;
  device: "cpu" | "cuda";
  paper?: boolean;
  endpoint?: string;
  json?: boolean;
}

export function addEstimate(program: Command, io: Io): void {
  const command = program
    .command("estimate")
    .description("say what a training run would take: tokens, memory by kind, time; no weights are read")
    .addOption(new Option("--config <file>", "recipe.yaml, as for train"));
  for (const option of recipeFields.flatMap(optionsOf)) command.addOption(option);
  command
    .addOption(new Option("--eval-data <file>", "held-out rows"))
    .addOption(new Option("--device <device>", "cuda: memory of a card").choices(["cpu", "cuda"]).default("cpu"))
    .addOption(new Option("--paper", "the QLoRA paper's models: its figures and ours"))
    .addOption(endpointOption())
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\n--model may be a folder with no more than config.json, or that file. Without --data a step of rows of --max-length" +
        "\ntokens is assumed.",
    )
    .action((options: Options, self: Command) => estimate(io, options, self));
}

/** config.json stands for the folder that it is in. */
function folderOf(model: string): string {
  const isFile = statSync(model, { throwIfNoEntry: false })?.isFile() ?? false;
  return isFile ? dirname(model) : model;
}

function recipeOf(options: Options, command: Command): TrainRecipe {
  const flags = typedFlags(options, command);
  const file = options.config === undefined ? {} : { file: options.config };
  const recipe = readRecipe({ flags, optional: ["data", "out"], ...file });
  return { ...recipe, model: folderOf(recipe.model), out: recipe.out || "." };
}

async function estimate(io: Io, options: Options, command: Command): Promise<void> {
  if (options.paper) return paper(io, options.json === true);
  const recipe = recipeOf(options, command);
  const { device, evalData: evalFile = null } = options;
  const job = { recipe, evalFile, hasRows: recipe.data !== "", device };
  const quote = await withBackend(io, options.endpoint, (backend) => backend.quote(job, io.signal));
  if (options.json) return printJson(io, quote);
  print(io, quote, job.hasRows ? `${count(quote.rows)} rows` : `rows of ${recipe.maxLength} tokens`);
}

function print(io: Io, quote: QuoteSummary, rows: string): void {
  const { steps, tokens, trainedTokens, trainedParameters, seconds, availableBytes, limitedBy, fits } = quote;
  line(io.stdout, `${rows}, ${count(steps)} steps, ${count(tokens)} tokens, ${count(trainedTokens)} of them trained`);
  line(io.stdout, `${count(trainedParameters)} parameters trained`);
  const kinds = Object.entries(quote.memoryBytes).map(([kind, n]) => [`  ${kind}`, bytes(n)]);
  const paged = quote.pagedBytes > 0 ? [["  in a spill file, besides", bytes(quote.pagedBytes)]] : [];
  const process = quote.processBytes > 0 ? [["  the process, besides", bytes(quote.processBytes)]] : [];
  line(io.stdout, table([["memory at its peak", bytes(quote.memoryPeakBytes)], ...kinds, ...paged, ...process]));
  if (availableBytes !== null) {
    const verdict = fits ? "it fits" : "it does not fit, and train would refuse it";
    line(io.stdout, `${limitedBy} leaves ${bytes(availableBytes)}: ${verdict}`);
  }
  if (seconds !== null) line(io.stdout, `about ${duration(seconds)} on this machine if nothing else runs`);
}

/** Figure 6 of arXiv:2305.14314 beside what the engine would take. */
async function paper(io: Io, isJson: boolean): Promise<void> {
  const { estimateOfPaper, paperRows } = await import("#packages/engine");
  const rows = paperRows.map((row) => ({ name: row.name, paper: row.paper, ours: estimateOfPaper(row) }));
  if (isJson) return printJson(io, { source: "arXiv:2305.14314 Figure 6", rows });
  const mb = (n: number) => count(n / 1e6);
  line(io.stdout, "MB; paper: arXiv:2305.14314, Figure 6 (batch 1, 512 tokens, r 64, gradient checkpointing)");
  const head = ["", "base", "adapter", "gradients", "optimizer", "rest", "total", "paged"];
  const body = rows.flatMap(({ name, paper: theirs, ours: { atPeak, peakTotal, paged } }) => {
    const { base, adapter, optimizer, total } = theirs;
    const rest = atPeak.activations + atPeak.workspace;
    const kinds = [atPeak.weights, atPeak.adapter, atPeak.gradients, atPeak.optimizer, rest, peakTotal, paged].map(mb);
    const remainder = total - base - adapter - optimizer;
    return [
      [`${name}, paper`, count(base), count(adapter), "in rest", count(optimizer), count(remainder), count(total), ""],
      ["  Nibble", ...kinds],
    ];
  });
  line(io.stdout, table([head, ...body]));
  line(io.stdout, "paged: the optimizer's state and the adapter in float32, on the host; not part of the total");
}
