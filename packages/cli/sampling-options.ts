// The options that say how tokens are chosen, for generate and chat.
import { type Command, Option } from "commander";
import type { SamplingOptions } from "#packages/engine";
import { real, whole } from "./options.ts";

export interface SamplingFlags {
  maxNewTokens?: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  seed: number;
  ignoreEos?: boolean;
}

const notNegative = real("a number >= 0", (n) => n >= 0);
const positive = real("a number > 0", (n) => n > 0);
const part = real("a number in 0..1", (n) => n >= 0 && n <= 1);
const partAboveZero = real("a number in 0..1, 0 excluded", (n) => n > 0 && n <= 1);

export function addSampling(command: Command): Command {
  const option = (flags: string, help: string, read: (text: string) => number) =>
    new Option(flags, help).argParser(read);
  return command
    .addOption(option("--max-new-tokens <n>", "tokens at most (default: 256, or what the context leaves)", whole(1)))
    .addOption(option("--temperature <t>", "0 takes the likeliest token each time", notNegative).default(0))
    .addOption(option("--top-k <k>", "keep the k likeliest tokens; 0 = all", whole(0)).default(0))
    .addOption(option("--top-p <p>", "keep the likeliest tokens up to this probability", partAboveZero).default(1))
    .addOption(option("--min-p <p>", "keep tokens this likely beside the likeliest", part).default(0))
    .addOption(option("--repetition-penalty <x>", "on tokens that are there already; 1 = none", positive).default(1))
    .addOption(option("--seed <n>", "of the sampling", whole(0)).default(0))
    .option("--ignore-eos", "go on after an end-of-sequence token");
}

export function samplingOf(flags: SamplingFlags): SamplingOptions {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = flags;
  return { temperature, topK, topP, minP, repetitionPenalty, seed };
}
