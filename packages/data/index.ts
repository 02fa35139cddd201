// Text and rows for the engine: tokenizer, chat templates, data sets, batches, recipes. It knows no
// tensors, and no network but what it is given.

export { hasOwnTokenizer, loadAdapterTokenizer, tokenizerOver } from "./adapter-tokenizer.ts";
export { AnswerText, textOfToken } from "./answer-text.ts";
export { BatchCursor, type BatchOptions, type CursorState, type StepRows } from "./batching.ts";
export {
  type ChatMessage,
  ChatTemplate,
  type RenderOptions,
  type TemplateTokens,
  type ToolCallMessage,
  type ToolDefinition,
} from "./chat-template.ts";
export { datasetFormats, type PlacedRow, RowReader, readDataset } from "./dataset.ts";
export { ExampleStore, type Keep, type StoredExample } from "./example-store.ts";
export { type Example, ExampleBuilder, type ExampleOptions, notTrained, type TrainTurns } from "./examples.ts";
export type { Row } from "./formats.ts";
export { type Finding, findingText, Lint, type Problem, problems } from "./lint.ts";
export { type DataSource, locateData, namesSet } from "./locate.ts";
export { type MaskedToken, previewMask, printMask } from "./masking.ts";
export { type PackingPlan, packRows } from "./packing.ts";
export { type PaperSet, paperSets } from "./paper-sets.ts";
export { permutation, philox } from "./philox.ts";
export type { Place } from "./place.ts";
export { type DataReport, type DataRequest, type PrepareOptions, prepareData } from "./prepare.ts";
export { alpacaPrompt } from "./prompts.ts";
export { parseRecipe, printRecipe, type RecipeSources, readRecipe, stepsOf, withFolders } from "./recipe.ts";
export {
  flagName,
  optimizers,
  type RecipeField,
  recipeFields,
  type TrainRecipe,
  yamlKey,
} from "./recipe-fields.ts";
export type { FetchDataset } from "./sources/hub.ts";
export { StopMatcher } from "./stop-matcher.ts";
export { StreamDecoder } from "./stream-decoder.ts";
export {
  type DecodeOptions,
  type EncodeOptions,
  loadTokenizer,
  TextTokenizer,
} from "./tokenizer.ts";
export { splitRows, TrainingSet } from "./training-set.ts";
