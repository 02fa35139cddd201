// What a job would train on: its first rows token by token, and what is odd about all of them. No weights are read.
import {
  type DataReport,
  type Example,
  type MaskedToken,
  type Place,
  prepareData,
  previewMask,
  type TrainRecipe,
} from "#packages/data";
import { NibbleError } from "#packages/errors";
import { readModelConfig } from "#packages/hub";
import { dataRequest, textsOf } from "./job-rows.ts";

export interface PreviewJob {
  recipe: TrainRecipe;
  /** Rows to show, from the beginning. */
  rows: number;
}

export interface PreviewRow extends Place {
  weight: number;
  tokens: MaskedToken[];
}

export interface DataPreview extends DataReport {
  /** Of the rows that would be trained on. */
  rows: number;
  tokens: number;
  trainedTokens: number;
  longest: number;
  preview: PreviewRow[];
}

/** @throws what finding the data and the tokenizer throws; rows that cannot be read are findings. */
export async function previewData({ recipe, rows }: PreviewJob, signal: AbortSignal): Promise<DataPreview> {
  try {
    const { config } = readModelConfig(recipe.model);
    const texts = textsOf(recipe, config);
    const preview: PreviewRow[] = [];
    const onExample = (example: Example) => {
      if (preview.length >= rows) return;
      const { file, line, weight } = example;
      preview.push({ file, line, weight, tokens: previewMask(example, texts.tokenizer) });
    };
    const request = dataRequest(recipe.data, recipe, texts);
    const { store, report } = await prepareData(request, { keep: "lengths", toleratesBad: true, signal, onExample });
    const { count, tokens, trainedTokens, longest } = store;
    return { ...report, rows: count, tokens, trainedTokens, longest, preview };
  } catch (thrown) {
    throw NibbleError.from(thrown, "preview");
  }
}
