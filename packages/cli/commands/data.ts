// nibble data: what a data set would teach, before anything is trained.
import { type Command, Option } from "commander";
import { findingText, printMask, readRecipe, recipeFields, type TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import type { PreviewSummary } from "../backend.ts";
import { count } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { endpointOption, jsonOption, whole } from "../options.ts";
import { withBackend } from "./run.ts";
import { optionsOf, typedFlags } from "./train.ts";

interface Options extends Record<string, unknown> {
  config?: string;
  rows: number;
  endpoint?: string;
  json?: boolean;
}

/** The settings that decide what is read and what of it is trained. */
const keys: readonly (keyof TrainRecipe)[] = [
  "model",
  "data",
  "initAdapter",
  "datasetFormat",
  "maxLength",
  "trainOnSource",
  "trainTurns",
];
const rowsDefault = 3;
const rowsMax = 100;

export function addData(program: Command, io: Io): void {
  const data = program.command("data").description("look at data sets before they are trained on");
  const command = data
    .command("preview")
    .description("show rows token by token, trained or masked, and what is odd about all of them")
    .addOption(new Option("--config <file>", "recipe.yaml, as for train"));
  for (const field of recipeFields.filter(({ key }) => keys.includes(key))) {
    for (const option of optionsOf(field)) command.addOption(option);
  }
  command
    .addOption(new Option("--rows <n>", `rows to show, ${rowsMax} at most`).argParser(whole(0)).default(rowsDefault))
    .addOption(endpointOption())
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nTrained tokens are green in a terminal and between ⟦ and ⟧ elsewhere (or with NO_COLOR). The model's folder needs" +
        "\nconfig.json and the tokenizer, no weights. Rows that cannot be read are listed, and end it with exit code 2.",
    )
    .action((options: Options, self: Command) => preview(io, options, self));
}

async function preview(io: Io, options: Options, command: Command): Promise<void> {
  const file = options.config === undefined ? {} : { file: options.config };
  const recipe = readRecipe({ flags: typedFlags(options, command), optional: ["out"], ...file });
  const job = { recipe: { ...recipe, out: recipe.out || "." }, rows: Math.min(options.rows, rowsMax) };
  const summary = await withBackend(io, options.endpoint, (backend) => backend.preview(job, io.signal));
  if (options.json) printJson(io, summary);
  else print(io, summary);
  const bad = summary.findings.find(({ problem }) => problem === "bad");
  if (bad) throw new NibbleError(findingText(bad), { code: "INVALID_ARGUMENT", op: "data preview" });
}

function print(io: Io, summary: PreviewSummary): void {
  const { rows, tokens, trainedTokens, longest, format, unusedColumns, findings, preview: shown } = summary;
  const marks = marksOf(io);
  for (const { file, line: at, weight, tokens: list } of shown) {
    line(io.stdout, `${file}:${at}  ${count(list.length)} tokens${weight === 1 ? "" : `, weight ${weight}`}`);
    line(io.stdout, `${printMask(list, marks)}\n`);
  }
  const counts = `${count(tokens)} tokens, ${count(trainedTokens)} of them trained, ${count(longest)} in the longest`;
  line(io.stdout, `${count(rows)} ${rows === 1 ? "row" : "rows"} to train on, format ${format}: ${counts}`);
  if (unusedColumns.length > 0) line(io.stdout, `columns not used: ${unusedColumns.join(", ")}`);
  for (const finding of findings) {
    line(io.stdout, `${finding.problem}: ${findingText(finding)}`);
    for (const { file, line: at, text } of finding.first.slice(1, placesShown)) {
      line(io.stdout, `  ${file}:${at}${text === "" ? "" : `  ${text}`}`);
    }
  }
  if (findings.length === 0) line(io.stdout, "nothing odd: no row is cut, repeated, left out or without an end");
}

const placesShown = 5;

function marksOf({ stdout, env }: Io): readonly [string, string] {
  return stdout.isTTY && !env["NO_COLOR"] ? ["\u001b[32m", "\u001b[39m"] : ["⟦", "⟧"];
}
