// A model of a running stack: loaded there, answered from there.
import { randomUUID } from "node:crypto";
import {
  type ChatResponse,
  type Completion,
  FinishReason,
  type GenerateResponse,
  Role,
  type Token,
  type TokenLogprob,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import type { Connection } from "#packages/client";
import type { ChatMessage } from "#packages/data";
import { NibbleError } from "#packages/errors";
import type { Answer, Answerer, AnswerRequest, OpenOptions } from "../backend.ts";
import { computeDtypeOf, enumName, folderOf, samplingParams } from "./wire.ts";

/** Reading and quantizing a large model takes its time. */
const loadMsMax = 3_600_000;

const roles: Readonly<Record<string, Role>> = { system: Role.SYSTEM, user: Role.USER, assistant: Role.ASSISTANT };
const registryName = /^adapters\/[^/]+\/(versions|aliases)\/[^/]+$/;

async function loadAdapter(connection: Connection, adapter: string, signal: AbortSignal): Promise<string> {
  const isRegistered = registryName.test(adapter);
  const { adapter: loaded } = await connection.inference.loadAdapter(
    {
      adapterId: `cli-${randomUUID().slice(0, 8)}`,
      source: isRegistered
        ? { case: "registryName", value: adapter }
        : { case: "adapterDir", value: folderOf(adapter) },
    },
    { signal, deadlineMs: loadMsMax },
  );
  return loaded?.name ?? "";
}

export class RemoteModel implements Answerer {
  private readonly connection: Connection;
  /** `loadedAdapters/…` or "". */
  private readonly adapter: string;
  /** Loaded for this command, and unloaded with it. */
  private readonly isOurs: boolean;

  private constructor(connection: Connection, adapter: string, isOurs: boolean) {
    this.connection = connection;
    this.adapter = adapter;
    this.isOurs = isOurs;
  }

  static async open(connection: Connection, options: OpenOptions, signal: AbortSignal): Promise<RemoteModel> {
    const { modelDir, adapter, bits, dtype, threads } = options;
    if (modelDir !== null) {
      await connection.inference.loadModel(
        {
          modelDir: folderOf(modelDir),
          computeDtype: computeDtypeOf(dtype),
          ...(bits === null ? {} : { bits }),
          ...(threads === null ? {} : { threads }),
        },
        { signal, deadlineMs: loadMsMax },
      );
    }
    if (adapter === null) return new RemoteModel(connection, "", false);
    if (adapter.startsWith("loadedAdapters/")) return new RemoteModel(connection, adapter, false);
    return new RemoteModel(connection, await loadAdapter(connection, adapter, signal), true);
  }

  async answer(
    request: AnswerRequest,
    { signal, onText }: { signal: AbortSignal; onText?: (text: string) => void },
  ): Promise<Answer[]> {
    const drafts = Array.from({ length: request.n }, () => ({ tokens: [] as Token[], text: "" }));
    const answers: Answer[] = [];
    for await (const { index, event } of this.stream(request, signal)) {
      const draft = drafts[index];
      if (!draft || event.case === undefined) continue;
      draft.text += event.value.text;
      if (index === 0 && event.value.text !== "") onText?.(event.value.text);
      if (event.case === "token") draft.tokens.push(event.value);
      else answers[index] = answerOf(event.value, draft.tokens, draft.text, request.topLogprobs !== null);
    }
    // Holes do not count.
    if (answers.flat().length === request.n) return answers;
    throw new NibbleError("the answer: expected a completion, got an end", { code: "INTERNAL", op: "generate" });
  }

  private stream(request: AnswerRequest, signal: AbortSignal): AsyncIterable<GenerateResponse | ChatResponse> {
    const { adapter } = this;
    const { input, wantLogits: returnLogits, topLogprobs } = request;
    const common = { adapter, sampling: samplingParams(request), returnLogits, returnLogprobs: topLogprobs !== null };
    if ("messages" in input) {
      const messages = input.messages.map((message) => ({ role: roleOf(message), content: message.content }));
      return this.connection.inference.chat({ ...common, messages }, { signal });
    }
    const prompt =
      "prompt" in input
        ? ({ case: "prompt", value: input.prompt } as const)
        : ({ case: "inputIds", value: { ids: input.inputIds } } as const);
    return this.connection.inference.generate({ ...common, input: prompt }, { signal });
  }

  async close(): Promise<void> {
    if (this.isOurs) await this.connection.inference.unloadAdapter({ name: this.adapter });
  }
}

function roleOf({ role }: ChatMessage): Role {
  return roles[role] ?? Role.UNSPECIFIED;
}

function answerOf(
  { finishReason, usage, logits }: Completion,
  tokens: readonly Token[],
  text: string,
  wantLogprobs: boolean,
): Answer {
  const plain = ({ id, text: alone, logprob }: TokenLogprob) => ({ id, text: alone, logprob });
  const logprobs = tokens.map(({ id, text: said, logprob = Number.NaN, top }) => ({
    ...{ id, text: said, logprob },
    top: top.map(plain),
  }));
  return {
    tokenIds: tokens.map(({ id }) => id),
    text,
    finishReason: enumName(FinishReason, finishReason).toLowerCase(),
    promptTokens: usage?.promptTokens ?? 0,
    prefillTokensPerSecond: usage?.prefillTokensPerSecond ?? 0,
    decodeTokensPerSecond: usage?.decodeTokensPerSecond ?? 0,
    logits: logits.length === 0 ? null : logits,
    logprobs: wantLogprobs ? logprobs : null,
  };
}
