// One answer: the prompt as tokens, the engine's tokens as text, stop texts, figures. It knows no transport.
import { type ChatMessage, StreamDecoder, type TextTokenizer } from "#packages/data";
import type { GeneratedToken, GenerateResult, SamplingOptions } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { orAborted } from "#packages/rpc";
import type { LoadedModel } from "./model.ts";
import { StopMatcher } from "./stop-matcher.ts";

const op = "generate";

export type Prompt = { text: string } | { ids: readonly number[] } | { messages: readonly ChatMessage[] };

export interface AnswerRequest {
  /** Null: the base alone. */
  adapterId: string | null;
  prompt: Prompt;
  maxNewTokens: number;
  sampling: SamplingOptions;
  stops: readonly string[];
  ignoreEos: boolean;
  wantLogits: boolean;
  wantLogprobs: boolean;
}

export interface AnswerToken {
  id: number;
  text: string;
  logprob: number;
}

export interface AnswerEnd {
  reason: "eos" | "length" | "stop";
  /** What was held back. */
  text: string;
  tokens: number;
  timing: GenerateResult["timing"];
  /** Of the last position that was computed; null unless asked for. */
  logits: Float32Array | null;
}

export type AnswerEvent = { kind: "token"; token: AnswerToken } | { kind: "end"; end: AnswerEnd };

function refuse(code: "INVALID_ARGUMENT" | "FAILED_PRECONDITION", message: string): never {
  throw new NibbleError(message, { code, op });
}

function encode(prompt: Prompt, tokenizer: TextTokenizer | null): readonly number[] {
  if ("ids" in prompt) return prompt.ids;
  if (!tokenizer) return refuse("FAILED_PRECONDITION", "input: expected token ids, since the model has no tokenizer");
  if ("text" in prompt) return tokenizer.encode(prompt.text);
  const { chatTemplate } = tokenizer;
  if (!chatTemplate) return refuse("FAILED_PRECONDITION", "messages: the model has no chat template");
  const text = chatTemplate.render(prompt.messages, { addGenerationPrompt: true });
  return tokenizer.encode(text, { addSpecialTokens: false });
}

/** Turns tokens into text as they come; what they say together is the answer. */
class Writer {
  readonly #tokenizer: TextTokenizer | null;
  readonly #decoder: StreamDecoder | null;
  readonly #stops: StopMatcher;
  tokens = 0;

  constructor(tokenizer: TextTokenizer | null, stops: readonly string[]) {
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer && new StreamDecoder(tokenizer);
    this.#stops = new StopMatcher(stops);
  }

  get isStopped(): boolean {
    return this.#stops.isStopped;
  }

  push({ id, logprob }: GeneratedToken): AnswerToken {
    this.tokens++;
    // A model may have more ids than its tokenizer: padding of the embedding. They have no text.
    const hasText = this.#tokenizer !== null && id < this.#tokenizer.vocabSize;
    const piece = hasText ? (this.#decoder?.push(id) ?? "") : "";
    return { id, logprob, text: this.#stops.push(piece) };
  }

  finish(): string {
    if (this.isStopped) return "";
    return this.#stops.push(this.#decoder?.finish() ?? "") + this.#stops.finish();
  }
}

/**
 * The events of an answer. It stops computing within a step when the signal aborts, the caller leaves the loop, or a
 * stop text is complete.
 */
export async function* answer(
  model: LoadedModel,
  request: AnswerRequest,
  signal: AbortSignal,
): AsyncGenerator<AnswerEvent> {
  const { engineModel, tokenizer, contextLength } = model;
  const inputIds = encode(request.prompt, tokenizer);
  if (inputIds.length >= contextLength) {
    refuse("INVALID_ARGUMENT", `prompt: expected fewer than ${contextLength} tokens, got ${inputIds.length}`);
  }
  const { adapterId, sampling, ignoreEos, wantLogits, wantLogprobs } = request;
  const maxNewTokens = Math.min(request.maxNewTokens, contextLength - inputIds.length);
  const writer = new Writer(tokenizer, request.stops);
  const ready: AnswerToken[] = [];
  let logits: Float32Array | null = null;
  let news = Promise.withResolvers<void>();
  const over = new AbortController();
  const onEvent = (token: GeneratedToken) => {
    if (writer.isStopped) return;
    ready.push(writer.push(token));
    logits = token.logits;
    if (writer.isStopped) over.abort();
    news.resolve();
  };
  const release = model.hold();
  const work = engineModel
    .generate(
      { adapterId, inputIds, maxNewTokens, sampling, ignoreEos, wantLogits, wantLogprobs },
      { signal: AbortSignal.any([signal, over.signal]), onEvent },
    )
    .finally(release);
  let result: GenerateResult | undefined;
  const ended = work.then((value) => {
    result = value;
  });
  ended.catch(() => {});
  try {
    while (result === undefined) {
      await orAborted(Promise.race([news.promise, ended]), signal);
      news = Promise.withResolvers();
      while (ready.length > 0) yield { kind: "token", token: ready.shift()! };
    }
    signal.throwIfAborted();
    const reason = writer.isStopped ? "stop" : result.reason;
    if (reason === "cancelled") refuse("FAILED_PRECONDITION", "the answer: was cancelled");
    yield { kind: "end", end: { reason, text: writer.finish(), tokens: writer.tokens, timing: result.timing, logits } };
  } finally {
    over.abort();
  }
}
