// Answers as OpenAI's objects: whole, and in the chunks of a stream. Chat and completions differ in their choices alone.
import { FinishReason, type Token, type ToolCall, type Usage } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { AnswerEvent } from "./answers.ts";

const finishReasons: Record<FinishReason, string> = {
  [FinishReason.UNSPECIFIED]: "stop",
  [FinishReason.EOS]: "stop",
  [FinishReason.STOP]: "stop",
  [FinishReason.LENGTH]: "length",
  [FinishReason.TOOL_CALLS]: "tool_calls",
};

export const finishReasonOf = (reason: FinishReason): string => finishReasons[reason] ?? "stop";

/** A token with its log-probability, for both APIs. */
interface LogprobEntry {
  token: string;
  logprob: number;
  top: { token: string; logprob: number }[];
}

/** One of the answers while it grows. */
export class Choice {
  readonly index: number;
  text = "";
  readonly logprobs: LogprobEntry[] = [];
  finishReason: string | null = null;
  toolCalls: readonly ToolCall[] = [];
  usage: Usage | undefined;

  constructor(index: number) {
    this.index = index;
  }

  /** Returns what it adds. */
  push({ token, end }: AnswerEvent): { text: string; logprobs: LogprobEntry[] } {
    const text = token?.text ?? end?.text ?? "";
    const logprobs = token?.logprob === undefined ? [] : [entryOf(token, token.logprob)];
    this.text += text;
    this.logprobs.push(...logprobs);
    if (end) {
      this.finishReason = finishReasonOf(end.finishReason);
      this.toolCalls = end.toolCalls;
      this.usage = end.usage;
    }
    return { text, logprobs };
  }
}

/** Its own text where it is among the likeliest; else what it added to the answer's. */
function entryOf({ id, text, top }: Token, logprob: number): LogprobEntry {
  const own = top.find((one) => one.id === id)?.text ?? text;
  return { token: own, logprob, top: top.map((one) => ({ token: one.text, logprob: one.logprob })) };
}

export interface Shape {
  readonly object: string;
  readonly chunkObject: string;
  /** A choice of the whole answer. */
  whole(choice: Choice, wants: ShapeWants): unknown;
  /** Choices of the chunks that open an answer, add to it and end it. */
  opening(index: number): unknown | undefined;
  piece(index: number, added: { text: string; logprobs: LogprobEntry[] }, wants: ShapeWants): unknown;
  closing(choice: Choice): unknown[];
}

export interface ShapeWants {
  returnLogprobs: boolean;
  /** The likeliest tokens at each place that were asked for. */
  topLogprobs: number;
}

/** No bytes for a part of a character: its text stands for them no more. */
function bytesOf(text: string): number[] | null {
  return text.includes("\ufffd") ? null : [...Buffer.from(text)];
}

function chatLogprobs(entries: readonly LogprobEntry[], { returnLogprobs, topLogprobs }: ShapeWants) {
  if (!returnLogprobs) return null;
  const one = ({ token, logprob }: { token: string; logprob: number }) => ({ token, logprob, bytes: bytesOf(token) });
  const content = entries.map((entry) => ({ ...one(entry), top_logprobs: entry.top.slice(0, topLogprobs).map(one) }));
  return { content, refusal: null };
}

const callsOf = (calls: readonly ToolCall[]) =>
  calls.map(({ id, name, arguments: args }) => ({ id, type: "function", function: { name, arguments: args } }));

export const chatShape: Shape = {
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  whole: ({ index, text, toolCalls, logprobs, finishReason }, wants) => ({
    index,
    message: {
      role: "assistant",
      content: text === "" && toolCalls.length > 0 ? null : text,
      refusal: null,
      ...(toolCalls.length > 0 ? { tool_calls: callsOf(toolCalls) } : {}),
    },
    logprobs: chatLogprobs(logprobs, wants),
    finish_reason: finishReason,
  }),
  opening: (index) => ({
    index,
    delta: { role: "assistant", content: "", refusal: null },
    logprobs: null,
    finish_reason: null,
  }),
  piece: (index, { text, logprobs }, wants) => ({
    index,
    delta: { content: text },
    logprobs: chatLogprobs(logprobs, wants),
    finish_reason: null,
  }),
  // The end is a chunk of its own, without content: clients look for it so.
  closing: ({ index, toolCalls, finishReason }) => {
    const calls = callsOf(toolCalls).map((call, i) => ({ index: i, ...call }));
    const end = { index, delta: {}, logprobs: null, finish_reason: finishReason };
    if (calls.length === 0) return [end];
    return [{ index, delta: { tool_calls: calls }, logprobs: null, finish_reason: null }, end];
  },
};

function completionLogprobs(
  entries: readonly LogprobEntry[],
  { returnLogprobs, topLogprobs }: ShapeWants,
  offset: number,
) {
  if (!returnLogprobs) return null;
  let at = offset;
  const offsets = entries.map(({ token }) => {
    const here = at;
    at += token.length;
    return here;
  });
  const top = (entry: LogprobEntry) =>
    Object.fromEntries(entry.top.slice(0, topLogprobs).map(({ token, logprob }) => [token, logprob]));
  return {
    tokens: entries.map(({ token }) => token),
    token_logprobs: entries.map(({ logprob }) => logprob),
    top_logprobs: topLogprobs > 0 ? entries.map(top) : null,
    text_offset: offsets,
  };
}

export const completionShape = (): Shape => {
  /** Of each answer's text so far. */
  const offsets = new Map<number, number>();
  return {
    object: "text_completion",
    chunkObject: "text_completion",
    whole: ({ index, text, logprobs, finishReason }, wants) => ({
      index,
      text,
      logprobs: completionLogprobs(logprobs, wants, 0),
      finish_reason: finishReason,
    }),
    opening: () => undefined,
    piece: (index, { text, logprobs }, wants) => {
      const offset = offsets.get(index) ?? 0;
      offsets.set(index, offset + text.length);
      return { index, text, logprobs: completionLogprobs(logprobs, wants, offset), finish_reason: null };
    },
    closing: ({ index, finishReason }) => [{ index, text: "", logprobs: null, finish_reason: finishReason }],
  };
};

/** The prompts count once, however many answers they got. */
export function usageOf(choices: readonly Choice[], n: number) {
  const sum = (of: readonly Choice[], count: (usage: Usage) => number) =>
    of.reduce((total, { usage }) => total + (usage ? count(usage) : 0), 0);
  const firsts = choices.filter(({ index }) => index % n === 0);
  const prompt = sum(firsts, (usage) => usage.promptTokens);
  const completion = sum(choices, (usage) => usage.completionTokens);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum(firsts, (usage) => usage.cachedPromptTokens) },
  };
}
