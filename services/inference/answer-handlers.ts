// The handlers of answers, tokens and scores: decode, call the domain, encode. No decisions here.
import type { ChatRequest, GenerateRequest } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import type { TokenizeRequest } from "#gen/nibble/inference/v1/scoring_pb.ts";
import { type CallContext, type Handlers, parseName } from "#packages/rpc";
import type { AnswerRequest } from "./answer.ts";
import { answers } from "./answers.ts";
import { decodeMessages, decodeSampling, decodeScoreText, decodeTools, encodeEvent, encodeScore } from "./encode.ts";
import { encodePrompt, needTokenizer, type Prompt, textOfToken } from "./prompt.ts";
import type { Resumable } from "./resumable.ts";
import { score } from "./score.ts";
import type { Serving } from "./serving.ts";

type Answering = "generate" | "chat" | "resumeAnswer" | "tokenize" | "countTokens" | "score";

export const adapterIdOf = (name: string) => parseName("loadedAdapters/{adapter}", name, "adapter").adapter;

/** Who asks, for fairness: what a gateway says, or the machine that the call comes from. */
function callerOf({ metadata, peer }: CallContext): string {
  const [given] = metadata.get("x-nibble-caller");
  return typeof given === "string" && given.length <= 256 ? given : peer.replace(/:\d+$/, "");
}

const conversation = ({ messages, tools }: Pick<ChatRequest, "messages" | "tools">): Prompt => ({
  messages: decodeMessages(messages),
  tools: decodeTools(tools),
});

export function answerHandlers(
  serving: Serving,
  resumable: Resumable,
): Pick<Handlers<typeof InferenceService>, Answering> {
  /** Generate and Chat differ in their prompt alone. */
  async function* answer(asked: GenerateRequest | ChatRequest, prompt: Prompt, context: CallContext) {
    const { signal } = context;
    const { model, adapters, requests } = serving.served;
    const adapterId = asked.adapter === "" ? null : adapters.get(adapterIdOf(asked.adapter)).id;
    const { returnLogits: wantLogits, returnLogprobs: wantLogprobs } = asked;
    const { n, ...sampling } = decodeSampling(asked.sampling);
    const request: AnswerRequest = {
      ...sampling,
      ...{ adapterId, prompt, wantLogits, wantLogprobs, caller: callerOf(context) },
    };
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
    generate: async function* (request, context) {
      const { input } = request;
      const prompt = input.case === "inputIds" ? { ids: input.value.ids } : { text: input.value ?? "" };
      yield* answer(request, prompt, context);
    },
    chat: async function* (request, context) {
      yield* answer(request, conversation(request), context);
    },
    resumeAnswer: async function* ({ requestId, afterSequence }, { signal }) {
      for await (const event of resumable.resume(requestId, Number(afterSequence), signal)) yield encodeEvent(event);
    },
    tokenize: (request) => {
      const { ids, tokenizer } = tokensOf(request);
      return { ids: [...ids], tokens: ids.map((id) => tokenizer.tokenOf(id)) };
    },
    score: async ({ adapter, context, continuations, topLogprobs }, call) => {
      const { model, adapters } = serving.served;
      const adapterId = adapter === "" ? null : adapters.get(adapterIdOf(adapter)).id;
      const texts = continuations.map((one) => decodeScoreText(one) ?? { ids: [] });
      const request = { adapterId, continuations: texts, topLogprobs, caller: callerOf(call) };
      const scores = await score(model, { ...request, context: decodeScoreText(context) }, call.signal);
      return { scores: scores.map((one) => encodeScore(one, (id) => textOfToken(model.tokenizer, id))) };
    },
    countTokens: (request) => {
      const { ids, model } = tokensOf(request);
      return { tokens: ids.length, contextLength: model.contextLength };
    },
  };
}
