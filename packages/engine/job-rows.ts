// The rows of a job: read, tokenized, and what is worth saying about them.
import { type Example, ExampleBuilder, loadTokenizer, readDataset, type TrainRecipe } from "#packages/data";
import type { LlamaConfig } from "#packages/hub";
import type { TrainEvent } from "./train-run.ts";

export async function readExamples(file: string, recipe: TrainRecipe, config: LlamaConfig): Promise<Example[]> {
  const { vocabSize, maxPositionEmbeddings, eosTokenIds } = config;
  const tokenizer = loadTokenizer(recipe.model, { vocabSize });
  const maxLength = Math.min(recipe.maxLength, maxPositionEmbeddings);
  const { trainOnSource } = recipe;
  const builder = new ExampleBuilder(tokenizer, { maxLength, trainOnSource, eosTokenIds, vocabSize });
  return (await readDataset(file)).map((row) => builder.build(row));
}

export function logExamples(file: string, examples: readonly Example[], onEvent: (event: TrainEvent) => void): void {
  const tokens = examples.reduce((n, e) => n + e.inputIds.length, 0);
  const trained = examples.reduce((n, e) => n + e.trainedCount, 0);
  onEvent({
    kind: "log",
    severity: "info",
    text: `${file}: ${examples.length} rows, ${tokens} tokens, ${trained} of them trained`,
  });
  const cut = examples.filter((e) => e.cutCount > 0);
  if (cut[0]) {
    const text = `${cut.length} rows are longer than max_length and were cut, the first at ${cut[0].file}:${cut[0].line}`;
    onEvent({ kind: "log", severity: "warning", text });
  }
  const endless = examples.filter((e) => !e.trainsEos);
  if (endless[0]) {
    const text = `${endless.length} rows train no end of sequence, the first at ${endless[0].file}:${endless[0].line}: the model may not stop`;
    onEvent({ kind: "log", severity: "warning", text });
  }
}
