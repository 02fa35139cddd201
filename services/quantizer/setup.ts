// Puts the quantizer together from its settings: database, queue, what a stop left behind, handlers.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { RunQueue } from "#packages/jobs";
import type { ServiceSetup } from "#packages/rpc";
import { sqliteDialect } from "#packages/sql";
import type { Config } from "./config.ts";
import { Operations } from "./operations.ts";
import { engineQuantizer, type Quantize } from "./quantization.ts";
import { operationsService, quantizerService } from "./service.ts";
import { openOperationStore } from "./store.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
  /** For tests that need work which lasts. Default: the engine. */
  quantize?: Quantize;
}

export async function openQuantizer(config: Config, { now, logger, quantize }: Surroundings): Promise<ServiceSetup> {
  const dir = resolve(config.dir);
  mkdirSync(dir, { recursive: true });
  const store = await openOperationStore(sqliteDialect({ path: join(dir, "quantizer.db"), exclusive: true }));
  try {
    const queue = new RunQueue("quantize_model", config.waitingMax);
    const work = quantize ?? engineQuantizer(config.threads);
    const operations = new Operations({ now, logger, store, queue, quantize: work });
    await operations.recover();
    return {
      host: config.host,
      port: config.port,
      drainMs: config.drainMs,
      services: [quantizerService(operations), operationsService(operations)],
      onDrain: () => operations.stop(),
      close: () => store.close(),
    };
  } catch (thrown) {
    await store.close();
    throw thrown;
  }
}
