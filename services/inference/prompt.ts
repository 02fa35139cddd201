// What a request brings, as tokens: text, token ids, or a conversation in the words of the model's chat template.
import type { ChatMessage, TextTokenizer, ToolDefinition } from "#packages/data";
import { NibbleError } from "#packages/errors";

const op = "generate";

export type Prompt =
  | { text: string; addSpecialTokens?: boolean }
  | { ids: readonly number[] }
  | { messages: readonly ChatMessage[]; tools: readonly ToolDefinition[] };

export function refuse(code: "INVALID_ARGUMENT" | "FAILED_PRECONDITION", message: string): never {
  throw new NibbleError(message, { code, op });
}

/** @throws FAILED_PRECONDITION without a tokenizer. */
export function needTokenizer(tokenizer: TextTokenizer | null): TextTokenizer {
  return tokenizer ?? refuse("FAILED_PRECONDITION", "input: expected token ids, since the model has no tokenizer");
}

/** @throws FAILED_PRECONDITION where the model has no tokenizer or no chat template. */
export function encodePrompt(prompt: Prompt, maybe: TextTokenizer | null): readonly number[] {
  if ("ids" in prompt) return prompt.ids;
  const tokenizer = needTokenizer(maybe);
  if ("text" in prompt) return tokenizer.encode(prompt.text, { addSpecialTokens: prompt.addSpecialTokens ?? true });
  const { chatTemplate } = tokenizer;
  if (!chatTemplate) return refuse("FAILED_PRECONDITION", "messages: the model has no chat template");
  const { messages, tools } = prompt;
  // The template writes the special tokens itself.
  return tokenizer.encode(chatTemplate.render(messages, { addGenerationPrompt: true, tools }), {
    addSpecialTokens: false,
  });
}
