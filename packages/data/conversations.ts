// Dialogues of a data set as chat templates know them: OpenAI's messages, whose content may be a list of parts and which
// may call tools, and ShareGPT's turns. What a message has and no template would see is refused, not dropped. Tools and
// their calls get the form that serving gives them, so that a template writes the same text.
import type { ChatMessage, ToolCallMessage, ToolDefinition } from "./chat-template.ts";
import { type Fields, isFields, listOf, optionalString } from "./fields.ts";
import { type Place, rowError, short } from "./place.ts";

/** A message, and whether an assistant's is to be trained (weight 0: not). */
export type TurnMessage = ChatMessage & { untrained?: true };

export interface Conversation {
  messages: TurnMessage[];
  /** Those that the assistant may call. */
  tools: ToolDefinition[];
}

/** Something in a row, and where it is: what errors name. */
interface At {
  place: Place;
  path: string;
}

const isGiven = (value: unknown) => value !== undefined && value !== null;

/** An absent value and null are the same: Parquet has every key in every row. */
function refuseOthers(fields: Fields, known: readonly string[], { place, path }: At): void {
  const unknown = Object.keys(fields).find((key) => isGiven(fields[key]) && !known.includes(key));
  if (unknown !== undefined) throw rowError(place, `${path}: unknown key "${unknown}"`);
}

/** A text, or parts of type text, one after the other. */
function contentOf(value: unknown, { place, path }: At): string {
  if (typeof value === "string") return value;
  if (!Array.isArray(value))
    throw rowError(place, `${path}: expected a string or a list of parts, got ${short(value)}`);
  const texts = value.map((part, i) => {
    const { type, text } = isFields(part) ? part : {};
    if (type === "text" && typeof text === "string") return text;
    const got = type === "text" || type === undefined ? short(part) : `one of type ${short(type)}`;
    throw rowError(place, `${path}[${i}]: expected a part {"type": "text", "text": …}, got ${got}`);
  });
  return texts.join("");
}

/** Whether a message is trained. */
function marks({ weight }: Fields, { place, path }: At): { untrained?: true } {
  if (weight === 0) return { untrained: true };
  if (!isGiven(weight) || weight === 1) return {};
  throw rowError(place, `${path}.weight: expected 0 or 1, got ${short(weight)}`);
}

/** An object, or the JSON text of one: arguments are texts at OpenAI and objects for templates. */
function jsonOf(value: unknown, { place, path }: At): unknown {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch (cause) {
    throw rowError(place, `${path}: expected JSON, got ${short(value)}`, { cause });
  }
}

function objectOf(value: unknown, at: At): Record<string, unknown> {
  const object = jsonOf(value, at);
  if (isFields(object)) return object;
  throw rowError(at.place, `${at.path}: expected an object, got ${short(value)}`);
}

/** `{type: "function", function: {name, …}}`: how both a tool and its call are written. */
function functionOf(value: unknown, { place, path }: At): { fields: Fields; of: Fields; name: string } {
  const fields = isFields(value) ? value : {};
  const { type = "function", function: of } = fields;
  const name = isFields(of) ? of["name"] : undefined;
  if (type === "function" && isFields(of) && typeof name === "string") return { fields, of, name };
  const message = `expected {"type": "function", "function": {"name": …}}, got ${short(value)}`;
  throw rowError(place, `${path}: ${message}`);
}

function callOf(value: unknown, at: At): ToolCallMessage {
  const { fields, of, name } = functionOf(value, at);
  refuseOthers(fields, ["id", "type", "function", "index"], at);
  const given = isGiven(of["arguments"]) && of["arguments"] !== "" ? of["arguments"] : {};
  const args = objectOf(given, { ...at, path: `${at.path}.function.arguments` });
  const call = { type: "function" as const, function: { name, arguments: args } };
  return isGiven(fields["id"]) ? { id: String(fields["id"]), ...call } : call;
}

function callsOf(message: Fields, { place, path }: At): Pick<ChatMessage, "tool_calls"> {
  const { role, tool_calls: calls } = message;
  if (!isGiven(calls) || (Array.isArray(calls) && calls.length === 0)) return {};
  if (role !== "assistant")
    throw rowError(place, `${path}.tool_calls: expected them of an assistant, got ${short(role)}`);
  if (!Array.isArray(calls)) throw rowError(place, `${path}.tool_calls: expected a list, got ${short(calls)}`);
  return { tool_calls: calls.map((call, i) => callOf(call, { place, path: `${path}.tool_calls[${i}]` })) };
}

