// Text and rows for the engine: tokenizer, chat templates, data sets, batches, recipes. It knows no
// tensors and no network.

export { BatchCursor, type BatchOptions, type CursorState, type StepRows } from "./batching.ts";
export {
  type ChatMessage,
  ChatTemplate,
  type RenderOptions,
  readChatTemplate,
  type TemplateTokens,
} from "./chat-template.ts";
export { alpacaPrompt, type Place, type PlacedRow, parseRow, type Row, readDataset, readRows } from "./dataset.ts";
export { type Example, ExampleBuilder, type ExampleOptions, notTrained } from "./examples.ts";
export { type LintFinding, lintExamples, type MaskedToken, previewMask, printMask } from "./masking.ts";
export { permutation, philox } from "./philox.ts";
export { parseRecipe, printRecipe, type RecipeSources, readRecipe, stepsOf } from "./recipe.ts";
export {
  baseQuantTypes,
  blockSizes,
  flagName,
  optimizers,
  type RecipeField,
  recipeFields,
  type TrainRecipe,
  yamlKey,
} from "./recipe-fields.ts";
export { StreamDecoder } from "./stream-decoder.ts";
export { type DecodeOptions, type EncodeOptions, loadTokenizer, TextTokenizer } from "./tokenizer.ts";
