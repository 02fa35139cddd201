// The inference handlers: decode, call the domain, encode. No decisions here.
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import {
  checkId,
  decodePageToken,
  encodePageToken,
  type Implementation,
  implement,
  pageSizeOf,
  parseName,
} from "#packages/rpc";
import { type AnswerRequest, answer } from "./answer.ts";
import { decodeMessages, decodeSampling, encodeAdapter, encodeEvent, encodeModel, modelSettings } from "./encode.ts";
import type { Serving } from "./serving.ts";

const modelIdOf = (name: string) => (name === "" ? "" : parseName("models/{model}", name, "model").model);
const adapterIdOf = (name: string) => parseName("loadedAdapters/{adapter}", name, "adapter").adapter;

export function inferenceService(serving: Serving, defaults: Parameters<typeof modelSettings>[1]): Implementation {
  /** Generate and Chat differ in their prompt alone. */
  async function* answers(
    asked: { adapter: string; returnLogprobs: boolean },
    request: Omit<AnswerRequest, "adapterId">,
    signal: AbortSignal,
  ) {
    const { model, adapters } = serving.served;
    const adapterId = asked.adapter === "" ? null : adapters.get(adapterIdOf(asked.adapter)).id;
    for await (const event of answer(model, { ...request, adapterId }, signal)) {
      yield encodeEvent(event, asked.returnLogprobs);
    }
  }
  return implement(InferenceService, {
    loadModel: async (request, { signal }) => {
      const { model } = await serving.load(modelSettings(request, defaults), request.expectedDigest, signal);
      return { model: await encodeModel(model) };
    },
    getModel: async ({ name }) => ({ model: await encodeModel(serving.named(modelIdOf(name)).model) }),
    unloadModel: async ({ name }) => ({ bytesFreed: BigInt(await serving.unload(modelIdOf(name))) }),
    loadAdapter: async ({ adapterId, source, expectedBaseDigest }, { signal }) => {
      const id = checkId(adapterId, "adapter_id", "load_adapter");
      const { model, adapters } = serving.served;
      if (source.case === undefined) throw new RangeError("[load_adapter] source: expected one");
      const options = { id, source, expectedBaseDigest };
      return { adapter: encodeAdapter(await model.use(() => adapters.load(options, signal))) };
    },
    unloadAdapter: async ({ name }, { signal }) => {
      const { model, adapters } = serving.named("");
      return { bytesFreed: BigInt(await model.use(() => adapters.unload(adapterIdOf(name), signal))) };
    },
    listAdapters: async ({ pageSize, pageToken }) => {
      const size = pageSizeOf(pageSize);
      const after = decodePageToken("loadedAdapters", pageToken, "list_adapters") ?? "";
      const rest = serving.adapters().filter(({ id }) => id > after);
      const page = rest.slice(0, size);
      return {
        adapters: page.map(encodeAdapter),
        nextPageToken: rest.length > size ? encodePageToken("loadedAdapters", page.at(-1)?.id ?? "") : "",
      };
    },
    generate: async function* (request, { signal }) {
      const { input, sampling, returnLogits: wantLogits, returnLogprobs: wantLogprobs } = request;
      const prompt = input.case === "inputIds" ? { ids: input.value.ids } : { text: input.value ?? "" };
      yield* answers(request, { prompt, wantLogits, wantLogprobs, ...decodeSampling(sampling) }, signal);
    },
    chat: async function* (request, { signal }) {
      const { messages, sampling, returnLogits: wantLogits, returnLogprobs: wantLogprobs } = request;
      const prompt = { messages: decodeMessages(messages) };
      yield* answers(request, { prompt, wantLogits, wantLogprobs, ...decodeSampling(sampling) }, signal);
    },
  });
}
