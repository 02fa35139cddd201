// The inference handlers: decode, call the domain, encode. No decisions here.
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { localFolder } from "#packages/hub";
import {
  checkId,
  decodePageToken,
  encodePageToken,
  type Implementation,
  implement,
  pageSizeOf,
  parseName,
} from "#packages/rpc";
import { adapterIdOf, answerHandlers } from "./answer-handlers.ts";
import { encodeAdapter, encodeModel, modelSettings } from "./encode.ts";
import type { Resumable } from "./resumable.ts";
import type { Serving } from "./serving.ts";
import { servingStats } from "./stats.ts";

const modelIdOf = (name: string) => (name === "" ? "" : parseName("models/{model}", name, "model").model);

export interface InferenceParts {
  serving: Serving;
  resumable: Resumable;
  defaults: Parameters<typeof modelSettings>[1];
}

export function inferenceService({ serving, resumable, defaults }: InferenceParts): Implementation {
  return implement(InferenceService, {
    loadModel: async (request, { signal }) => {
      const settings = modelSettings(request, defaults);
      const modelDir = await localFolder(settings.modelDir, { signal });
      const { model } = await serving.load({ ...settings, modelDir }, request.expectedDigest, signal);
      return { model: await encodeModel(model) };
    },
    getModel: async ({ name }) => ({ model: await encodeModel(serving.named(modelIdOf(name)).model) }),
    unloadModel: async ({ name }) => ({ bytesFreed: BigInt(await serving.unload(modelIdOf(name))) }),
    loadAdapter: async ({ adapterId, source, expectedBaseDigest, replace, pinned }, { signal }) => {
      const id = checkId(adapterId, "adapter_id", "load_adapter");
      const { model, adapters } = serving.served;
      if (source.case === undefined) throw new RangeError("[load_adapter] source: expected one");
      const options = { id, source, expectedBaseDigest, replace, pinned };
      const loaded = await model.use(() => adapters.load(options, signal));
      return { adapter: encodeAdapter(loaded) };
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
    ...answerHandlers(serving, resumable),
    getServingStats: () => servingStats(serving.served),
  });
}
