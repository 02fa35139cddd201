// The options that say how tokens are chosen and what an answer may say, for generate and chat. Limits are the contract's
// (generation.proto), so that a value is refused in the same words with a stack and without.
import { existsSync, readFileSync } from "node:fs";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { AnswerRequest } from "./backend.ts";
import { usageError } from "./errors.ts";
import { collect, real, whole } from "./options.ts";

export interface SamplingFlags {
  maxNewTokens?: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  seed: number;
  stop: string[];
  jsonSchema?: string;
  regex?: string;
  promptLookup: number;
  ignoreEos?: boolean;
}

export const seedMax = 2 ** 32 - 1;
const stopsMax = 16;
const stopBytesMax = 1024;

const temperature = real("a number in 0..100", (n) => n >= 0 && n <= 100);
const factor = real("a number in 0..100, 0 excluded", (n) => n > 0 && n <= 100);
const part = real("a number in 0..1", (n) => n >= 0 && n <= 1);
const partAboveZero = real("a number in 0..1, 0 excluded", (n) => n > 0 && n <= 1);
const penalty = real("a number in -100..100", (n) => n >= -100 && n <= 100);

function stop(text: string, before: string[]): string[] {
  if (text === "" || Buffer.byteLength(text) > stopBytesMax) {
    throw new InvalidArgumentError(`expected a text of 1 to ${stopBytesMax} bytes`);
  }
  if (before.length === stopsMax) throw new InvalidArgumentError(`expected at most ${stopsMax} of them`);
  return collect(text, before);
}

/** A schema itself, or a file that has one. */
function jsonSchema(text: string): string {
  const schema = text.trimStart().startsWith("{") ? text : readText(text);
  try {
    JSON.parse(schema);
    return schema;
  } catch (thrown) {
    throw new InvalidArgumentError(`expected a JSON Schema: ${thrown instanceof Error ? thrown.message : thrown}`);
  }
}

function readText(file: string): string {
  if (!existsSync(file))
    throw new InvalidArgumentError("expected a JSON Schema or a file that has one, got no such file");
  return readFileSync(file, "utf8");
}

function regex(text: string): string {
  try {
    new RegExp(text, "u");
    return text;
  } catch (thrown) {
    throw new InvalidArgumentError(
      `expected a regular expression: ${thrown instanceof Error ? thrown.message : thrown}`,
    );
  }
}

export function addSampling(command: Command): Command {
  const option = (flags: string, help: string, read: (text: string) => number) =>
    new Option(flags, help).argParser(read);
  return command
    .addOption(option("--max-new-tokens <n>", "tokens at most (default: 256, or what the context leaves)", whole(1)))
    .addOption(option("--temperature <t>", "0 takes the likeliest token each time", temperature).default(0))
    .addOption(option("--top-k <k>", "keep the k likeliest tokens; 0 = all", whole(0)).default(0))
    .addOption(option("--top-p <p>", "keep the likeliest tokens up to this probability", partAboveZero).default(1))
    .addOption(option("--min-p <p>", "keep tokens this likely beside the likeliest", part).default(0))
    .addOption(option("--repetition-penalty <x>", "on tokens that are there already; 1 = none", factor).default(1))
    .addOption(option("--frequency-penalty <x>", "for each time that the answer has a token", penalty).default(0))
    .addOption(option("--presence-penalty <x>", "on tokens that the answer has", penalty).default(0))
    .addOption(option("--seed <n>", "of the sampling", whole(0, seedMax)).default(0))
    .addOption(
      new Option("--stop <text>", "ends the answer, is no part of it; may be given again")
        .argParser(stop)
        .default([], "none"),
    )
    .addOption(
      new Option("--json-schema <schema>", "the answer is JSON of this schema, or of a file's; {} is any JSON")
        .argParser(jsonSchema)
        .conflicts("regex"),
    )
    .addOption(new Option("--regex <pattern>", "the whole answer matches this regular expression").argParser(regex))
    .addOption(
      option(
        "--prompt-lookup <n>",
        "guess so many tokens from the text so far; changes no token",
        whole(0, 16),
      ).default(0),
    )
    .option("--ignore-eos", "go on after an end-of-sequence token");
}

/** What is asked of one answer, but for its input. */
export type AskedAnswer = Omit<AnswerRequest, "input" | "n" | "wantLogits" | "topLogprobs">;

export function askedOf(flags: SamplingFlags): AskedAnswer {
  const { temperature, topK, topP, minP, repetitionPenalty, seed, frequencyPenalty, presencePenalty } = flags;
  const { maxNewTokens = null, ignoreEos = false, stop: stops, jsonSchema: schema, regex: pattern } = flags;
  const constraint = schema !== undefined ? { jsonSchema: schema } : pattern !== undefined ? { regex: pattern } : null;
  if (ignoreEos && constraint) throw usageError("--ignore-eos: expected no --json-schema or --regex beside it");
  return {
    maxNewTokens,
    sampling: { temperature, topK, topP, minP, repetitionPenalty, seed },
    frequencyPenalty,
    presencePenalty,
    stops,
    constraint,
    lookupTokens: flags.promptLookup,
    ignoreEos,
  };
}
