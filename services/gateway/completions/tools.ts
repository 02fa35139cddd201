// OpenAI's tools and tool_choice. A call that the caller insists on is a constraint on the answer: the JSON object that the
// inference service reads as a call.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ToolSchema } from "#gen/nibble/inference/v1/generation_pb.ts";
import { Fields } from "../fields.ts";

export const toolsMax = 128;

type Schema = Readonly<Record<string, unknown>>;

interface Tool {
  name: string;
  description: string;
  /** JSON Schema of its arguments; undefined: it takes none. */
  parameters: Schema | undefined;
}

export interface ToolsAsked {
  tools: MessageInitShape<typeof ToolSchema>[];
  /** Of the call that the answer must be. Undefined: the model decides whether it calls one. */
  callSchema?: string;
}

function toolOf(value: unknown, i: number): Tool {
  const tool = Fields.of(value, `tools[${i}]`);
  tool.choice("type", ["function"]) ?? tool.missing("type");
  const of = tool.object("function") ?? tool.missing("function");
  of.ignore("strict");
  const read = {
    name: of.needText("name"),
    description: of.text("description") ?? "",
    parameters: of.object("parameters")?.value,
  };
  of.end();
  return read;
}

/** Of tool_choice: "none" and "auto" as they are, else the tools of which one must be called. */
function choiceOf(fields: Fields, tools: readonly Tool[]): "none" | "auto" | readonly Tool[] {
  const choice = fields.raw("tool_choice") ?? "auto";
  if (choice === "none" || choice === "auto") return choice;
  const needTools = (found: readonly Tool[]) =>
    found.length > 0 ? found : fields.refuse("tool_choice", "it only with tools, and one of them");
  if (choice === "required") return needTools(tools);
  fields.unsupported("tool_choice", (value) => (value as { type?: unknown }).type === "function");
  const name = fields.object("tool_choice")?.object("function")?.needText("name");
  return needTools(tools.filter((tool) => tool.name === name));
}

/** `{"name": …, "arguments": {…}}` of one of the tools. References of their schemas begin at the root of the whole. */
function schemaOf(fields: Fields, tools: readonly Tool[]): Schema {
  const definitions: Record<"$defs" | "definitions", Record<string, unknown>> = { $defs: {}, definitions: {} };
  const anyOf = tools.map(({ name, parameters = { type: "object", properties: {} } }) => {
    const { $defs = {}, definitions: older = {}, ...own } = parameters;
    for (const [key, found] of [
      ["$defs", $defs],
      ["definitions", older],
    ] as const) {
      for (const [id, schema] of Object.entries(found as object)) {
        const known = definitions[key][id];
        if (known !== undefined && JSON.stringify(known) !== JSON.stringify(schema)) {
          fields.refuse("tools", `one meaning of ${key}.${id} in all of them`);
        }
        definitions[key][id] = schema;
      }
    }
    const properties = { name: { const: name }, arguments: own };
    return { type: "object", properties, required: ["name", "arguments"] };
  });
  return { anyOf, ...definitions };
}

/** @throws INVALID_ARGUMENT for a choice of none of the tools. */
export function toolsOf(fields: Fields): ToolsAsked {
  const read = (fields.list("tools", { max: toolsMax }) ?? []).map(toolOf);
  const tools = read.map(({ parameters, ...tool }) => ({
    ...tool,
    parameters: parameters ? JSON.stringify(parameters) : "",
  }));
  const choice = choiceOf(fields, read);
  if (choice === "none") return { tools: [] };
  if (choice === "auto") return { tools };
  return { tools, callSchema: JSON.stringify(schemaOf(fields, choice)) };
}
