// Held-out questions, asked through the inference service: how many answers are right, word for word, and how fast
// they come.
import { readFileSync } from "node:fs";
import { type Completion, Role } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { Connection } from "#packages/client";
import { NibbleError } from "#packages/errors";

export interface Question {
  question: string;
  answer: string;
}

/** Answers are a few words; a model that does not stop shall not hold up the demo. */
const newTokensMax = 48;
export const inFlight = 8;

interface ChatRow {
  messages: [{ content: string }, { content: string }];
}

/** `count` of the file's questions, evenly from all of it. */
export function readQuestions(file: string, count: number): Question[] {
  const rows = readFileSync(file, "utf8").trim().split("\n");
  const step = Math.max(1, rows.length / count);
  return Array.from({ length: Math.min(count, rows.length) }, (_, i) => {
    const { messages } = JSON.parse(rows[Math.floor(i * step)] ?? "") as ChatRow;
    return { question: messages[0].content, answer: messages[1].content };
  });
}

export interface Asked {
  text: string;
  usage: NonNullable<Completion["usage"]>;
}

export interface AskOptions {
  /** `loadedAdapters/…`, or "" for the base alone. */
  adapter: string;
  signal: AbortSignal;
  onText?: (text: string) => void;
}

export async function ask(
  { inference }: Connection,
  question: string,
  { adapter, signal, onText }: AskOptions,
): Promise<Asked> {
  const messages = [{ role: Role.USER, content: question }];
  let text = "";
  const give = (piece: string) => {
    text += piece;
    if (piece !== "") onText?.(piece);
  };
  const stream = inference.chat({ adapter, messages, sampling: { maxNewTokens: newTokensMax } }, { signal });
  for await (const { event } of stream) {
    if (event.case === "token") give(event.value.text);
    if (event.case !== "completion") continue;
    give(event.value.text);
    if (event.value.usage) return { text, usage: event.value.usage };
  }
  throw new NibbleError("the answer: expected a completion with usage, got an end", { code: "INTERNAL", op: "demo" });
}

export interface Exam {
  questions: number;
  right: number;
  /** Prompts and answers of all requests together. */
  tokensPerSecond: number;
  seconds: number;
}

/** Asks all questions, some at a time. */
export async function examine(
  connection: Connection,
  questions: readonly Question[],
  options: AskOptions & { onProgress: (done: number) => void },
): Promise<Exam> {
  const started = performance.now();
  let next = 0;
  let done = 0;
  let right = 0;
  let tokens = 0;
  const work = async () => {
    for (let one = questions[next++]; one; one = questions[next++]) {
      const { text, usage } = await ask(connection, one.question, options);
      if (text.trim() === one.answer) right++;
      tokens += usage.promptTokens + usage.completionTokens;
      options.onProgress(++done);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, work));
  const seconds = (performance.now() - started) / 1000;
  return { questions: questions.length, right, tokensPerSecond: tokens / seconds, seconds };
}
