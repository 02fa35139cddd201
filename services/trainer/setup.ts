// Puts the trainer together from its settings: database, queue, what a stop left behind, handlers.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { RunQueue } from "#packages/jobs";
import type { ServiceSetup } from "#packages/rpc";
import { sqliteDialect } from "#packages/sql";
import type { Config } from "./config.ts";
import { Jobs } from "./jobs.ts";
import { recipeOf } from "./recipe.ts";
import { clientRegister } from "./registration.ts";
import { trainerService } from "./service.ts";
import { openJobStore } from "./store.ts";
import { enginePreviewer, engineQuoter, engineTrainer, type Train } from "./training.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
  /** For tests that need work which lasts. Default: the engine. */
  train?: Train;
}

export async function openTrainer(config: Config, { now, logger, train }: Surroundings): Promise<ServiceSetup> {
  const dir = resolve(config.dir);
  mkdirSync(dir, { recursive: true });
  const store = await openJobStore(sqliteDialect({ path: join(dir, "trainer.db"), exclusive: true }));
  try {
    const jobs = new Jobs({
      now,
      logger,
      store,
      queue: new RunQueue("create_training_job", config.waitingMax),
      train: train ?? engineTrainer({ ...config, register: clientRegister(config.registry) }),
      check: ({ trainingJob }) => void (trainingJob?.spec && recipeOf(trainingJob.spec, config.threads)),
    });
    const engine = { threads: config.threads, device: config.device };
    await jobs.recover();
    return {
      host: config.host,
      port: config.port,
      drainMs: config.drainMs,
      services: [trainerService(jobs, engineQuoter(engine), enginePreviewer(engine))],
      onDrain: () => jobs.stop(),
      close: () => store.close(),
    };
  } catch (thrown) {
    await store.close();
    throw thrown;
  }
}