/** What a tool's message has besides: its name, and the call that it answers. */
function ofTool(message: Fields, { place, path }: At): Pick<ChatMessage, "tool_call_id" | "name"> {
  const found: { tool_call_id?: string; name?: string } = {};
  for (const key of ["tool_call_id", "name"] as const) {
    const value = message[key];
    if (!isGiven(value)) continue;
    if (message["role"] !== "tool" || typeof value !== "string") {
      throw rowError(place, `${path}.${key}: expected a string, of a tool's message, got ${short(value)}`);
    }
    found[key] = value;
  }
  return found;
}

const messageKeys = ["role", "content", "weight", "tool_calls", "tool_call_id", "name"];

function messageOf(value: unknown, at: At): TurnMessage {
  const message = isFields(value) ? value : {};
  const { role, content } = message;
  const calls = callsOf(message, at);
  if (typeof role !== "string" || (!isGiven(content) && !calls.tool_calls)) {
    throw rowError(at.place, `${at.path}: expected {role, content} as strings, got ${short(value)}`);
  }
  refuseOthers(message, messageKeys, at);
  const text = isGiven(content) ? contentOf(content, { ...at, path: `${at.path}.content` }) : "";
  return { role, content: text, ...calls, ...ofTool(message, at), ...marks(message, at) };
}

/** As serving defines it (its description "" and its parameters none where they are missing). */
function toolOf(value: unknown, at: At): ToolDefinition {
  const { of, name } = functionOf(value, at);
  const { description, parameters } = of;
  if (isGiven(description) && typeof description !== "string") {
    throw rowError(at.place, `${at.path}.function.description: expected a string, got ${short(description)}`);
  }
  const none = { type: "object", properties: {} };
  const schema = isGiven(parameters) ? objectOf(parameters, { ...at, path: `${at.path}.function.parameters` }) : none;
  return { type: "function", function: { name, description: String(description ?? ""), parameters: schema } };
}

/** A list, or its JSON text: columns of Parquet and CSV have one type. */
function toolsOf(fields: Fields, place: Place): ToolDefinition[] {
  const given = fields["tools"];
  if (!isGiven(given) || given === "") return [];
  const tools = jsonOf(given, { place, path: "tools" });
  if (!Array.isArray(tools)) throw rowError(place, `tools: expected a list, got ${short(given)}`);
  return tools.map((tool, i) => toolOf(tool, { place, path: `tools[${i}]` }));
}

export function readMessages(fields: Fields, place: Place): Conversation {
  const messages = listOf(fields, "messages", place).map((message, i) =>
    messageOf(message, { place, path: `messages[${i}]` }),
  );
  return { messages, tools: toolsOf(fields, place) };
}

const sharegptRoles: Record<string, string> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  assistant: "assistant",
  chatgpt: "assistant",
  bing: "assistant",
  bard: "assistant",
  model: "assistant",
  system: "system",
};

function turnOf(value: unknown, at: At): TurnMessage {
  const turn = isFields(value) ? value : {};
  const { from, value: content } = turn;
  if (typeof from !== "string" || !isGiven(content)) {
    throw rowError(at.place, `${at.path}: expected {from, value} as strings, got ${short(value)}`);
  }
  refuseOthers(turn, ["from", "value", "weight"], at);
  const role = sharegptRoles[from.toLowerCase()];
  if (role === undefined) {
    const known = Object.keys(sharegptRoles).join(", ");
    throw rowError(at.place, `${at.path}.from: expected one of ${known}, got ${short(from)}`);
  }
  return { role, content: contentOf(content, { ...at, path: `${at.path}.value` }), ...marks(turn, at) };
}

export function readShareGpt(fields: Fields, place: Place): Conversation {
  const turns = listOf(fields, "conversations", place).map((turn, i) =>
    turnOf(turn, { place, path: `conversations[${i}]` }),
  );
  const system = optionalString(fields, "system", place);
  return { messages: system === "" ? turns : [{ role: "system", content: system }, ...turns], tools: [] };
}
