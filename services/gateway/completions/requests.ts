// The bodies of the two APIs as calls of the inference service.
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ChatMessageSchema,
  type ChatRequestSchema,
  type GenerateRequestSchema,
  Role,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import { Fields } from "../fields.ts";
import type { Blamed } from "./blame.ts";
import { chatOwn, completionOwn, type Wanted, wantedOf } from "./sampling.ts";
import type { ShapeWants } from "./shapes.ts";
import { toolsMax, toolsOf } from "./tools.ts";

type ChatCall = MessageInitShape<typeof ChatRequestSchema>;
type GenerateCall = MessageInitShape<typeof GenerateRequestSchema>;
type Message = MessageInitShape<typeof ChatMessageSchema>;

/** Read and checked; the adapter is not in it yet. */
export interface Asked<C> extends Wanted, ShapeWants {
  model: string;
  /** One for each prompt. */
  calls: C[];
  blamed: Blamed;
}

const messagesMax = 4096;
const promptsMax = 64;
const promptTokensMax = 1 << 20;

const roles = {
  system: Role.SYSTEM,
  developer: Role.SYSTEM,
  user: Role.USER,
  assistant: Role.ASSISTANT,
  tool: Role.TOOL,
} as const;
const roleNames = Object.keys(roles) as (keyof typeof roles)[];

/** A text, or parts that are texts. */
function contentOf(message: Fields): string | undefined {
  const content = message.raw("content");
  if (content === undefined || typeof content === "string") return content;
  if (!Array.isArray(content)) return message.refuse("content", "a text or a list of parts");
  const texts = content.map((one, i) => {
    const part = Fields.of(one, `${message.pathOf("content")}[${i}]`);
    part.choice("type", ["text"]) ?? part.missing("type");
    return part.needText("text");
  });
  return texts.join("");
}

function callsOf(message: Fields): Message["toolCalls"] {
  const calls = message.list("tool_calls", { max: toolsMax }) ?? [];
  return calls.map((one, i) => {
    const call = Fields.of(one, `${message.pathOf("tool_calls")}[${i}]`);
    call.choice("type", ["function"]);
    const of = call.object("function") ?? call.missing("function");
    return { id: call.text("id") ?? "", name: of.needText("name"), arguments: of.text("arguments") ?? "" };
  });
}

function messageOf(value: unknown, i: number): Message {
  const message = Fields.of(value, `messages[${i}]`);
  const role = message.choice("role", roleNames) ?? message.missing("role");
  const toolCalls = callsOf(message) ?? [];
  const content = contentOf(message);
  if (content === undefined && toolCalls.length === 0) message.missing("content");
  message.ignore("refusal", "annotations", "reasoning_content");
  message.unsupported("audio");
  message.unsupported("function_call");
  const name = message.text("name") ?? "";
  const toolCallId = message.text("tool_call_id") ?? "";
  message.end();
  return { role: roles[role], content: content ?? "", toolCalls, toolCallId, name };
}

export function readChat(body: Record<string, unknown>): Asked<ChatCall> {
  const fields = new Fields(body);
  const model = fields.needText("model");
  const own = chatOwn(fields);
  const { tools, callSchema } = toolsOf(fields);
  const { sampling, ...wanted } = wantedOf(fields, own, callSchema);
  const messages = fields.list("messages", { min: 1, max: messagesMax }) ?? fields.missing("messages");
  fields.unsupported("modalities", (value) => JSON.stringify(value) === '["text"]');
  for (const name of ["audio", "functions", "function_call", "web_search_options"]) fields.unsupported(name);
  fields.end();
  const call = { messages: messages.map(messageOf), tools, sampling, returnLogprobs: wanted.returnLogprobs };
  const blamed: Blamed = {
    prompt: "messages",
    constraint: callSchema === undefined ? "response_format" : "tool_choice",
  };
  return { model, calls: [call], blamed, sampling, topLogprobs: own.topLogprobs, ...wanted };
}

const isIds = (value: unknown): value is number[] =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.length <= promptTokensMax &&
  value.every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 31);
const isText = (value: unknown): value is string => typeof value === "string" && value !== "";

/** A text, token ids, or a list of either. */
function inputsOf(fields: Fields): NonNullable<GenerateCall["input"]>[] {
  const prompt = fields.raw("prompt") ?? fields.missing("prompt");
  const input = (one: unknown): NonNullable<GenerateCall["input"]> => {
    if (isText(one)) return { case: "prompt", value: one };
    if (isIds(one)) return { case: "inputIds", value: { ids: one } };
    return fields.refuse("prompt", `a text, token ids, or a list of up to ${promptsMax} of either, none of them empty`);
  };
  if (!Array.isArray(prompt) || isIds(prompt)) return [input(prompt)];
  if (prompt.length === 0 || prompt.length > promptsMax) return [input(null)];
  return prompt.map(input);
}

export function readCompletion(body: Record<string, unknown>): Asked<GenerateCall> {
  const fields = new Fields(body);
  const model = fields.needText("model");
  const own = completionOwn(fields);
  const { sampling, ...wanted } = wantedOf(fields, own);
  const inputs = inputsOf(fields);
  fields.unsupported("echo", (value) => value === false);
  fields.unsupported("suffix", (value) => value === "");
  fields.unsupported("best_of", (value) => value === wanted.n);
  fields.end();
  const calls = inputs.map((input) => ({ input, sampling, returnLogprobs: wanted.returnLogprobs }));
  const blamed: Blamed = { prompt: "prompt", constraint: "response_format" };
  return { model, calls, blamed, sampling, topLogprobs: own.topLogprobs, ...wanted };
}
