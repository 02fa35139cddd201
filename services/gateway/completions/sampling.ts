// OpenAI's sampling parameters in the inference service's words. What would change the answer and cannot be heeded is
// refused; what only concerns OpenAI's own servers is let through.
import { randomInt } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SamplingParamsSchema } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { Fields } from "../fields.ts";

export type Sampling = MessageInitShape<typeof SamplingParamsSchema>;

/** The service takes what the context has room for. */
const tokensMax = 1 << 20;
/** OpenAI's default for completions. */
const completionTokens = 16;
export const choicesMax = 64;
const stopsMax = 16;
const topLogprobsMax = 20;
/** The contract has no 0; this is small enough to keep the likeliest token alone. */
const topPMin = 1e-6;

const withoutEffect = [
  "user",
  "metadata",
  "store",
  "service_tier",
  "prediction",
  "parallel_tool_calls",
  "reasoning_effort",
  "verbosity",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
];

const isEmpty = (value: unknown): boolean => typeof value === "object" && Object.keys(value ?? {}).length === 0;

function stopsOf(fields: Fields): string[] {
  const stop = fields.raw("stop");
  if (stop === undefined) return [];
  const stops = Array.isArray(stop) ? stop : [stop];
  const isGood = stops.length <= stopsMax && stops.every((one) => typeof one === "string" && one !== "");
  return isGood ? stops : fields.refuse("stop", `a text or up to ${stopsMax} texts, none of them empty`);
}

function seedOf(fields: Fields): number {
  const seed = fields.whole("seed");
  return seed === undefined ? randomInt(2 ** 32) : Number(BigInt.asUintN(32, BigInt(seed)));
}

function constraintOf(fields: Fields, callSchema: string | undefined): Sampling["constraint"] {
  const format = fields.object("response_format");
  if (format && callSchema !== undefined) fields.refuse("tool_choice", "auto or none beside response_format");
  if (callSchema !== undefined) return { form: { case: "jsonSchema", value: callSchema } };
  if (!format) return undefined;
  const type = format.choice("type", ["text", "json_object", "json_schema"]) ?? format.missing("type");
  const spec = format.object("json_schema");
  format.end();
  if (type === "text") return undefined;
  if (type === "json_object") return { form: { case: "json", value: true } };
  const schema = spec?.object("schema") ?? format.missing("json_schema.schema");
  return { form: { case: "jsonSchema", value: JSON.stringify(schema.value) } };
}

export interface Wanted {
  sampling: Sampling;
  n: number;
  returnLogprobs: boolean;
  stream: boolean;
  includeUsage: boolean;
}

function streamOf(fields: Fields): Pick<Wanted, "stream" | "includeUsage"> {
  const stream = fields.boolean("stream") ?? false;
  const options = fields.object("stream_options");
  if (options && !stream) fields.refuse("stream_options", "it only with stream: true");
  const includeUsage = options?.boolean("include_usage") ?? false;
  options?.ignore("include_obfuscation");
  options?.end();
  return { stream, includeUsage };
}

/** What the two APIs ask for differently. */
interface Own {
  maxNewTokens: number;
  returnLogprobs: boolean;
  topLogprobs: number;
}

export function chatOwn(fields: Fields): Own {
  const limits = { min: 1, max: tokensMax };
  const newer = fields.whole("max_completion_tokens", limits);
  const maxNewTokens = newer ?? fields.whole("max_tokens", limits) ?? tokensMax;
  fields.ignore("max_tokens");
  const returnLogprobs = fields.boolean("logprobs") ?? false;
  const topLogprobs = fields.whole("top_logprobs", { min: 0, max: topLogprobsMax }) ?? 0;
  if (topLogprobs > 0 && !returnLogprobs) fields.refuse("top_logprobs", "it only with logprobs: true");
  return { maxNewTokens, returnLogprobs, topLogprobs };
}

export function completionOwn(fields: Fields): Own {
  const maxNewTokens = fields.whole("max_tokens", { min: 1, max: tokensMax }) ?? completionTokens;
  const logprobs = fields.whole("logprobs", { min: 0, max: topLogprobsMax });
  return { maxNewTokens, returnLogprobs: logprobs !== undefined, topLogprobs: logprobs ?? 0 };
}

/**
 * Reads all that the two APIs have in common. Defaults are OpenAI's: temperature 1, a seed by chance.
 * @param callSchema of the call that the caller insists on.
 */
export function wantedOf(
  fields: Fields,
  { maxNewTokens, returnLogprobs, topLogprobs }: Own,
  callSchema?: string,
): Wanted {
  fields.ignore(...withoutEffect);
  fields.unsupported("logit_bias", isEmpty);
  const n = fields.whole("n", { min: 1, max: choicesMax }) ?? 1;
  const penalty = { min: -2, max: 2 };
  const constraint = constraintOf(fields, callSchema);
  const sampling: Sampling = {
    maxNewTokens,
    temperature: fields.number("temperature", { min: 0, max: 2 }) ?? 1,
    topP: Math.max(topPMin, fields.number("top_p", { min: 0, max: 1 }) ?? 1),
    frequencyPenalty: fields.number("frequency_penalty", penalty) ?? 0,
    presencePenalty: fields.number("presence_penalty", penalty) ?? 0,
    seed: seedOf(fields),
    stop: stopsOf(fields),
    n,
    // The token itself is among the likeliest, or it is known by the text that it added.
    topLogprobs: returnLogprobs ? Math.max(1, topLogprobs) : 0,
    // Beyond OpenAI's, by the names that vLLM gave them.
    topK: Math.max(0, fields.whole("top_k", { min: -1, max: 2 ** 31 - 1 }) ?? 0), // -1: all, as 0
    minP: fields.number("min_p", { min: 0, max: 1 }) ?? 0,
    repetitionPenalty: fields.number("repetition_penalty", { min: 1e-3, max: 100 }) ?? 1,
    ignoreEos: fields.boolean("ignore_eos") ?? false,
    ...(constraint ? { constraint } : {}),
  };
  return { sampling, n, returnLogprobs, ...streamOf(fields) };
}
