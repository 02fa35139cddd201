// nibble train: fine-tunes an adapter (or all weights). Its options are the fields of recipe.yaml, so none can be
// missing here or mean something else.
import { type Command, Option } from "commander";
import { flagName, type RecipeField, readRecipe, recipeFields, yamlKey } from "#packages/data";
import type { DeviceChoice } from "#packages/engine";
import { bytes, count, duration } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { deviceOption, endpointOption, jsonOption, whole } from "../options.ts";
import { TrainReporter } from "../progress.ts";
import { withBackend } from "./run.ts";

interface Options extends Record<string, unknown> {
  config?: string;
  evalData?: string;
  evalSteps: number;
  device: DeviceChoice;
  endpoint?: string;
  json?: boolean;
}

/** Their values are shown by name; the rest are numbers or one of a few words. */
const placeholders: Record<string, string> = {
  model: "dir",
  data: "source",
  datasetFormat: "name",
  out: "dir",
  initAdapter: "dir",
  pagingDir: "dir",
  optimizer: "name",
  targets: "names",
  gradientCheckpointing: "how",
  memoryLimit: "bytes",
};

function placeholderOf({ key, check }: RecipeField): string {
  const words = /^one of (.*)$/.exec(check.expected)?.[1];
  if (words !== undefined && words.length < 30) return words.replaceAll(", ", "|");
  return placeholders[key] ?? "n";
}

/** A yes-or-no field is two options; the one that only repeats the default is not shown. */
export function optionsOf(field: RecipeField): Option[] {
  const name = flagName(field);
  const { key, fallback, help } = field;
  if (typeof fallback !== "boolean") {
    const isShown = fallback !== null && fallback !== undefined;
    const text = isShown ? `${help} (default: ${fallback})` : help;
    return [new Option(`${name} <${placeholderOf(field)}>`, text)];
  }
  const plain = `--${yamlKey(key).replaceAll("_", "-")}`;
  const on = new Option(plain, help).hideHelp(fallback);
  const off = new Option(plain.replace("--", "--no-"), `not: ${help}`).hideHelp(!fallback);
  return [on, off];
}

export function addTrain(program: Command, io: Io): void {
  const command = program
    .command("train")
    .description("fine-tune a LoRA adapter over a 4-bit base (QLoRA), or a whole 16-bit model")
    .addOption(new Option("--config <file>", "recipe.yaml with the options below, spelled with _; flags win"));
  for (const option of recipeFields.flatMap(optionsOf)) command.addOption(option);
  command
    .addOption(new Option("--eval-data <file>", "held-out rows: their loss is measured before and after"))
    .addOption(
      new Option("--eval-steps <n>", "measure it every n steps as well; 0 = not").argParser(whole(0)).default(0),
    )
    .addOption(deviceOption())
    .addOption(endpointOption())
    .addOption(jsonOption())
    .action((options: Options, self: Command) => train(io, options, self));
}

/** Only what was typed: an option's own default would hide the recipe's. */
export function typedFlags(options: Readonly<Record<string, unknown>>, command: Command): Record<string, unknown> {
  const typed = recipeFields.filter(({ key }) => command.getOptionValueSource(key) === "cli");
  return Object.fromEntries(typed.map(({ key }) => [key, options[key]]));
}

async function train(io: Io, options: Options, command: Command): Promise<void> {
  const flags = typedFlags(options, command);
  const recipe = readRecipe({ flags, ...(options.config === undefined ? {} : { file: options.config }) });
  const reporter = new TrainReporter(io);
  const job = { recipe, evalFile: options.evalData ?? null, evalSteps: options.evalSteps, device: options.device };
  const summary = await withBackend(io, options.endpoint, (backend) =>
    backend.train(job, { signal: io.signal, onEvent: (event) => reporter.event(event) }),
  ).finally(() => reporter.end());
  if (options.json) return printJson(io, summary);
  const { outDir, steps, firstLoss, lastLoss, evalLoss, seconds, tokens, trainedParameters, memoryPeakBytes } = summary;
  const heldOut = evalLoss === null ? "" : `, held-out loss ${evalLoss.toFixed(4)}`;
  line(io.stdout, `wrote ${outDir}`);
  line(io.stdout, `  ${count(trainedParameters)} parameters trained in ${steps} steps, ${duration(seconds)}`);
  line(io.stdout, `  loss ${firstLoss.toFixed(4)} → ${lastLoss.toFixed(4)}${heldOut}`);
  line(
    io.stdout,
    `  ${count(tokens)} tokens, ${count(tokens / seconds)} tokens/s, peak memory ${bytes(memoryPeakBytes)}`,
  );
}
