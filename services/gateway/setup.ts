// Puts the gateway together from its settings: clients of the services, files, keys, routes, the port.
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { connect } from "#packages/client";
import { HttpServer } from "#packages/http";
import type { Config } from "./config.ts";
import { errorAnswer, notFound } from "./errors.ts";
import { FileStore } from "./files/store.ts";
import { Keys } from "./keys.ts";
import { ServingMetrics } from "./metrics.ts";
import { Models } from "./models.ts";
import { gatewayRoutes } from "./service.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
}

export interface Gateway {
  /** host:port; it listens already. */
  address: string;
  url: string;
  metrics: ServingMetrics;
  /** Takes no more requests; those under way may finish for `ms`. True if all of them did. */
  stop(ms: number): Promise<boolean>;
}

export async function openGateway(config: Config, { now, logger }: Surroundings): Promise<Gateway> {
  const dir = resolve(config.dir);
  const files = new FileStore(now, join(dir, "files"), config.filesBytesMax);
  await files.sweep();
  const { inference, trainer, registry } = config;
  const connection = connect({ endpoints: { inference, trainer, registry } });
  const keys = new Keys(config);
  const metrics = new ServingMetrics(connection.inference, config.metricsModelsMax);
  const models = new Models({ now, ...connection, aliasMs: config.aliasMs });
  const fineTuningDir = join(dir, "fine-tuning");
  const close = async () => {
    connection.close();
    await metrics.close();
  };
  try {
    const server = await HttpServer.start({
      ...config,
      name: "gateway",
      logger,
      routes: gatewayRoutes({ now, config, connection, models, files, keys, metrics, fineTuningDir }),
      check: (headers) => keys.checkOrigin(headers),
      errorAnswer,
      notFound,
    });
    const stop = async (ms: number) => {
      const isWhole = await server.close(ms);
      await close();
      return isWhole;
    };
    return { address: server.address, url: server.url, metrics, stop };
  } catch (thrown) {
    await close();
    throw thrown;
  }
}
