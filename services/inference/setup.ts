// Puts the inference service together from its settings, and loads the model that they name.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { GRPCInferenceService } from "#gen/inference/grpc_predict_v2_pb.ts";
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { defaultQuant } from "#packages/engine";
import { localFolder } from "#packages/hub";
import { checkId, type ServiceSetup } from "#packages/rpc";
import { adapterFetcher } from "./adapter-source.ts";
import type { Config } from "./config.ts";
import { kserveService } from "./kserve.ts";
import { Resumable } from "./resumable.ts";
import { inferenceService } from "./service.ts";
import { Serving } from "./serving.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
}

export async function openInference(config: Config, { now, logger }: Surroundings): Promise<ServiceSetup> {
  const cacheDir = join(resolve(config.dir), "adapters");
  mkdirSync(cacheDir, { recursive: true });
  const { sequencesMax, stepTokensMax, cacheTokensMax, waitingMax, unreadMax, prefixCache } = config;
  const serving = new Serving({
    now,
    logger,
    fetcher: adapterFetcher({ registry: config.registry, cacheDir }),
    limits: { sequencesMax, stepTokensMax, cacheTokensMax, waitingMax, unreadMax, prefixCache },
    adapterBytesMax: config.adapterBytesMax,
  });
  const resumable = new Resumable({
    keptMs: config.resumeMs,
    answersMax: config.resumableMax,
    eventsMax: config.resumeEventsMax,
  });
  if (config.modelDir !== "") {
    const { dtype, threads, device } = config;
    const modelDir = await localFolder(config.modelDir);
    const id = checkId(config.modelId, "NIBBLE_INFERENCE_MODEL_ID", "config");
    const bits = config.bits === 0 ? undefined : config.bits;
    await serving.load({ id, modelDir, bits, quant: defaultQuant, dtype, threads, device }, "");
  }
  return {
    host: config.host,
    port: config.port,
    drainMs: config.drainMs,
    services: [inferenceService({ serving, resumable, defaults: config }), kserveService(serving)],
    onHealth: (health) => {
      const tell = () => {
        for (const name of ["", InferenceService.typeName]) health.set(name, !serving.isBroken);
        // Platforms of this protocol send requests as soon as it serves.
        health.set(GRPCInferenceService.typeName, serving.isReady);
      };
      serving.watch(tell);
      tell();
    },
    close: () => {
      resumable.close();
      return serving.close();
    },
  };
}
