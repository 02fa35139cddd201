// What the commands need done, whoever does it: this process's engine (embedded.ts) or a running stack (remote.ts).
import type { ChatMessage, TrainRecipe } from "#packages/data";
import type { ConstraintForm, DataPreview, DeviceChoice, QuantOptions, SamplingOptions } from "#packages/engine";

export interface QuantizeJob {
  modelDir: string;
  outDir: string;
  quant: QuantOptions;
  threads: number | null;
}

export interface QuantizeProgress {
  tensorsDone: number;
  tensorsTotal: number;
  /** Of a model that the service names and pulls first; 0 of 0 where it has the folder. */
  bytesPulled?: number;
  bytesToPull?: number;
}

export interface QuantizeSummary {
  outDir: string;
  digest: string;
  parameters: number;
  quantizedParameters: number;
  bitsPerParameter: number;
  bytesRead: number;
  bytesWritten: number;
  bytesPeak: number;
  seconds: number;
}

export interface TrainingJob {
  recipe: TrainRecipe;
  evalFile: string | null;
  evalSteps: number;
  device: DeviceChoice;
}

export interface QuoteJob extends Omit<TrainingJob, "evalSteps"> {
  /** False: rows of max_length tokens are assumed. */
  hasRows: boolean;
  device: "cpu" | "cuda";
}

export interface QuoteSummary {
  rows: number;
  steps: number;
  /** Of all steps. */
  tokens: number;
  trainedTokens: number;
  trainedParameters: number;
  /** Bytes of each kind when most is in use; their sum is memoryPeakBytes. */
  memoryBytes: Record<string, number>;
  memoryPeakBytes: number;
  /** In a spill file, apart from the peak. */
  pagedBytes: number;
  /** Of the process, beside its tensors. */
  processBytes: number;
  /** Null where it is not known. */
  availableBytes: number | null;
  limitedBy: string | null;
  fits: boolean | null;
  flops: number;
  /** Estimated; null where it is not known. */
  seconds: number | null;
}

export interface PreviewJob {
  recipe: TrainRecipe;
  /** To show, from the beginning. */
  rows: number;
}

export type PreviewSummary = DataPreview;

export type TrainProgress =
  | { kind: "log"; text: string; severity: "info" | "warning" }
  | {
      kind: "step";
      step: number;
      steps: number;
      loss: number;
      gradNorm: number;
      lr: number;
      tokensPerSecond: number;
      seconds: number;
      /** The most so far. */
      memoryBytes: number;
    }
  | { kind: "eval"; step: number; loss: number; tokens: number; seconds: number }
  | { kind: "checkpoint"; step: number; dir: string };

export interface TrainSummary {
  outDir: string;
  steps: number;
  firstLoss: number;
  lastLoss: number;
  evalLoss: number | null;
  seconds: number;
  tokens: number;
  baseDigest: string;
  trainedParameters: number;
  memoryPeakBytes: number;
}

export interface OpenOptions {
  /** Null: what the stack has loaded. */
  modelDir: string | null;
  /** A folder; with a stack also a name in the registry, adapters/…. Null: the base alone. */
  adapter: string | null;
  /** Null: 4 for a quantized folder, 16 otherwise. */
  bits: 4 | 16 | null;
  dtype: "float32" | "bfloat16";
  threads: number | null;
  device: DeviceChoice;
  /** Room for prompt and answer; null: as much as the first request needs. */
  contextTokens: number | null;
}

export interface AnswerRequest {
  input: { prompt: string } | { inputIds: number[] } | { messages: ChatMessage[] };
  /** Null: 256, or what the context leaves. */
  maxNewTokens: number | null;
  sampling: SamplingOptions;
  /** Subtracted from logits of the answer's tokens: for each time that they are there, and once. */
  frequencyPenalty: number;
  presencePenalty: number;
  /** Texts that end the answer. */
  stops: readonly string[];
  /** What the answer's text must look like; null: anything. */
  constraint: ConstraintForm | null;
  /** Tokens at most that are guessed in a step. */
  lookupTokens: number;
  ignoreEos: boolean;
  /** Answers; the i-th is drawn with seed + i. */
  n: number;
  wantLogits: boolean;
  /** The likeliest tokens at each place; 0: only the token that was drawn; null: no log-probabilities. */
  topLogprobs: number | null;
}

export interface TokenLogprob {
  id: number;
  text: string;
  logprob: number;
}

export interface Answer {
  tokenIds: number[];
  text: string;
  finishReason: string;
  promptTokens: number;
  /** 0 where nothing of the kind was computed. */
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  logits: number[] | null;
  /** Of each token, with the likeliest in its place; null unless asked for. */
  logprobs: (TokenLogprob & { top: readonly TokenLogprob[] })[] | null;
}

export const maxNewTokensDefault = 256;

/** A model that answers. */
export interface Answerer {
  /** The n answers; text comes as it is certain, of the first one. */
  answer(request: AnswerRequest, call: { signal: AbortSignal; onText?: (text: string) => void }): Promise<Answer[]>;
  close(): Promise<void>;
}

export interface Backend {
  quantize(
    job: QuantizeJob,
    call: { signal: AbortSignal; onProgress: (p: QuantizeProgress) => void },
  ): Promise<QuantizeSummary>;
  train(
    job: TrainingJob,
    call: { signal: AbortSignal; onEvent: (event: TrainProgress) => void },
  ): Promise<TrainSummary>;
  quote(job: QuoteJob, signal: AbortSignal): Promise<QuoteSummary>;
  preview(job: PreviewJob, signal: AbortSignal): Promise<PreviewSummary>;
  open(options: OpenOptions, signal: AbortSignal): Promise<Answerer>;
  close(): Promise<void>;
}
