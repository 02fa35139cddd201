// The handlers of answers, tokens and scores: decode, call the domain, encode. No decisions here.
import type { ChatRequest, GenerateRequest } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import type { TokenizeRequest } from "#gen/nibble/inference/v1/scoring_pb.ts";
import { NibbleError } from "#packages/errors";
import { type Handlers, parseName } from "#packages/rpc";
import type { AnswerRequest } from "./answer.ts";
import { answers } from "./answers.ts";
import { decodeMessages, decodeSampling, decodeTools, encodeEvent } from "./encode.ts";
import { encodePrompt, needTokenizer, type Prompt } from "./prompt.ts";
import type { Resumable } from "./resumable.ts";
import type { Serving } from "./serving.ts";

type Answering = "generate" | "chat" | "resumeAnswer" | "tokenize" | "countTokens" | "score";

export const adapterIdOf = (name: string) => parseName("loadedAdapters/{adapter}", name, "adapter").adapter;

const conversation = ({ messages, tools }: Pick<ChatRequest, "messages" | "tools">): Prompt => ({
  messages: decodeMessages(messages),
  tools: decodeTools(tools),
});

export function answerHandlers(
  serving: Serving,
  resumable: Resumable,
): Pick<Handlers<typeof InferenceService>, Answering> {
  /** Generate and Chat differ in their prompt alone. */
  async function* answer(asked: GenerateRequest | ChatRequest, prompt: Prompt, signal: AbortSignal) {
    const { model, adapters, requests } = serving.served;
    const adapterId = asked.adapter === "" ? null : adapters.get(adapterIdOf(asked.adapter)).id;
    const { returnLogits: wantLogits, returnLogprobs: wantLogprobs } = asked;
    const { n, ...sampling } = decodeSampling(asked.sampling);
    const request: AnswerRequest = { ...sampling, adapterId, prompt, wantLogits, wantLogprobs };
    const start = (until: AbortSignal) => answers(model, request, n, until);
    const events = asked.requestId === "" ? start(signal) : resumable.begin(asked.requestId, start, signal);
    const ended = requests.begin(adapterId ?? "");
    try {
      for await (const event of events) yield encodeEvent(event);
    } finally {
      ended();
    }
  }
  const tokensOf = ({ input, skipSpecialTokens }: Pick<TokenizeRequest, "input" | "skipSpecialTokens">) => {
    const { model } = serving.served;
    const tokenizer = needTokenizer(model.tokenizer);
    const text = { text: input.case === "prompt" ? input.value : "", addSpecialTokens: !skipSpecialTokens };
    const ids = encodePrompt(input.case === "conversation" ? conversation(input.value) : text, tokenizer);
    return { ids, tokenizer, model };
  };
  return {
    generate: async function* (request, { signal }) {
      const { input } = request;
      const prompt = input.case === "inputIds" ? { ids: input.value.ids } : { text: input.value ?? "" };
      yield* answer(request, prompt, signal);
    },
    chat: async function* (request, { signal }) {
      yield* answer(request, conversation(request), signal);
    },
    resumeAnswer: async function* ({ requestId, afterSequence }, { signal }) {
      for await (const event of resumable.resume(requestId, Number(afterSequence), signal)) yield encodeEvent(event);
    },
    tokenize: (request) => {
      const { ids, tokenizer } = tokensOf(request);
      return { ids: [...ids], tokens: ids.map((id) => tokenizer.tokenOf(id)) };
    },
    score: () => {
      throw new NibbleError("score: not built yet", { code: "UNIMPLEMENTED", op: "score" });
    },
    countTokens: (request) => {
      const { ids, model } = tokensOf(request);
      return { tokens: ids.length, contextLength: model.contextLength };
    },
  };
}
