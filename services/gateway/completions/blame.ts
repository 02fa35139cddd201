// Which of a request's own parameters an error of the inference service is about. Its messages begin with the name that its
// contract has for what is wrong; OpenAI's clients are told in `param`, and some of them act on `code`.
import { NibbleError } from "#packages/errors";

/** Parameters of one of the two APIs that the contract calls otherwise. */
export interface Blamed {
  /** Where what is asked stands. */
  prompt: "messages" | "prompt";
  /** What the answer is held to. */
  constraint: "response_format" | "tool_choice";
}

const constraints = ["json_schema", "regex", "json", "form", "constraint"];

/** "[op] name: …": the name; details have it where the message begins otherwise. */
function nameOf({ message, details }: NibbleError): string {
  return details["field"] ?? /^\[[^\]]*\] ([a-z][\w.[\]]*):/.exec(message)?.[1] ?? "";
}

function paramOf(name: string, { prompt, constraint }: Blamed): string | undefined {
  if (name === "length" || name === "prompt" || name.startsWith("input")) return prompt;
  if (constraints.includes(name)) return constraint;
  if (name.startsWith("sampling.")) return name.slice("sampling.".length);
  if (!/^(messages|tools)\b/.test(name)) return undefined;
  return name.replace(/\.(arguments|parameters)$/, ".function.$1");
}

/** The same error with its parameter; as it is where it is about none. */
export function blame(thrown: unknown, blamed: Blamed): NibbleError {
  const error = NibbleError.from(thrown, "answer");
  const { code, op, message, details } = error;
  if (code !== "INVALID_ARGUMENT" && code !== "FAILED_PRECONDITION") return error;
  const name = nameOf(error);
  const param = paramOf(name, blamed);
  if (param === undefined) return error;
  const isTooLong = (name === "prompt" || name === "length") && code === "INVALID_ARGUMENT";
  const wrong = code === "INVALID_ARGUMENT" ? "invalid_value" : "unsupported_parameter";
  const openai_code = isTooLong ? "context_length_exceeded" : wrong;
  return new NibbleError(message, { code, op, details: { ...details, param, openai_code }, cause: error });
}
