// Finds calls of tools in an answer's text as it comes: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as models
// of the Hermes and Qwen families write them, or one JSON object that is the whole answer, as Llama 3 does. What may
// belong to a call is held back; what turns out to be none is text after all.
import { randomUUID } from "node:crypto";
import { StopMatcher } from "#packages/data";

const opening = "<tool_call>";
const closing = "</tool_call>";

export interface ToolCall {
  id: string;
  name: string;
  /** A JSON object, as text. */
  arguments: string;
}

export class ToolCallReader {
  readonly calls: ToolCall[] = [];
  /** Text that is not decided yet: what comes after an opening, or an answer that begins as a JSON object. */
  #held = "";
  #mode: "start" | "text" | "call" | "json" = "start";
  #matcher = new StopMatcher([opening]);

  /** The text that is certain to be text. */
  push(piece: string): string {
    if (this.#mode === "start") {
      this.#held += piece;
      const begun = this.#held.trimStart();
      if (begun === "") return "";
      this.#mode = begun.startsWith("{") ? "json" : "text";
      if (this.#mode === "json") return "";
      piece = this.#held;
      this.#held = "";
    }
    if (this.#mode === "json") {
      this.#held += piece;
      return "";
    }
    return this.#mode === "text" ? this.#text(piece) : this.#call(piece);
  }

  #text(piece: string): string {
    const before = this.#matcher.pushWithRest(piece);
    if (!this.#matcher.isStopped) return before.text;
    this.#mode = "call";
    return before.text + this.#call(before.rest);
  }

  #call(piece: string): string {
    this.#held += piece;
    const end = this.#held.indexOf(closing);
    if (end < 0) return "";
    const inside = this.#held.slice(0, end);
    const rest = this.#held.slice(end + closing.length);
    const call = parseCall(inside);
    this.#held = "";
    this.#mode = "text";
    this.#matcher = new StopMatcher([opening]);
    if (call) this.calls.push(call);
    return (call ? "" : opening + inside + closing) + this.#text(rest);
  }

  /** What was held back and is text after all. A call that the end of the answer cut off is text. */
  finish(): string {
    if (this.#mode === "text") return this.#matcher.finish();
    const call = parseCall(this.#held);
    const held = (this.#mode === "call" ? opening : "") + this.#held;
    this.#held = "";
    if (!call) return held;
    this.calls.push(call);
    return "";
  }
}

/** Null for what is no call. */
function parseCall(text: string): ToolCall | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null) return null;
  const { name, arguments: given, parameters } = value as Record<string, unknown>;
  const args = given ?? parameters ?? {};
  if (typeof name !== "string" || typeof args !== "object" || Array.isArray(args)) return null;
  return { id: `call_${randomUUID().replaceAll("-", "").slice(0, 24)}`, name, arguments: JSON.stringify(args) };
}
