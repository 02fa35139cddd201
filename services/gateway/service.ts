// All routes of the gateway.
import type { Connection } from "#packages/client";
import type { Route } from "#packages/http";
import { CompletionsApi } from "./completions/api.ts";
import type { Config } from "./config.ts";
import { FilesApi } from "./files/api.ts";
import type { FileStore } from "./files/store.ts";
import { FineTuningApi } from "./fine-tuning/api.ts";
import { healthRoutes } from "./health.ts";
import type { Keys } from "./keys.ts";
import type { ServingMetrics } from "./metrics.ts";
import type { Models } from "./models.ts";
import { ModelsApi } from "./models-api.ts";
import { webRoutes } from "./web.ts";

export interface GatewayParts {
  /** Milliseconds since 1970. */
  now: () => number;
  config: Config;
  connection: Connection;
  models: Models;
  files: FileStore;
  keys: Keys;
  metrics: ServingMetrics;
  /** Folder for what fine-tuning writes. */
  fineTuningDir: string;
}

export function gatewayRoutes(parts: GatewayParts): Route[] {
  const { now, config, connection, models, files, keys, metrics, fineTuningDir: dir } = parts;
  const { inference, trainer } = connection;
  const { bodyBytesMax, heartbeatMs } = config;
  const shared = { now, models, keys, bodyBytesMax, heartbeatMs };
  return [
    ...new CompletionsApi({ ...shared, inference, metrics }).routes(),
    ...new ModelsApi(models, keys).routes(),
    ...new FilesApi(files, keys, config.fileBytesMax).routes(),
    ...new FineTuningApi({ ...shared, trainer, files, dir }).routes(),
    ...webRoutes(connection, keys, bodyBytesMax),
    ...healthRoutes(inference, () => metrics.text()),
  ];
}
