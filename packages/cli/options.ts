// Options that several commands share, and checks of their values.
import { type Command, InvalidArgumentError, Option } from "commander";
import { deviceChoices, type QuantOptions } from "#packages/engine";
import { quantBlockSizes, quantTypes } from "#packages/hub";

function number(text: string, expected: string, ok: (n: number) => boolean): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isFinite(value) && ok(value)) return value;
  throw new InvalidArgumentError(`expected ${expected}`);
}

export const whole =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string) => {
    const expected = max === Number.MAX_SAFE_INTEGER ? `>= ${min}` : `in ${min}..${max}`;
    return number(text, `a whole number ${expected}`, (n) => Number.isSafeInteger(n) && n >= min && n <= max);
  };

export const real = (expected: string, ok: (n: number) => boolean) => (text: string) => number(text, expected, ok);

/** "1,2,3". */
export function tokenIds(text: string): number[] {
  const ids = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (ids.every((id) => Number.isSafeInteger(id) && id >= 0)) return ids;
  throw new InvalidArgumentError("expected token ids such as 1,2,3");
}

/** For options that may be given again. */
export const collect = (value: string, before: string[]): string[] => [...before, value];

/** What a command writes. An empty path would be the current folder. */
export function outOption(placeholder: string, help: string): Option {
  const check = (path: string) => {
    if (path !== "") return path;
    throw new InvalidArgumentError("expected a path, got an empty text");
  };
  const option = new Option(`--out <${placeholder}>`, `${help}; it appears whole or not at all`);
  return option.argParser(check).makeOptionMandatory();
}

export const endpointOption = () =>
  new Option("--endpoint <host:port>", "work through a running stack (nibble start); paths are the server's");

export const jsonOption = () => new Option("--json", "print one JSON object on stdout, nothing else");

export const threadsOption = () => new Option("--threads <n>", "CPU threads (default: all cores)").argParser(whole(1));

export const deviceOption = () =>
  new Option("--device <device>", "cuda: a card; auto: a card where there is one")
    .choices(deviceChoices)
    .default("cpu");

export const dtypeOption = () =>
  new Option("--dtype <dtype>", "what the engine computes in").choices(["float32", "bfloat16"]).default("float32");

export interface QuantFlags {
  type: QuantOptions["type"];
  blockSize: string;
  doubleQuant: boolean;
}

/** How linear layers are stored in 4 bits. `when` is said of the type: "with --bits 4". */
export function addQuantOptions(command: Command, when = ""): Command {
  return command
    .addOption(new Option("--type <type>", `4-bit type${when}`).choices(quantTypes).default("nf4"))
    .addOption(
      new Option("--block-size <n>", "weights that share one absmax")
        .choices(quantBlockSizes.map(String))
        .default("64"),
    )
    .option("--no-double-quant", "keep each block's absmax in 32 bits");
}

export function quantOf({ type, blockSize, doubleQuant }: QuantFlags): QuantOptions {
  return { type, blockSize: Number(blockSize), doubleQuant };
}
