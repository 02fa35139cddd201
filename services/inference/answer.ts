// One answer: the prompt as tokens, the engine's tokens as text, stop texts, figures. It knows no transport.
import { AnswerText, type TextTokenizer, textOfToken } from "#packages/data";
import type { ConstraintForm, GeneratedToken, GenerateResult, SamplingOptions } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { orAborted } from "#packages/rpc";
import { generateTraced } from "./engine-trace.ts";
import type { LoadedModel } from "./model.ts";
import { encodePrompt, type Prompt, refuse } from "./prompt.ts";
import { type ToolCall, ToolCallReader } from "./tool-calls.ts";

export interface AnswerRequest {
  /** Null: the base alone. */
  adapterId: string | null;
  /** The adapter's own; null or none: the model's. */
  tokenizer?: TextTokenizer | null;
  prompt: Prompt;
  maxNewTokens: number;
  sampling: SamplingOptions;
  frequencyPenalty: number;
  presencePenalty: number;
  stops: readonly string[];
  ignoreEos: boolean;
  wantLogits: boolean;
  wantLogprobs: boolean;
  topLogprobs: number;
  /** Tokens at most that are guessed in a step. */
  lookupTokens: number;
  /** What the text must look like; null: anything. */
  constraint: ConstraintForm | null;
  /** Who asks: callers are served alike. */
  caller: string;
  /** Requests with one prompt that share its computation. */
  group?: string;
}

export interface AnswerToken {
  id: number;
  text: string;
  logprob: number;
  /** Likeliest first; as many as were asked for. */
  top: readonly { id: number; logprob: number; text: string }[];
}

export interface AnswerEnd {
  reason: "eos" | "length" | "stop" | "toolCalls";
  /** What was held back. */
  text: string;
  tokens: number;
  timing: GenerateResult["timing"];
  /** Of the last position that was computed; null unless asked for. */
  logits: Float32Array | null;
  toolCalls: readonly ToolCall[];
}

export type AnswerEvent = { kind: "token"; token: AnswerToken } | { kind: "end"; end: AnswerEnd };

/** Turns tokens into text as they come, calls of tools taken out; what they say together is the answer. */
class Writer {
  readonly #tokenizer: TextTokenizer | null;
  readonly #text: AnswerText;
  readonly #tools: ToolCallReader | null;
  tokens = 0;

  constructor(tokenizer: TextTokenizer | null, stops: readonly string[], hasTools: boolean) {
    this.#tokenizer = tokenizer;
    this.#text = new AnswerText(tokenizer, stops);
    this.#tools = hasTools ? new ToolCallReader() : null;
  }

  get isStopped(): boolean {
    return this.#text.isStopped;
  }

  get toolCalls(): readonly ToolCall[] {
    return this.#tools?.calls ?? [];
  }

  push({ id, logprob, top }: GeneratedToken): AnswerToken {
    this.tokens++;
    const text = this.#text.push(id);
    const alone = top.map((one) => ({ ...one, text: textOfToken(this.#tokenizer, one.id) }));
    return { id, logprob, text: this.#tools?.push(text) ?? text, top: alone };
  }

  finish(): string {
    const rest = this.#text.finish();
    return this.#tools ? this.#tools.push(rest) + this.#tools.finish() : rest;
  }
}

function refuseBehind(unreadMax: number): never {
  const message = `the answer: expected a reader at most ${unreadMax} tokens behind, got one further behind`;
  const details = { quota: "tokens that wait for their reader", limit: String(unreadMax) };
  throw new NibbleError(message, { code: "RESOURCE_EXHAUSTED", op: "generate", details });
}

/**
 * The events of an answer. It stops computing within a step when the signal aborts, the caller leaves the loop, a stop
 * text is complete, or the caller is too far behind.
 * @throws RESOURCE_EXHAUSTED for the last of these, after the tokens that waited.
 */
export async function* answer(
  model: LoadedModel,
  request: AnswerRequest,
  signal: AbortSignal,
): AsyncGenerator<AnswerEvent> {
  const { engineModel, contextLength, unreadMax } = model;
  const tokenizer = request.tokenizer ?? model.tokenizer;
  const inputIds = encodePrompt(request.prompt, tokenizer);
  if (inputIds.length >= contextLength) {
    refuse("INVALID_ARGUMENT", `prompt: expected fewer than ${contextLength} tokens, got ${inputIds.length}`);
  }
  const { prompt, stops, tokenizer: _, ...asked } = request;
  const maxNewTokens = Math.min(request.maxNewTokens, contextLength - inputIds.length);
  const writer = new Writer(tokenizer, stops, "tools" in prompt && prompt.tools.length > 0);
  const ready: AnswerToken[] = [];
  let logits: Float32Array | null = null;
  let news = Promise.withResolvers<void>();
  const over = new AbortController();
  let isBehind = false;
  const onEvent = (token: GeneratedToken) => {
    if (writer.isStopped || isBehind) return;
    isBehind = ready.length === unreadMax;
    if (isBehind) return over.abort();
    ready.push(writer.push(token));
    logits = token.logits;
    if (writer.isStopped) over.abort();
    news.resolve();
  };
  const release = model.hold();
  const call = { signal: AbortSignal.any([signal, over.signal]), onEvent };
  const work = generateTraced(engineModel, { ...asked, inputIds, maxNewTokens }, call).finally(release);
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
    if (isBehind) refuseBehind(unreadMax);
    const reason = writer.isStopped ? "stop" : result.reason;
    if (reason === "cancelled") refuse("FAILED_PRECONDITION", "the answer: was cancelled");
    const text = writer.finish();
    const { toolCalls, tokens } = writer;
    const finish = toolCalls.length > 0 && reason !== "length" ? "toolCalls" : reason;
    yield { kind: "end", end: { reason: finish, text, tokens, timing: result.timing, logits, toolCalls } };
  } finally {
    over.abort();
  }
}
