// Text and rows for the engine: tokenizer, chat templates, data sets, batches, recipes. It knows no
// tensors and no network.
export {
  type ChatMessage,
  ChatTemplate,
  type RenderOptions,
  readChatTemplate,
  type TemplateTokens,
} from "./chat-template.ts";
export { StreamDecoder } from "./stream-decoder.ts";
export { type DecodeOptions, type EncodeOptions, loadTokenizer, TextTokenizer } from "./tokenizer.ts";
